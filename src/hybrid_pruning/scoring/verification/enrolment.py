"""Who is enrolled with which recordings, in the forms that corpora come in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_pruning.data.manifest import REQUIRED, Utterance, read_manifest
from hybrid_pruning.data.tables import Text, read_lines, read_rows
from hybrid_pruning.errors import InputError

COLUMNS = ("speaker", "utt_id")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The enrolled speakers.

    Args:
        path: where they were read from.
        speakers: name -> names of recordings, one at least.
        utterances: the recordings themselves, where the file is a manifest.
    """

    path: Path
    speakers: dict[str, list[str]]
    utterances: Sequence[Utterance] = field(default_factory=tuple)


def read_enrolment(path: str | Path) -> Enrolment:
    """Read who is enrolled with which recordings.

    Args:
        path: ASVspoof's `SPEAKER f1,f2,f3`, Kaldi's spk2utt `SPEAKER u1 u2 u3`, or a TSV whose header has speaker and
            utt_id, one recording a row. A manifest brings its recordings along.

    Raises:
        InputError: it cannot be read, has none of the forms, a speaker has no recording or stands in two lines, or
            nobody is enrolled.
    """
    path = Path(path)
    text = read_lines(path)
    header = text.lines[0].split("\t") if text.lines else []
    if set(COLUMNS) <= set(header):
        is_manifest = set(REQUIRED) <= set(header)
        return _gather(path, read_manifest(path) if is_manifest else ())
    speakers: dict[str, list[str]] = {}
    for row, line in enumerate(text.lines):
        speaker, names = _take_apart(text, row, line)
        if speaker in speakers:
            raise InputError(f"{text.where(row)}: speaker '{speaker}' stands twice; put all recordings into one line")
        speakers[speaker] = names
    return _require_some(Enrolment(path, speakers))


def _gather(path: Path, utterances: Sequence[Utterance]) -> Enrolment:
    speakers: dict[str, list[str]] = {}
    rows: Iterable[tuple[int, dict[str, str]]] = read_rows(path, COLUMNS)
    for line, row in rows:
        if not row["speaker"] or not row["utt_id"]:
            raise InputError(f"{path}:{line}: speaker or utt_id is empty")
        speakers.setdefault(row["speaker"], []).append(row["utt_id"])
    return _require_some(Enrolment(path, speakers, utterances))


def _take_apart(text: Text, row: int, line: str) -> tuple[str, list[str]]:
    speaker, *cells = line.split()
    names = [name for cell in cells for name in cell.split(",") if name]
    if not names:
        raise InputError(
            f"{text.where(row)}: speaker '{speaker}' has no recording; expected SPEAKER f1,f2,..., or SPEAKER u1 u2 "
            "..., or a TSV with the columns speaker and utt_id"
        )
    return speaker, names


def _require_some(enrolment: Enrolment) -> Enrolment:
    if not enrolment.speakers:
        raise InputError(f"{enrolment.path}: nobody is enrolled")
    return enrolment
