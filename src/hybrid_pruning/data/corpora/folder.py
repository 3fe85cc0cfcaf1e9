"""Any collection of recordings: folders named bonafide and spoof, a table of paths and labels, or Kaldi's lists.

There are no parts: everything goes to one manifest, or with a share for validation to `train` and `dev`, which then
have no speaker in common as far as speakers are known.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from hybrid_pruning.data.corpora.kaldi import KEYS, LIST, read_directory
from hybrid_pruning.data.corpora.preparation import DEV, LABELS, TRAIN, Options, Preparation, Prepared, wrong_root
from hybrid_pruning.data.corpora.protocol import Audio, Entry, Files
from hybrid_pruning.data.manifest import TEXT_COLUMNS, UNKNOWN
from hybrid_pruning.data.names import list_recordings
from hybrid_pruning.data.tables import TAB, read_rows
from hybrid_pruning.errors import InputError

ALL = "all"
REQUIRED = ("path", "label")
SHARED = ("speaker", "recording")
CONTENTS = (
    "folders named bonafide and spoof, at any depth, with the recordings below them as SPEAKER/.../FILE or FILE; or "
    "the root is itself a CSV or TSV table with the columns path (below the table's folder), label (bonafide or spoof) "
    f"and, where known, utt_id, {', '.join(TEXT_COLUMNS)}; or a data directory of Kaldi: wav.scp with files (commands "
    "are not run, segments not cut) and, where they are there, utt2spk, utt2lab (bonafide or spoof) and spk2gender"
)


def prepare(root: Path, out: Path, options: Options) -> Prepared:
    """Write all.tsv, or train.tsv and dev.tsv where `options.dev_share` is not 0.

    Args:
        root: a folder, also a data directory of Kaldi, or a table whose name ends in .csv or .tsv.
        out: where the manifests go.
        options: how.

    Raises:
        InputError: nothing is found, a line of the table is malformed, audio is missing, or there are too few speakers
            for the split.
    """
    folder = root.parent if root.is_file() else root
    hidden: list[str] = []
    kaldi = (folder / LIST).is_file() and (root.is_dir() or root.name == LIST)
    audio = Files(folder / LIST, [folder, Path.cwd()]) if kaldi else Audio(root, [folder])
    if kaldi:
        entries = list(read_directory(folder, ALL))
    else:
        entries = list(read_table(root) if root.is_file() else find_recordings(root, hidden))
    if not entries:
        raise wrong_root(root, CONTENTS)
    if options.dev_share:
        entries = split(entries, options.dev_share, options.seed, root)
    with Preparation(out, options) as preparation:
        preparation.prepared.hidden.extend(hidden)
        preparation.add(folder / LIST if kaldi else root, entries, audio, source=folder.absolute().name or UNKNOWN)
        if kaldi and not (folder / KEYS).exists():
            preparation.prepared.warnings.append(f"{folder}: has no {KEYS}, so that everything is taken as bona fide")
        if options.dev_share and all(entry.cells.get("speaker", UNKNOWN) == UNKNOWN for entry in entries):
            preparation.prepared.warnings.append(
                f"{root}: no speaker is known, so that train and dev may have speakers in common"
            )
    return preparation.prepared


def read_table(path: Path) -> Iterator[Entry]:
    """Yield the rows of a table; `utt_id`, where it is not given, is the path without its ending.

    Raises:
        InputError: the file cannot be read, lacks a column, or has an unknown label or an utt_id twice.
    """
    first_line: dict[str, int] = {}
    for line, row in read_rows(path, REQUIRED, TAB if path.suffix.lower() == ".tsv" else ","):
        if row["label"] not in LABELS:
            raise InputError(f"{path}:{line}: label '{row['label']}', expected {' or '.join(LABELS)}")
        cells = {name: text for name, text in row.items() if text}
        file = PurePosixPath(row["path"] or UNKNOWN)
        name = cells.setdefault("utt_id", (file.parent / file.stem).as_posix())
        if first_line.setdefault(name, line) != line:
            raise InputError(f"{path}:{line}: utt_id '{name}' already stands in line {first_line[name]}")
        yield Entry(line, ALL, row["path"], cells)


def find_recordings(root: Path, hidden: list[str] | None = None) -> Iterator[Entry]:
    """Yield the recordings below folders named bonafide and spoof, in the order of their paths; none that are hidden.

    Raises:
        InputError: a recording lies below both, or two differ in nothing but their ending.
    """
    names: dict[str, str] = {}
    for path in map(PurePosixPath, list_recordings(root, hidden)):
        labels = [part for part in path.parts[:-1] if part in LABELS]
        if not labels:
            continue
        if len(set(labels)) > 1:
            raise InputError(f"{root / path}: lies below bonafide and below spoof; which of them is it?")
        cells = {"utt_id": path.with_suffix("").as_posix(), "label": labels[-1], "speaker": _speaker(path)}
        if names.setdefault(cells["utt_id"], path.name) != path.name:
            raise InputError(f"{root / path}: differs from {names[cells['utt_id']]} in its ending; rename one")
        yield Entry(len(names), ALL, path.as_posix(), cells)


def split(entries: Sequence[Entry], dev_share: float, seed: int, root: Path) -> list[Entry]:
    """Deal entries to `train` and `dev`; what shares a speaker or a recording stays together.

    Groups are taken in a random order of the seed as long as `dev` has room for them: groups with both labels, with
    bona fide speech alone and with spoofs alone each for themselves, so that both parts get both labels.

    Args:
        entries: what to split.
        dev_share: fraction of the entries for `dev`.
        seed: of the order.
        root: where they come from, for the message.

    Raises:
        InputError: one of the parts would lack a label.
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
    for part, label in ((part, label) for part in (TRAIN, DEV) for label in LABELS):
        if (part, label) not in found:
            raise InputError(
                f"{root}: {part} would have no {label} utterance at a share of {dev_share:g} for dev, as speakers and "
                "recordings are not torn apart; give another share, or more speakers"
            )
    return dealt


def _groups(entries: Sequence[Entry]) -> list[list[int]]:
    """Group the indices of entries that share a speaker or a recording, directly or through others."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def find_root(key: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    groups: dict[tuple[str, str], list[int]] = {}
    shared = [
        [(kind, name) for kind in SHARED if (name := entry.cells.get(kind, UNKNOWN)) != UNKNOWN] for entry in entries
    ]
    for keys in shared:
        for key in keys[1:]:
            parent[find_root(key)] = find_root(keys[0])
    for index, keys in enumerate(shared):
        groups.setdefault(find_root(keys[0]) if keys else ("entry", str(index)), []).append(index)
    return list(groups.values())


def _speaker(path: PurePosixPath) -> str:
    """Return the folder right below the one that is named after a label."""
    place = max(index for index, part in enumerate(path.parts[:-1]) if part in LABELS)
    return path.parts[place + 1] if place + 2 < len(path.parts) else UNKNOWN
