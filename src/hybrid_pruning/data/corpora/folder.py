"""Any collection of recordings: folders named bonafide and spoof, a table of paths and labels, or Kaldi's lists.

There are no parts: everything goes to one manifest, or with a share for validation to `train` and `dev`, which then
have no speaker in common as far as speakers are known.

Source: kaldi-asr.org/doc/data_prep.html; utt2lab as WeDefense writes it. No command of a wav.scp is ever run.
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path, PurePosixPath

from hybrid_pruning.data.corpora.preparation import DEV, LABELS, TRAIN, Audio, Entry, ListedAudio, Preparation
from hybrid_pruning.data.manifest import TEXT_COLUMNS, UNKNOWN, list_recordings
from hybrid_pruning.data.tables import COMMA, TAB, read_columns, read_lines, read_rows
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

ALL = "all"
LIST, SPEAKERS, KEYS, GENDERS, SEGMENTS = "wav.scp", "utt2spk", "utt2lab", "spk2gender", "segments"
ARCHIVE = re.compile(r".*\.ark:\d+(\[.*\])?", re.ASCII)
CONTENTS = (
    "folders named bonafide and spoof, at any depth, with the recordings below them as SPEAKER/.../FILE or FILE; or "
    "the root is itself a CSV or TSV table with the columns path (below the table's folder), label (bonafide or spoof) "
    f"and, where known, utt_id, {', '.join(TEXT_COLUMNS)}; or a data directory of Kaldi: wav.scp with files (commands "
    "are not run, segments not cut) and, where they are there, utt2spk, utt2lab (bonafide or spoof) and spk2gender"
)


def add_folder(root: Path, preparation: Preparation) -> None:
    """Write all.tsv, or with a share for validation train.tsv and dev.tsv, of a folder or a .csv or .tsv table."""
    folder, warnings = root.parent if root.is_file() else root, preparation.prepared.warnings
    kaldi = (folder / LIST).is_file() and (root.is_dir() or root.name == LIST)
    if kaldi:
        protocol, entries = folder / LIST, list(_read_kaldi(folder))
        audio: Audio = ListedAudio(protocol, [folder, Path.cwd()])
    else:
        protocol, audio = root, Audio(root, [folder])
        entries = list(_read_table(root) if root.is_file() else _find_entries(root, preparation.prepared.hidden))
    if not entries:
        return
    if preparation.dev_share:
        entries = _split(entries, preparation.dev_share, preparation.seed, root)
    preparation.add(protocol, entries, audio, source=folder.absolute().name or UNKNOWN)
    if kaldi and not (folder / KEYS).exists():
        warnings.append(f"{folder}: has no {KEYS}, so that everything is taken as bona fide")
    if preparation.dev_share and all(entry.cells.get("speaker", UNKNOWN) == UNKNOWN for entry in entries):
        warnings.append(f"{root}: no speaker is known, so that train and dev may have speakers in common")


def _read_table(path: Path) -> Iterator[Entry]:
    """Yield the rows of a table; `utt_id`, where it is not given, is the path without its ending."""
    first_line: dict[str, int] = {}
    for line, row in read_rows(path, ("path", "label"), TAB if path.suffix.lower() == ".tsv" else COMMA):
        if row["label"] not in LABELS:
            raise InputError(f"{path}:{line}: label '{row['label']}', expected {' or '.join(LABELS)}")
        cells = {name: text for name, text in row.items() if text}
        file = PurePosixPath(row["path"] or UNKNOWN)
        name = cells.setdefault("utt_id", (file.parent / file.stem).as_posix())
        if first_line.setdefault(name, line) != line:
            raise InputError(f"{path}:{line}: utt_id '{name}' already stands in line {first_line[name]}")
        yield Entry(line, ALL, row["path"], cells)


def _find_entries(root: Path, hidden: list[str]) -> Iterator[Entry]:
    """Yield the recordings below folders named after a label, in order; the folder right below is the speaker."""
    names: dict[str, str] = {}
    for path in map(PurePosixPath, list_recordings(root, hidden)):
        places = [place for place, part in enumerate(path.parts[:-1]) if part in LABELS]
        labels = [path.parts[place] for place in places]
        if not labels:
            continue
        if len(set(labels)) > 1:
            raise InputError(f"{root / path}: lies below bonafide and below spoof; which of them is it?")
        below = path.parts[places[-1] + 1 :]
        speaker = below[0] if len(below) > 1 else UNKNOWN
        cells = {"utt_id": path.with_suffix("").as_posix(), "label": labels[-1], "speaker": speaker}
        if names.setdefault(cells["utt_id"], path.name) != path.name:
            raise InputError(f"{root / path}: differs from {names[cells['utt_id']]} in its ending; rename one")
        yield Entry(len(names), ALL, path.as_posix(), cells)


def _read_kaldi(folder: Path) -> Iterator[Entry]:
    """Yield the lines of wav.scp; without utt2lab everything is bona fide."""
    if (folder / SEGMENTS).exists():
        raise InputError(
            f"{folder / SEGMENTS}: cuts recordings into utterances, which is not done here; write a file for each "
            "utterance (Kaldi's extract-segments), name these in wav.scp and remove segments"
        )
    speakers, labels, genders = (_read_map(folder / name) for name in (SPEAKERS, KEYS, GENDERS))
    text = read_lines(folder / LIST)
    seen: dict[str, int] = {}
    for number, line in zip(text.numbers, text.lines, strict=True):
        name, _, file = line.strip().replace("\t", " ").partition(" ")
        file, where = file.strip(), f"{text.path}:{number}"
        if not file:
            raise InputError(f"{where}: 1 column, expected UTTERANCE FILE")
        if file.startswith("|") or file.endswith("|"):
            raise InputError(f"{where}: '{name}' is a command, which is never run; name a file instead")
        if ARCHIVE.fullmatch(file):
            raise InputError(f"{where}: '{file}' is a place in an archive; name a file of audio instead")
        if seen.setdefault(name, number) != number:
            raise InputError(f"{where}: '{name}' already stands in line {seen[name]}")
        cells = {"utt_id": name, "label": str(Label.BONAFIDE)}
        for key, beside, found in (("speaker", SPEAKERS, speakers), ("label", KEYS, labels)):
            if found is not None and name not in found:
                raise InputError(f"{where}: '{name}' is not in {beside}; add it there")
            cells |= {} if found is None else {key: found[name]}
        if cells["label"] not in LABELS:
            raise InputError(f"{folder / KEYS}: label '{cells['label']}' of '{name}', expected {' or '.join(LABELS)}")
        if gender := (genders or {}).get(cells.get("speaker", "")):
            cells["gender"] = gender
        yield Entry(number, ALL, file, cells)


def _read_map(path: Path) -> dict[str, str] | None:
    """Return first column -> second; None where there is no such file."""
    if not path.exists():
        return None
    found: dict[str, str] = {}
    for line, row in read_columns(path, ("name", "value")):
        if found.setdefault(row["name"], row["value"]) != row["value"]:
            raise InputError(f"{path}:{line}: '{row['name']}' already stands there with '{found[row['name']]}'")
    return found


def _split(entries: Sequence[Entry], dev_share: float, seed: int, root: Path) -> list[Entry]:
    """Deal entries to `train` and `dev`; entries of one speaker or recording stay together.

    Groups are taken in a random order of the seed as long as `dev` has room for them: groups with both labels, with
    bona fide speech alone and with spoofs alone each for themselves, so that both parts get both labels.
    """
    kinds: dict[frozenset[str], list[list[int]]] = {}
    for group in _groups(entries):
        kinds.setdefault(frozenset(entries[index].cells["label"] for index in group), []).append(group)
    order, dev = random.Random(seed), set[int]()
    for kind in sorted(kinds, key=sorted):
        room = dev_share * sum(map(len, kinds[kind]))
        for group in order.sample(kinds[kind], len(kinds[kind])):
            if len(group) <= room:
                dev.update(group)
                room -= len(group)
    dealt = [entry._replace(part=DEV if index in dev else TRAIN) for index, entry in enumerate(entries)]
    found = {(entry.part, entry.cells["label"]) for entry in dealt}
    for part, label in product((TRAIN, DEV), LABELS):
        if (part, label) not in found:
            raise InputError(
                f"{root}: {part} would have no {label} utterance at a share of {dev_share:g} for dev, as speakers and "
                "recordings are not torn apart; give another share, or more speakers"
            )
    return dealt


def _groups(entries: Sequence[Entry]) -> list[list[int]]:
    """Group the indices of entries that share a speaker or a recording, directly or through others."""
    import numpy as np  # here, as the help of `prepare` does not need them
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[tuple[str, str], int] = {}
    pairs = [
        (first.setdefault((kind, name), index), index)
        for index, entry in enumerate(entries)
        for kind in ("speaker", "recording")
        if (name := entry.cells.get(kind, UNKNOWN)) != UNKNOWN
    ]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), edges), shape=(len(entries), len(entries)))
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(connected_components(graph, directed=False)[1].tolist()):
        groups.setdefault(group, []).append(index)
    return list(groups.values())
