"""A corpus below its root -> its manifests, all of them or none, warnings of what is missing or not as released."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.data.manifest import UNKNOWN, Utterance, open_manifest
from hybrid_pruning.data.tables import open_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

TRAIN, DEV, EVAL = "train", "dev", "eval"
WHOLE = "the whole file"
FIRST = 10
LABELS: Mapping[str, Label] = {str(label): label for label in Label}
CELLS = ("speaker", "gender", "codec", "codec_quality", "recording")
NOT_A_NAME = {"", ".", ".."}

Counts = Mapping[str, tuple[int, int]]  # part, or `WHOLE`, -> bona fide and spoofed utterances
Trial = tuple[str, ...]


class Entry(NamedTuple):
    """One line of a protocol: its number, its manifest, its audio file, and cells under `Utterance`'s names."""

    line: int
    part: str
    file: str
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The files written for a corpus, by part: `train`, `dev` for validation, and evaluation sets by their names."""

    manifests: dict[str, Path] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # bona fide and spoofed utterances
    speakers: dict[str, dict[str, int]] = field(default_factory=dict)  # utterances by speaker, for verification
    enrolments: dict[str, Path] = field(default_factory=dict)  # manifests of target speakers, where apart
    trials: dict[str, Path] = field(default_factory=dict)  # key files of trials, by part or name of a list
    notes: list[str] = field(default_factory=list)  # further information, one line each
    warnings: list[str] = field(default_factory=list)  # differences from the official release and missing files
    hidden: list[str] = field(default_factory=list)  # recordings left out, as a name on their path begins with a dot


class Preparation(ExitStack):
    """Manifests being written: they appear together when the block ends well, and not at all otherwise."""

    def __init__(self, out: Path, allow_missing: bool = False, dev_share: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.out, self.allow_missing, self.dev_share, self.seed = out, allow_missing, dev_share, seed
        self.prepared = Prepared()
        self._writers: dict[str, Callable[[Utterance], None]] = {}

    def add(
        self,
        protocol: Path,
        entries: Iterable[Entry],
        audio: "Audio",
        source: str,
        labels: Mapping[str, Label] = LABELS,
        official: Counts | None = None,
    ) -> None:
        """Write a protocol's utterances to the manifests of their parts; `source` is theirs unless an entry has one.

        Other counts than those of the release, `official`, are a warning, since people prepare subsets.
        """
        listed: dict[str, list[int]] = {}
        for line, part, file, cells in entries:
            if cells["label"] not in labels:
                words = list(labels)
                expected = " or ".join(words) if len(words) < 4 else f"{words[0]}, {words[1]}, ... {words[-1]}"
                raise InputError(f"{protocol}:{line}: label '{cells['label']}', expected {expected}")
            label = labels[cells["label"]]
            listed.setdefault(part, [0, 0])[label is Label.SPOOF] += 1
            path = audio.claim(file, line)
            if path is not None:
                known = {name: cells[name] for name in CELLS if name in cells}
                attack = cells.get("attack", UNKNOWN) if label is Label.SPOOF else UNKNOWN
                known |= {"attack": attack, "source": cells.get("source", source)}
                self.put(part, Utterance(cells["utt_id"], Path(path), label, seconds=float("nan"), **known))
        totals = [sum(column) for column in zip(*listed.values(), strict=True)] or [0, 0]
        for part, (bonafide, spoof) in (official or {}).items():
            found = totals if part == WHOLE else listed.get(part, [0, 0])
            if found != [bonafide, spoof]:
                expected = f"expected {bonafide:,} bona fide and {spoof:,} spoofed utterances in {part}, as released"
                self.prepared.warnings.append(f"{protocol}: {expected}, found {found[0]:,} and {found[1]:,}")
        if audio.missing:
            fault = f"{len(audio.missing):,} of {sum(totals):,} audio files are missing in {audio.folders[0]}"
            message = f"{protocol}: {fault}, first {', '.join(list(audio.missing)[:FIRST])}"
            self.leave_out(message, "unpack the audio there, or leave these out with --allow-missing")

    def put(self, part: str, utterance: Utterance) -> None:
        """Write one utterance to the manifest of a part, and count it."""
        if part not in self._writers:
            self.prepared.manifests[part] = self.out / f"{part}.tsv"
            self._writers[part] = self.enter_context(open_manifest(self.prepared.manifests[part]))
        bonafide, spoof = self.prepared.counts.get(part, (0, 0))
        spoofed = utterance.label is Label.SPOOF
        self.prepared.counts[part] = bonafide + (not spoofed), spoof + spoofed
        self._writers[part](utterance)

    def open_trials(self, name: str, file: str, columns: Sequence[str]) -> Callable[[Collection[object]], None]:
        """Return a function that adds a row to a key file of trials, which appears together with the manifests."""
        self.prepared.trials[name] = self.out / file
        return self.enter_context(open_table(self.prepared.trials[name], columns))

    def copy_trials(
        self,
        source: Path,
        trials: Iterable[tuple[Trial, bool]],
        write: Callable[[Trial], None],
        official: Sequence[int],
        unknown: str = "an utterance that is not there",
        advice: str = "unpack the audio, or leave these out with --allow-missing",
    ) -> None:
        """Write the trials of an official list, each given with whether its names are known.

        Other numbers of trials than those of its releases, `official`, are a warning; `unknown` describes an unknown
        name, and `advice` the remedy.
        """
        listed, strangers = 0, list[str]()
        for listed, (cells, known) in enumerate(trials, start=1):  # noqa: B007  the last is the number of all
            if known:
                write(cells)
            else:
                strangers.append(" ".join(cells[:2]))
        if not listed:
            raise InputError(f"{source}: no trials; is the file whole?")
        if strangers:
            named = f"{len(strangers):,} of {listed:,} trials name {unknown}"
            self.leave_out(f"{source}: {named}, first {', '.join(strangers[:FIRST])}", advice)
        if listed not in official:
            expected = " or ".join(f"{count:,}" for count in official)
            self.prepared.warnings.append(f"{source}: expected {expected} trials, as released, found {listed:,}")

    def leave_out(self, message: str, advice: str) -> None:
        """Refuse what is missing, with the advice, or with `allow_missing` warn that it is left out."""
        if not self.allow_missing:
            raise InputError(f"{message}; {advice}")
        self.prepared.warnings.append(f"{message}; left out")


class Audio:
    """The audio files of a protocol: each folder is listed once, the first that has a file counts, each named once."""

    def __init__(self, protocol: Path, folders: Sequence[Path]) -> None:
        self.folders = [str(folder) for folder in folders]
        self.missing: dict[str, int] = {}
        self._protocol = protocol
        self._lines: dict[str, dict[str, int]] = {}  # folder -> file -> the line that names it, 0 before any does

    def claim(self, file: str, line: int) -> str | None:
        """Return the path of a file that a line of the protocol names, or None where it is missing."""
        if "\\" in file or not NOT_A_NAME.isdisjoint(file.split("/")):
            raise InputError(f"{self._protocol}:{line}: '{file}' is no name of a file below {self.folders[0]}")
        subfolder, _, name = file.rpartition("/")
        for folder in self.folders:
            place = f"{folder}/{subfolder}" if subfolder else folder
            lines = self._lines.get(place)
            if lines is None:
                lines = self._lines[place] = dict.fromkeys(list_names(place), 0)
            if name in lines:
                self._note(lines, name, file, line)
                return f"{place}/{name}"
        self._note(self.missing, file, file, line)
        return None

    def _note(self, lines: dict[str, int], name: str, file: str, line: int) -> None:
        """Note the line that names a file; an earlier one may not."""
        if earlier := lines.get(name, 0):
            fault = f"'{file}' already stands in line {earlier}; remove one of the lines"
            raise InputError(f"{self._protocol}:{line}: {fault}")
        lines[name] = line


class ListedAudio(Audio):
    """Audio files that a list names anywhere, by absolute paths or by paths below one of the folders."""

    def claim(self, file: str, line: int) -> str | None:
        """Return the path of a file, or None where it is missing; as `Audio.claim`."""
        self._note(self._lines.setdefault("", {}), file, file, line)
        paths = [os.path.join(folder, file) for folder in self.folders]  # noqa: PTH118
        found = next(filter(os.path.isfile, paths), None)
        if found is None:
            self.missing[file] = line
        return found


def find_file(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the files that is there below `root`."""
    return next((root / name for name in names if (root / name).is_file()), None)


def find_folders(root: Path, patterns: Iterable[str]) -> list[Path]:
    """Return every folder below `root` that fits one of the patterns."""
    found = (sorted(root.glob(pattern)) if "*" in pattern else [root / pattern] for pattern in patterns)
    return [path for paths in found for path in paths if path.is_dir()]


def list_names(folder: str | Path) -> list[str]:
    """Return the names in a folder; none where there is no such folder."""
    try:
        return os.listdir(folder)  # noqa: PTH208  names, not 680,774 paths
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
