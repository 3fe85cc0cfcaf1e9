"""A corpus below its root -> its manifests, all of them or none; what is missing or not as released is told."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_pruning.data.corpora.protocol import Audio, Entry
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, open_manifest
from hybrid_pruning.data.tables import open_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

TRAIN, DEV, EVAL = "train", "dev", "eval"
WHOLE = "the whole file"
FIRST = 10
LABELS: Mapping[str, Label] = {str(label): label for label in Label}

Counts = Mapping[str, tuple[int, int]]
"""Part, or `WHOLE`, -> bona fide and spoofed utterances."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to prepare a corpus.

    Args:
        allow_missing: leave out the utterances whose audio is missing, instead of refusing.
        dev_share: fraction of the utterances to set aside for validation, where a corpus comes without parts.
        seed: of that split.
    """

    allow_missing: bool = False
    dev_share: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was written.

    Args:
        manifests: part -> manifest. `train` is for training and `dev` for validation; every other part is an
            evaluation set of that name.
        counts: part -> (bona fide, spoofed) utterances in its manifest.
        speakers: part -> speaker -> utterances, where the corpus is one for speaker verification.
        enrolments: part -> manifest of the utterances that target speakers are known by, where it is one of its own.
        trials: part, or name of a list -> key file of its trials.
        notes: what else is worth telling, one line each.
        warnings: what is missing or differs from the official release, one line each.
        hidden: recordings that were left out because their names, or those of their folders, begin with a dot.
    """

    manifests: dict[str, Path] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    speakers: dict[str, dict[str, int]] = field(default_factory=dict)
    enrolments: dict[str, Path] = field(default_factory=dict)
    trials: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


Prepare = Callable[[Path, Path, Options], Prepared]
"""(root, folder for the manifests, options) -> what was written."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Where a protocol and its audio lie below the root.

    Args:
        part: the manifest its lines go to, where they do not say so themselves.
        files: where the protocol may lie; the first that is there counts.
        audio: folders its audio may lie in, the usual one first; `*` stands for any name.
        counts: what the official release has.
        read: (protocol, part) -> its lines.
    """

    part: str
    files: tuple[str, ...]
    audio: tuple[str, ...]
    counts: Counts
    read: Callable[[Path, str], Iterator[Entry]]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus as it was released.

    Args:
        name: what its manifests say under `source`.
        contents: what the root must contain, for people.
        protocols: its protocols; those that are not there are passed over, as long as one is.
        labels: the protocols' words for bona fide and spoofed.
    """

    name: str
    contents: str
    protocols: tuple[Protocol, ...]
    labels: Mapping[str, Label] = field(default_factory=lambda: LABELS)

    def prepare(self, root: Path, out: Path, options: Options) -> Prepared:
        """Write a manifest for every part of the corpus whose protocol lies below `root`.

        Args:
            root: the folder the corpus was unpacked in.
            out: where PART.tsv goes.
            options: how.

        Raises:
            InputError: no protocol is there, a line of one is malformed, or audio that it names is missing; no
                manifest is written then.
        """
        with Preparation(out, options) as preparation:
            for protocol in self.protocols:
                path = find_file(root, protocol.files)
                if path is not None:
                    audio = Audio(path, find_folders(root, protocol.audio) or [root / protocol.audio[0]])
                    entries = protocol.read(path, protocol.part)
                    preparation.add(path, entries, audio, self.name, self.labels, protocol.counts)
            if not preparation.prepared.manifests:
                raise wrong_root(root, self.contents)
        return preparation.prepared


class Preparation(ExitStack):
    """Manifests being written: they appear together when the block ends well, and not at all otherwise.

    Args:
        out: their folder.
        options: how to prepare.
    """

    def __init__(self, out: Path, options: Options) -> None:
        super().__init__()
        self.out, self.options, self.prepared = out, options, Prepared()
        self._writers: dict[str, Callable[[Utterance], None]] = {}
        self._written: dict[str, list[int]] = {}

    def add(
        self,
        protocol: Path,
        entries: Iterable[Entry],
        audio: Audio,
        source: str,
        labels: Mapping[str, Label] = LABELS,
        official: Counts | None = None,
    ) -> None:
        """Write a protocol's utterances to the manifests of their parts.

        Args:
            protocol: the file the entries stand in.
            entries: its lines.
            audio: the files it may name.
            source: what the manifests say of where the utterances come from, unless an entry says it itself.
            labels: the protocol's words for bona fide and spoofed.
            official: what the official release has; anything else is a warning, since people prepare subsets.

        Raises:
            InputError: a label is unknown, a file is named twice or lies outside, or audio is missing.
        """
        listed: dict[str, list[int]] = {}
        for entry in entries:
            label = _label(entry, labels, protocol)
            listed.setdefault(entry.part, [0, 0])[label is Label.SPOOF] += 1
            path = audio.claim(entry.file, entry.line)
            if path is not None:
                self.put(entry.part, _utterance(entry.cells, path, label, source))
        self._report_counts(protocol, official or {}, listed)
        self._report_missing(protocol, audio, sum(map(sum, listed.values())))
        self.count()

    def put(self, part: str, utterance: Utterance) -> None:
        """Write one utterance to the manifest of a part."""
        self._written.setdefault(part, [0, 0])[utterance.label is Label.SPOOF] += 1
        self._writer(part)(utterance)

    def open_trials(self, name: str, columns: Sequence[str]) -> Callable[[Collection[object]], None]:
        """Return a function that adds a row to NAME.trials, which appears together with the manifests."""
        self.prepared.trials[name] = self.out / f"{name}.trials"
        return self.enter_context(open_table(self.prepared.trials[name], columns))

    def count(self) -> None:
        """Tell how many utterances each part has by now."""
        self.prepared.counts.update({part: (bonafide, spoof) for part, (bonafide, spoof) in self._written.items()})

    def _writer(self, part: str) -> Callable[[Utterance], None]:
        if part not in self._writers:
            self.prepared.manifests[part] = self.out / f"{part}.tsv"
            self._writers[part] = self.enter_context(open_manifest(self.prepared.manifests[part]))
        return self._writers[part]

    def _report_counts(self, protocol: Path, official: Counts, listed: Mapping[str, list[int]]) -> None:
        totals = [sum(column) for column in zip(*listed.values(), strict=True)] or [0, 0]
        for part, (bonafide, spoof) in official.items():
            found = totals if part == WHOLE else listed.get(part, [0, 0])
            if found != [bonafide, spoof]:
                self.prepared.warnings.append(
                    f"{protocol}: expected {bonafide:,} bona fide and {spoof:,} spoofed utterances in {part}, as "
                    f"released, found {found[0]:,} and {found[1]:,}"
                )

    def _report_missing(self, protocol: Path, audio: Audio, listed: int) -> None:
        if not audio.missing:
            return
        first = ", ".join(list(audio.missing)[:FIRST])
        message = (
            f"{protocol}: {len(audio.missing):,} of {listed:,} audio files are missing in {audio.folders[0]}, "
            f"first {first}"
        )
        if not self.options.allow_missing:
            raise InputError(f"{message}; unpack the audio there, or leave these out with --allow-missing")
        self.prepared.warnings.append(f"{message}; left out")


def find_file(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the files that is there below `root`."""
    return next((root / name for name in names if (root / name).is_file()), None)


def find_folders(root: Path, patterns: Iterable[str]) -> list[Path]:
    """Return every folder below `root` that fits one of the patterns."""
    found = (sorted(root.glob(pattern)) if "*" in pattern else [root / pattern] for pattern in patterns)
    return [path for paths in found for path in paths if path.is_dir()]


def wrong_root(root: Path, contents: str) -> InputError:
    """Return the error that says what the root must contain."""
    found = "holds nothing to prepare" if root.exists() else "is not there"
    return InputError(f"{root}: {found}; the root must contain {contents}")


def _label(entry: Entry, labels: Mapping[str, Label], protocol: Path) -> Label:
    text = entry.cells["label"]
    if text not in labels:
        words = list(labels)
        expected = " or ".join(words) if len(words) < 4 else f"{words[0]}, {words[1]}, ... {words[-1]}"
        raise InputError(f"{protocol}:{entry.line}: label '{text}', expected {expected}")
    return labels[text]


def _utterance(cells: Mapping[str, str], path: str, label: Label, source: str) -> Utterance:
    return Utterance(
        utt_id=cells["utt_id"],
        path=Path(path),
        label=label,
        speaker=cells.get("speaker", UNKNOWN),
        gender=cells.get("gender", UNKNOWN),
        attack=cells.get("attack", UNKNOWN) if label is Label.SPOOF else UNKNOWN,
        codec=cells.get("codec", UNKNOWN),
        codec_quality=cells.get("codec_quality", UNKNOWN),
        source=cells.get("source", source),
        recording=cells.get("recording", UNKNOWN),
    )
