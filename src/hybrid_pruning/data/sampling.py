"""What an epoch has, in which order: every utterance once, or as many crops of every speaker; by (seed, epoch)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_pruning.data.batches import by_recording
from hybrid_pruning.data.manifest import Utterance

IntArray = np.ndarray[Any, np.dtype[np.intp]]
Address = tuple[int, ...]
"""(epoch, index), or (epoch, index, turn), of a training example; see `Crops`."""


def every_utterance(utterances: Sequence[Utterance], seed: int, epoch: int) -> list[Address]:
    """Return every utterance once; what shares a recording stays side by side."""
    groups = by_recording(utterances)
    shuffled = np.random.default_rng((seed, epoch)).permutation(len(groups))
    return [(epoch, index) for group in shuffled for index in groups[group]]


def every_speaker(members: Sequence[IntArray], seed: int, epoch: int) -> list[Address]:
    """Return as many crops of every speaker, together as many as there are utterances.

    Where that does not divide evenly, some speakers by chance have one more. A speaker's utterances come again as often
    as each other, or once more, and are cropped anew each time.

    Args:
        members: the indices of each speaker's utterances.
        seed: of the recipe.
        epoch: from 0.
    """
    rng = np.random.default_rng((seed, epoch))
    share, rest = divmod(sum(map(len, members)), len(members))
    crops = np.full(len(members), share)
    crops[rng.permutation(len(members))[:rest]] += 1
    index = np.concatenate([_repeat(own, int(count), rng) for own, count in zip(members, crops, strict=True)])
    turn = np.concatenate([np.arange(count) // len(own) for own, count in zip(members, crops, strict=True)])
    order = rng.permutation(len(index))
    return [(epoch, *pair) for pair in zip(index[order].tolist(), turn[order].tolist(), strict=True)]


def _repeat(items: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Return all items as often as they fit in `count`, and the rest of it by chance."""
    whole, rest = divmod(count, len(items))
    return np.concatenate([np.tile(items, whole), rng.permutation(items)[:rest]])
