"""Warnings where an evaluated set overlaps with the training data: in files, their content, ids or speakers."""

import filecmp
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_pruning.data.manifest import UNKNOWN, Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file

MOST_READ = 4000  # files of either set that are compared with each other, evenly spaced where there are more
TAIL = 4096  # bytes at the end of a file that are compared among files of one size, before all of it is
SHOWN = 3
TRAINED_ON = "trained_on_sha256"  # key of a model's provenance: the digest of the manifest that it was trained on


def check_scored(provenance: Mapping[str, Any], manifest: str | Path) -> list[str]:
    """Return warnings about scores on a manifest by a model whose provenance, free-form, names its training data."""
    recipe = provenance.get("recipe")
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    train = data.get("train") if isinstance(data, Mapping) else None
    if not isinstance(train, str):
        return []
    digest = provenance.get(TRAINED_ON)  # by which it is known beside the scored set; older models have none
    places = [Path(train), *([Path(manifest).parent / Path(train).name] if digest else [])]
    try:
        found = next((p for p in places if p.is_file() and digest in (None, digest_file(p))), None)
        return [] if found is None else check_overlap(read_manifest(found), read_manifest(manifest), str(manifest))
    except (InputError, OSError):  # no manifest by now
        return []


def check_overlap(trainset: Sequence[Utterance], other: Sequence[Utterance], name: str) -> list[str]:
    """Return warnings where a set overlaps with the training data: in files, their content, ids or speakers.

    Of large sets, contents are compared for `MOST_READ` files of each alone; all paths, ids and speakers are.
    """
    trained = {os.path.abspath(u.path) for u in trainset}  # noqa: PTH100  several times quicker than Path's
    files, rest = list[Utterance](), list[Utterance]()
    for utterance in other:
        (files if os.path.abspath(utterance.path) in trained else rest).append(utterance)  # noqa: PTH100
    copies = _find_copies(trainset, rest)
    known = {utterance.utt_id for utterance in trainset} - {utterance.utt_id for utterance in copies}
    ids = [utterance for utterance in rest if utterance.utt_id in known]
    unseen = "its figures say little of unseen speech; take them out of one of the two"
    shared = {
        f"of {len(other)} files are training files too": (files, unseen),
        "files are copies of training files under other names": (copies, unseen),
        "ids stand in the training data too, for other files": (ids, "are they the same recordings? If so, part them"),
    }
    found = [
        f"{name}: {len(some)} {words} ({shown([utterance.utt_id for utterance in some])}): {advice}"
        for words, (some, advice) in shared.items()
        if some
    ]
    speakers, heard = ({u.speaker for u in utterances} - {UNKNOWN, ""} for utterances in (trainset, other))
    if both := sorted(speakers & heard):
        fault = f"{len(both)} of its {len(heard)} speakers are heard in training too ({shown(both)})"
        found.append(f"{name}: {fault}: its figures are better than on strangers; split by speaker where you can")
    return found


def shown(names: Sequence[str]) -> str:
    """Return the first of some names, and whether there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _find_copies(trainset: Sequence[Utterance], other: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances whose file has the content of a training file: same size, same end, same bytes."""
    sizes = {utterance.utt_id: _size(utterance.path) for utterance in other}
    wanted = set(sizes.values()) - {None, 0}
    trained = [utterance.path for utterance in trainset if _size(utterance.path) in wanted] if wanted else []
    ends: dict[tuple[int, bytes], Path] = {}
    for path in _spread(trained):
        if (end := _end(path)) is not None:
            ends.setdefault(end, path)
    common = {size for size, _ in ends}
    some = _spread([utterance for utterance in other if sizes[utterance.utt_id] in common])
    twins = [(utterance, ends.get(end) if (end := _end(utterance.path)) else None) for utterance in some]
    return [utterance for utterance, twin in twins if twin and filecmp.cmp(twin, utterance.path, shallow=False)]


def _spread(items: Sequence[Any]) -> list[Any]:
    """Return all items, or `MOST_READ` evenly spaced ones."""
    if len(items) <= MOST_READ:
        return list(items)
    return [items[index * len(items) // MOST_READ] for index in range(MOST_READ)]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # reported when the file is read
        return None


def _end(path: Path) -> tuple[int, bytes] | None:
    """Return a file's size and its last bytes."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(size - TAIL, 0))
            return size, handle.read(TAIL)
    except OSError:
        return None
