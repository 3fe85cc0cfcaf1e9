"""Utterance records and their TSV files: what every stage after `prepare` reads."""

import csv
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, find_danger, has_control_characters

REQUIRED = ("utt_id", "path", "label")
UNKNOWN = "-"
TAB = "\t"


class Label(StrEnum):
    """Human speech or a fake; the strings are those of the corpora's own key files."""

    BONAFIDE = "bonafide"
    SPOOF = "spoof"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and what is known of it; `-` stands for what is not known.

    Args:
        utt_id: unique within its manifest; may have folders, but none that lead elsewhere.
        path: the audio file.
        label: bona fide or spoof.
        speaker: the speaker's name in the corpus.
        gender: as the corpus writes it.
        attack: the spoofing system; `-` for bona fide speech.
        codec: the codec the recording went through.
        codec_quality: its setting, as the corpus writes it.
        source: the data set it was taken from.
        recording: what was recorded; a copy-synthesised fake shares it with the speech it was made from, and what
            shares it is trained on in the same batch and at the same place.
        seconds: its duration in seconds; nan where not known.
    """

    utt_id: str
    path: Path
    label: Label
    speaker: str = UNKNOWN
    gender: str = UNKNOWN
    attack: str = UNKNOWN
    codec: str = UNKNOWN
    codec_quality: str = UNKNOWN
    source: str = UNKNOWN
    recording: str = UNKNOWN
    seconds: float = float("nan")


COLUMNS = tuple(field.name for field in fields(Utterance))
TEXT_COLUMNS = ("speaker", "gender", "attack", "codec", "codec_quality", "source", "recording")


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest; audio paths are relative to the folder the manifest lies in.

    Args:
        path: a TSV file whose header names at least utt_id, path and label; other columns than ours are ignored.

    Raises:
        InputError: the file is missing or empty, a column is missing, a row is malformed, or an utt_id stands twice.
    """
    path = Path(path)
    utterances: list[Utterance] = []
    first_line: dict[str, int] = {}
    for line, row in read_rows(path, REQUIRED):
        utterance = _parse(row, path, line)
        if utterance.utt_id in first_line:
            raise InputError(
                f"{path}:{line}: utt_id '{utterance.utt_id}' already stands in line {first_line[utterance.utt_id]}; "
                "ids must be unique"
            )
        first_line[utterance.utt_id] = line
        utterances.append(utterance)
    if not utterances:
        raise InputError(f"{path}: no utterances below the header")
    return utterances


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically; audio paths below its folder are written relative to it.

    Raises:
        InputError: it cannot be written, or an id or another value could not be read back.
    """
    with open_manifest(path) as write:
        for utterance in utterances:
            write(utterance)


@contextmanager
def open_manifest(path: str | Path) -> Iterator[Callable[[Utterance], None]]:
    """Yield a function that adds an utterance to a new manifest, which is there once the block has ended well.

    Raises:
        InputError: as `write_manifest`.
    """
    here, folder = (
        str(Path.cwd()),
        f"{Path(path).parent.absolute()}/",
    )  # as text: pathlib takes seconds for a large corpus
    with atomic_write(path) as handle:
        writer = csv.writer(handle, delimiter=TAB, lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(COLUMNS)

        def write(utterance: Utterance) -> None:
            cells = _cells(utterance, here, folder)
            _require_plain(COLUMNS, cells, utterance.utt_id, str(path))
            writer.writerow(cells)

        yield write


def read_rows(path: Path, required: tuple[str, ...], delimiter: str = TAB) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a table whose header holds the required columns.

    Args:
        path: a TSV file, or with the delimiter "," a CSV file.
        required: the columns that must be there.
        delimiter: what separates the cells; between tabs nothing is quoted.

    Raises:
        InputError: the file is missing, not UTF-8 text, lacks a column or has it twice, or has a row of another length.
    """
    try:
        handle = path.open(encoding="utf-8-sig", newline="")  # Windows' editors begin UTF-8 with a mark
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
    separated = f"separated by {'tabs' if delimiter == TAB else repr(delimiter)}"
    with handle:
        quoting = csv.QUOTE_NONE if delimiter == TAB else csv.QUOTE_MINIMAL
        reader = csv.reader(handle, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
        try:
            header = next(reader, [])
            missing = [column for column in required if column not in header]
            if missing:
                raise InputError(
                    f"{path}:1: column '{missing[0]}' is missing; the header needs "
                    f"{', '.join(required)}, {separated}, and has: {', '.join(header) or 'nothing'}"
                )
            twice = [column for column in required if header.count(column) > 1]
            if twice:
                raise InputError(f"{path}:1: column '{twice[0]}' stands twice in the header; leave one")
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}:{reader.line_num}: {len(cells)} columns, expected {len(header)} "
                        f"as in the header, {separated}"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise InputError(f"{path}: is no table of UTF-8 text ({error}); save it as UTF-8, with tabs") from error


def _parse(row: dict[str, str], path: Path, line: int) -> Utterance:
    for column in REQUIRED:
        if not row[column]:
            raise InputError(f"{path}:{line}: column '{column}' is empty")
    _require_plain(row.keys(), row.values(), row["utt_id"], f"{path}:{line}")
    if row["label"] not in list(Label):
        raise InputError(f"{path}:{line}: label '{row['label']}', expected {' or '.join(Label)}")
    known = {name: row[name] for name in TEXT_COLUMNS if row.get(name)}
    return Utterance(
        utt_id=row["utt_id"],
        path=path.parent / row["path"],
        label=Label(row["label"]),
        seconds=_seconds(row.get("seconds", ""), path, line),
        **known,
    )


def _require_plain(columns: Iterable[str], cells: Collection[str], utt_id: str, where: str) -> None:
    """Refuse what would break the table it is written to or the terminal it is shown on, or leave a folder."""
    if has_control_characters("".join(cells)):
        column, cell = next(pair for pair in zip(columns, cells, strict=True) if has_control_characters(pair[1]))
        raise InputError(f"{where}: column '{column}' holds control characters: {cell!r}; rename it")
    danger = find_danger(utt_id)
    if danger is not None:
        raise InputError(f"{where}: utt_id '{utt_id}' {danger}; ids may become names of files, choose plain ones")


def _seconds(text: str, path: Path, line: int) -> float:
    if text in ("", UNKNOWN):
        return float("nan")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise InputError(f"{path}:{line}: seconds '{text}', expected a duration in seconds or '{UNKNOWN}'")
    return seconds


def _cells(utterance: Utterance, here: str, folder: str) -> list[str]:
    return [
        utterance.utt_id,
        os.path.join(here, utterance.path).removeprefix(folder),  # noqa: PTH118
        utterance.label,
        *[getattr(utterance, column) for column in TEXT_COLUMNS],
        UNKNOWN if math.isnan(utterance.seconds) else f"{utterance.seconds:.3f}",
    ]
