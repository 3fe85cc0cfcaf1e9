"""How much of the training data is used: a fraction of it, drawn by the seed, for studies with little data."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from hybrid_pruning.data.batches import by_recording
from hybrid_pruning.data.manifest import UNKNOWN, Utterance
from hybrid_pruning.errors import InputError

Item = TypeVar("Item")
SLACK = 1e-9
"""0.07 x 100 is a little above 7 in floating point, and eight would be one too many."""


def choose_utterances(
    utterances: Sequence[Utterance], class_of: Callable[[Utterance], Hashable], fraction: float, seed: int
) -> list[Utterance]:
    """Return a fraction of each class's utterances, one at least, in their order; less of it is a part of more.

    What shares a recording stays together, as the fakes of a recording are trained on beside it.

    Args:
        utterances: what to choose from.
        class_of: what each is trained to be told as.
        fraction: above 0, at most 1.
        seed: of the choice.
    """
    strata: dict[frozenset[Hashable], list[list[int]]] = {}
    for group in by_recording(utterances):
        strata.setdefault(frozenset(class_of(utterances[index]) for index in group), []).append(group)
    rng = np.random.default_rng(seed)
    kept = {index for groups in strata.values() for group in _take(groups, fraction, rng) for index in group}
    return [utterance for index, utterance in enumerate(utterances) if index in kept]


def choose_speakers(utterances: Sequence[Utterance], fraction: float, seed: int, name: str) -> list[Utterance]:
    """Return all utterances of a fraction of the speakers, in their order; less of it is a part of more.

    Args:
        utterances: what to choose from.
        fraction: above 0, at most 1.
        seed: of the choice.
        name: what the user calls the utterances.

    Raises:
        InputError: an utterance's speaker is not known.
    """
    require_speakers(utterances, name)
    speakers = sorted({utterance.speaker for utterance in utterances})
    kept = set(_take(speakers, fraction, np.random.default_rng(seed)))
    return [utterance for utterance in utterances if utterance.speaker in kept]


def require_speakers(utterances: Iterable[Utterance], name: str) -> None:
    """Require that every utterance's speaker is known.

    Raises:
        InputError: one is not.
    """
    nobody = next((utterance for utterance in utterances if utterance.speaker in (UNKNOWN, "")), None)
    if nobody is not None:
        raise InputError(f"{name}: '{nobody.utt_id}': its speaker is not known; fill in the column speaker")


def _take(items: Sequence[Item], fraction: float, rng: np.random.Generator) -> list[Item]:
    """Return the first items of a random order that does not depend on how many are taken."""
    order = rng.permutation(len(items))
    return [items[place] for place in order[: math.ceil(len(items) * fraction - SLACK)]]
