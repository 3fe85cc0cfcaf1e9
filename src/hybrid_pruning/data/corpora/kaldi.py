"""Kaldi's data directories: wav.scp and, as far as they are beside it, utt2spk, utt2lab and spk2gender.

Source: kaldi-asr.org/doc/data_prep.html; utt2lab as WeDefense writes it. No command of a wav.scp is ever run.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import LABELS
from hybrid_pruning.data.corpora.protocol import Entry
from hybrid_pruning.data.tables import read_columns, read_lines
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

LIST, SPEAKERS, KEYS, GENDERS, SEGMENTS = "wav.scp", "utt2spk", "utt2lab", "spk2gender", "segments"
ARCHIVE = re.compile(r".*\.ark:\d+(\[.*\])?", re.ASCII)


def read_directory(folder: Path, part: str) -> Iterator[Entry]:
    """Yield the lines of wav.scp; without utt2lab everything is bona fide.

    Raises:
        InputError: a file cannot be read, a line is a command or names an archive, an utterance stands twice or lacks
            a speaker or label in its list, or the utterances are segments of recordings.
    """
    if (folder / SEGMENTS).exists():
        raise InputError(
            f"{folder / SEGMENTS}: cuts recordings into utterances, which is not done here; write a file for each "
            "utterance (Kaldi's extract-segments), name these in wav.scp and remove segments"
        )
    speakers, labels, genders = (_read_map(folder / name) for name in (SPEAKERS, KEYS, GENDERS))
    text = read_lines(folder / LIST)
    seen: dict[str, int] = {}
    for row, line in enumerate(text.lines):
        name, _, file = line.strip().replace("\t", " ").partition(" ")
        file = file.strip()
        if not file:
            raise InputError(f"{text.where(row)}: 1 column, expected UTTERANCE FILE")
        if file.startswith("|") or file.endswith("|"):
            raise InputError(f"{text.where(row)}: '{name}' is a command, which is never run; name a file instead")
        if ARCHIVE.fullmatch(file):
            raise InputError(f"{text.where(row)}: '{file}' is a place in an archive; name a file of audio instead")
        if seen.setdefault(name, row) != row:
            raise InputError(f"{text.where(row)}: '{name}' already stands in line {text.numbers[seen[name]]}")
        cells = {"utt_id": name, "label": str(Label.BONAFIDE)}
        for key, beside, found in (("speaker", SPEAKERS, speakers), ("label", KEYS, labels)):
            if found is not None and name not in found:
                raise InputError(f"{text.where(row)}: '{name}' is not in {beside}; add it there")
            cells |= {} if found is None else {key: found[name]}
        if cells["label"] not in LABELS:
            raise InputError(f"{folder / KEYS}: label '{cells['label']}' of '{name}', expected {' or '.join(LABELS)}")
        if gender := (genders or {}).get(cells.get("speaker", "")):
            cells["gender"] = gender
        yield Entry(text.numbers[row], part, file, cells)


def _read_map(path: Path) -> dict[str, str] | None:
    """Return first column -> second; None where there is no such file."""
    if not path.exists():
        return None
    found: dict[str, str] = {}
    for line, row in read_columns(path, ("name", "value")):
        if found.setdefault(row["name"], row["value"]) != row["value"]:
            raise InputError(f"{path}:{line}: '{row['name']}' already stands there with '{found[row['name']]}'")
    return found
