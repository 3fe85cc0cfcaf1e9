"""AS-norm: each score as far as it stands out among those that both its sides have with the closest cohort speakers.

Source: Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition", 2017, adaptive symmetric
normalisation with each side's own closest speakers; there the deviation is not defined, here it is that of the N
speakers themselves (divided by N).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_pruning.console import progress_bar
from hybrid_pruning.data.manifest import UNKNOWN
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.cohort import Cohort, Vectors
from hybrid_pruning.scoring.verification.cosine import Voices, average_directions, to_directions
from hybrid_pruning.scoring.verification.embeddings import Embeddings

CELLS = 1 << 22
"""Scores against the cohort at a time: 16 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Impostors:
    """What each voice scores with the closest speakers of the cohort.

    Args:
        mean: [V].
        deviation: [V], above 0.
    """

    mean: FloatArray
    deviation: FloatArray

    def normalise(self, scores: FloatArray, pairs: IntArray) -> FloatArray:
        """Return [T] the AS-norm of each trial's cosine: the mean of what the two sides make of it.

        Args:
            scores: [T].
            pairs: [T, 2] the places of what each trial compares.
        """
        sides = [(scores - self.mean[side]) / self.deviation[side] for side in pairs.T]
        return (sides[0] + sides[1]) / 2


def find_impostors(directions: Vectors, names: Sequence[str], cohort: Cohort) -> Impostors:
    """Compare voices with the cohort.

    Args:
        directions: [V, E] the voices', centred with the cohort's mean and of unit length.
        names: [V] the voices', for the message.
        cohort: none of its speakers should be among them.

    Raises:
        InputError: the closest speakers are all equally close to a voice.
    """
    mean, deviation = np.empty(len(directions)), np.empty(len(directions))
    rows = max(1, CELLS // len(cohort.speakers))
    with progress_bar() as bar:
        task = bar.add_task("comparing with the cohort, voices", total=len(directions))
        for start in range(0, len(directions), rows):
            block = directions[start : start + rows] @ cohort.speakers.T
            closest = np.partition(block, -cohort.top_n, axis=1)[:, -cohort.top_n :].astype(np.float64)
            mean[start : start + rows], deviation[start : start + rows] = closest.mean(1), closest.std(1)
            bar.update(task, advance=len(block))
    flat = np.flatnonzero(~(deviation > 0))
    if flat.size:
        raise InputError(
            f"'{names[flat[0]]}': the {cohort.top_n} closest speakers of {cohort.source} are all equally close; is "
            "the cohort one recording under many names?"
        )
    return Impostors(mean, deviation)


def build_cohort(embeddings: Embeddings, speakers: Iterable[str], top_n: int, source: str) -> Cohort:
    """Return the cohort of a training manifest: the mean of all its embeddings, and its speakers' voices.

    Args:
        embeddings: of its utterances.
        speakers: [N] who speaks in each.
        top_n: how many of the speakers AS-norm is to take.
        source: the manifest.

    Raises:
        InputError: a speaker is not known, there are fewer of them than `top_n`, or a voice has no direction.
    """
    members: dict[str, list[int]] = {}
    for place, speaker in enumerate(speakers):
        members.setdefault(speaker, []).append(place)
    if UNKNOWN in members:
        raise InputError(
            f"{source}: '{embeddings.ids[members[UNKNOWN][0]]}' has no speaker; a cohort needs the column 'speaker'"
        )
    mean = embeddings.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    directions = to_directions(embeddings.vectors, embeddings.ids, mean)
    return Cohort(mean, average_directions(directions, Voices.of(list(members.values()), list(members))), top_n, source)
