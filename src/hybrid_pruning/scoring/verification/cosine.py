"""Embeddings -> directions of unit length, their means, and the cosines between them; memory does not grow with trials.

A voice is what a trial compares: one recording, or a speaker enrolled with several. The voice of several recordings is
the mean of their centred embeddings, each of unit length before, and is of unit length itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.cohort import Vectors

BLOCK = 1 << 14
"""Trials at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Voices:
    """What trials compare, and which recordings make each of them.

    Args:
        names: [V] of recordings or enrolled speakers.
        places: [M] places of recordings, voice after voice; one that stands twice counts twice.
        owner: [M] the voice that each of them belongs to, ascending; every voice has one at least.
    """

    names: list[str]
    places: IntArray
    owner: IntArray

    @classmethod
    def of(cls, members: Sequence[Sequence[int]], names: Sequence[str]) -> Self:
        """Return them from the places of each one's recordings."""
        counts = [len(places) for places in members]
        places = np.array([place for places in members for place in places], dtype=np.int64)
        return cls(list(names), places, np.repeat(np.arange(len(members)), counts))

    def total(self, values: FloatArray) -> FloatArray:
        """Return [V] the sum of a value [N] of recordings over each voice's."""
        sums: FloatArray = np.bincount(self.owner, values[self.places], minlength=len(self.names)).astype(np.float64)
        return sums

    def average(self, values: FloatArray) -> FloatArray:
        """Return [V] the mean of a value [N] of recordings over each voice's."""
        return self.total(values) / np.bincount(self.owner, minlength=len(self.names))


def to_directions(vectors: Vectors, names: Sequence[str], mean: Vectors | None = None) -> Vectors:
    """Return embeddings centred and of unit length.

    Args:
        vectors: [N, E].
        names: [N] what they are of, for the message.
        mean: [E], subtracted where it is given.

    Raises:
        InputError: an embedding is not finite, or is the mean itself, so that it has no direction.
    """
    centred = vectors if mean is None else vectors - mean
    return _of_unit_length(centred, names)


def average_directions(directions: Vectors, voices: Voices) -> Vectors:
    """Return [V, E] the directions of voices.

    Args:
        directions: [N, E] of the recordings.
        voices: which recordings make each of them.

    Raises:
        InputError: the directions of a voice's recordings cancel out.
    """
    if len(voices.names) == len(voices.places):
        return directions[voices.places]
    sums = np.zeros((len(voices.names), directions.shape[1]), dtype=np.float32)
    np.add.at(sums, voices.owner, directions[voices.places])
    return _of_unit_length(sums, voices.names)


def score_cosines(directions: Vectors | FloatArray, pairs: IntArray) -> FloatArray:
    """Return [T] the cosine of each trial.

    Args:
        directions: [V, E] of unit length.
        pairs: [T, 2] the places of what each trial compares.
    """
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        enrol, test = pairs[start : start + BLOCK].T
        scores[start : start + BLOCK] = np.einsum("te,te->t", directions[enrol], directions[test])
    return scores


def _of_unit_length(vectors: Vectors, names: Sequence[str]) -> Vectors:
    lengths = np.sqrt(np.einsum("ve,ve->v", vectors, vectors))
    bad = np.flatnonzero(~(lengths > 0) | ~np.isfinite(lengths))
    if bad.size:
        more = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
        raise InputError(
            f"'{names[bad[0]]}'{more}: its embedding less the mean has no direction, as it is 0 or not finite; has the "
            "training diverged, or is it compared with the mean of itself?"
        )
    unit: Vectors = vectors / lengths[:, None]
    return unit
