"""Utterance records and their TSV files: the input of every stage after `prepare`."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from hybrid_pruning.data.tables import open_table, read_rows
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import find_danger
from hybrid_pruning.tasks import Label

REQUIRED = ("utt_id", "path", "label")
UNKNOWN = "-"
SUFFIXES = (
    *(".wav", ".wave", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"),
    *(".sph", ".nist", ".voc", ".mp3", ".mp2", ".mpga", ".ogg", ".oga", ".opus", ".spx", ".m4a"),
    *(".m4b", ".aac", ".adts", ".ac3", ".eac3", ".dts", ".amr", ".awb", ".3gp", ".3gpp", ".3g2"),
    *(".gsm", ".g722", ".wma", ".asf", ".wv", ".tta", ".ape", ".tak", ".mpc", ".shn", ".mka"),
    *(".mkv", ".webm", ".mp4", ".m4v", ".mov", ".avi", ".wmv"),
)
"""Of audio files, and of films that hold some: what is looked for in folders. The content of a file says its format."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its metadata; `-` stands for an unknown value.

    Utterances that share a `recording`, as a copy-synthesised fake and the speech it was made from, are trained on in
    the same batch and at the same place.
    """

    utt_id: str  # unique within its manifest; may have folders, but none that lead elsewhere
    path: Path
    label: Label
    speaker: str = UNKNOWN
    gender: str = UNKNOWN
    attack: str = UNKNOWN  # the spoofing system
    codec: str = UNKNOWN  # that the recording went through
    codec_quality: str = UNKNOWN  # as the corpus writes it
    source: str = UNKNOWN  # the data set it was taken from
    recording: str = UNKNOWN
    seconds: float = float("nan")  # nan where not known
    corpus: str = UNKNOWN  # of several that are trained or validated on; a column only where it is known


CORPUS = "corpus"
COLUMNS = tuple(field.name for field in fields(Utterance) if field.name != CORPUS)
TEXT_COLUMNS = COLUMNS[len(REQUIRED) : -1]


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest, a TSV with at least utt_id, path and label; audio paths are relative to its folder."""
    path = Path(path)
    utterances: list[Utterance] = []
    first_line: dict[str, int] = {}
    for line, row in read_rows(path, REQUIRED):
        utterance = _parse(row, path, line)
        if (first := first_line.setdefault(utterance.utt_id, line)) != line:
            fault = f"utt_id '{utterance.utt_id}' already stands in line {first}; ids must be unique"
            raise InputError(f"{path}:{line}: {fault}")
        utterances.append(utterance)
    if not utterances:
        raise InputError(f"{path}: no utterances below the header")
    return utterances


def qualify(utterance: Utterance, corpus: str) -> Utterance:
    """Return an utterance as one of several corpora, its id, speaker and recording as `CORPUS/NAME`; `""` is none."""
    if not corpus:
        return utterance

    def own(name: str) -> str:
        return name if name in (UNKNOWN, "") else f"{corpus}/{name}"

    utt_id, speaker, recording = map(own, (utterance.utt_id, utterance.speaker, utterance.recording))
    return replace(utterance, utt_id=utt_id, speaker=speaker, recording=recording, corpus=corpus)


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically; audio paths below its folder are written relative to it."""
    utterances = [*utterances]
    with open_manifest(path, any(utterance.corpus != UNKNOWN for utterance in utterances)) as write:
        for utterance in utterances:
            write(utterance)


@contextmanager
def open_manifest(path: str | Path, corpora: bool = False) -> Iterator[Callable[[Utterance], None]]:
    """Yield a function that adds an utterance to a new manifest, which is there once the block has ended well."""
    here, folder = str(Path.cwd()), f"{Path(path).parent.absolute()}/"  # as text: pathlib takes seconds for a corpus
    with open_table(path, (*COLUMNS, CORPUS) if corpora else COLUMNS) as write_row:

        def write(utterance: Utterance) -> None:
            _require_safe(utterance.utt_id, str(path))
            file = os.path.join(here, utterance.path).removeprefix(folder)  # noqa: PTH118
            texts = [getattr(utterance, column) for column in TEXT_COLUMNS]
            seconds = UNKNOWN if math.isnan(utterance.seconds) else f"{utterance.seconds:.3f}"
            last = (utterance.corpus,) if corpora else ()
            write_row((utterance.utt_id, file, utterance.label, *texts, seconds, *last))

        yield write


def _parse(row: dict[str, str], path: Path, line: int) -> Utterance:
    for column in REQUIRED:
        if not row[column]:
            raise InputError(f"{path}:{line}: column '{column}' is empty")
    _require_safe(row["utt_id"], f"{path}:{line}")
    if row["label"] not in list(Label):
        raise InputError(f"{path}:{line}: label '{row['label']}', expected {' or '.join(Label)}")
    text, seconds = row.get("seconds", ""), float("nan")
    if text not in ("", UNKNOWN):
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < math.inf:
            raise InputError(f"{path}:{line}: seconds '{text}', expected a duration in seconds or '{UNKNOWN}'")
    known = {name: row[name] for name in (*TEXT_COLUMNS, CORPUS) if row.get(name)}
    return Utterance(row["utt_id"], path.parent / row["path"], Label(row["label"]), seconds=seconds, **known)


def _require_safe(utt_id: str, where: str) -> None:
    """Refuse a name that would leave the folder of a file named after it."""
    if danger := find_danger(utt_id):
        raise InputError(f"{where}: utt_id '{utt_id}' {danger}; ids may become names of files, choose plain ones")


def without_suffix(name: str) -> str:
    """Return a name without the suffix of an audio file, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def list_recordings(root: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Yield the paths of all recordings below a folder, relative to it, with `/`, folder by folder.

    Links are followed, but not in circles. Names that begin with a dot (as the `._a.wav` of macOS), and all below such
    a folder or `__MACOSX`, are left out and added to `hidden`.
    """
    start = len(os.fspath(root).rstrip(os.sep)) + 1
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not _leads_back(place, name))
        below = place[start:].replace(os.sep, "/")
        prefix = f"{below}/" if below else ""
        secret = any(part.startswith(".") or part == "__MACOSX" for part in below.split("/"))
        for name in sorted(files):
            if not name.lower().endswith(SUFFIXES):
                continue
            if secret or name.startswith("."):
                if hidden is not None:
                    hidden.append(os.path.join(place, name))  # noqa: PTH118
            else:
                yield prefix + name


def _leads_back(place: str, name: str) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    path = os.path.join(place, name)  # noqa: PTH118  of 150,000 folders, and Path's takes as long as reading them
    return os.path.islink(path) and Path(place).resolve().is_relative_to(Path(path).resolve())  # noqa: PTH114


def hidden_line(hidden: Sequence[str]) -> list[str]:
    """Return a line about the hidden recordings that are left out, or nothing."""
    found = sorted(set(hidden))
    return [f"left out {len(found):,} hidden files, such as {found[0]}"] if found else []
