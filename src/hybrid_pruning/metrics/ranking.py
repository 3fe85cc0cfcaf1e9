"""Trials in the order of their scores, and the counts of each class that a threshold rejects, under any weights."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LARGEST_SCORE = 1e30
"""Scores lie within +- this: sums and squares of such are numbers still."""


class Ranking:
    """Trials of several classes in ascending order of score; among tied scores the classes go in the order given.

    Neighbours of one class are taken together as a run: only how many trials a run holds can matter to a metric of
    ranks. So trials may be given weights again and again (the draws of a resample) without being sorted again. The
    positive class comes first.
    """

    def __init__(self, *classes: FloatArray) -> None:
        pooled = np.concatenate(classes)
        self.order: IntArray = np.argsort(pooled, kind="stable")
        """[N] the place of each trial, lowest first, in the classes put one after another."""
        self.threshold: FloatArray = pooled[self.order]
        self.classes = len(classes)
        ranked = np.repeat(np.arange(len(classes), dtype=np.int8), [scores.size for scores in classes])[self.order]
        starts = np.flatnonzero(np.diff(ranked, prepend=-1))
        self.owner: IntArray = ranked[starts].astype(np.int64)
        """[R] the class of each run."""
        self._ends = np.append(starts[1:], self.order.size) - 1
        self._owned = [self.owner == index for index in range(self.classes - 1)]

    def count(self, weights: npt.NDArray[np.integer] | None = None) -> "Steps":
        """Return the number of trials that every threshold rejects, each counting [N] times, lowest score first."""
        below = np.arange(1, self.order.size + 1) if weights is None else np.cumsum(weights, dtype=np.int64)
        points = np.zeros(self._ends.size + 1, dtype=np.int64)
        below.take(self._ends, out=points[1:])
        sizes = np.diff(points)
        rejected = np.zeros((self.classes, points.size), dtype=np.int64)
        rejected[-1] = points
        for index, owned in enumerate(self._owned):
            np.cumsum(sizes * owned, out=rejected[index, 1:])
            rejected[-1] -= rejected[index]
        return Steps(self.owner, rejected, points)


def rank(**classes: npt.ArrayLike) -> Ranking:
    """Rank the scores of named classes, the positive class first; ValueError where they cannot be measured."""
    return Ranking(*(checked(scores, name) for name, scores in classes.items()))


@dataclass(frozen=True, eq=False)
class Steps:
    """Counts while the threshold climbs over runs of trials; within a run every trial is a step of its own.

    Point p, from 0 (accept all) to the number of trials (reject all), rejects the p lowest. `owner` [R] is the class of
    each run, 0 the positive one; `rejected` [classes, R+1] and `points` [R+1] count the trials below each run, and in
    all.
    """

    owner: IntArray
    rejected: IntArray
    points: IntArray

    @cached_property
    def corners(self) -> IntArray:
        """[classes, K] trials below every run of positives, below all and in all: no cost is smallest elsewhere.

        Between two of them stand positives, then others: rejecting the first only costs, the others only pay.
        """
        ends = np.append(self.owner == 0, True)
        ends[0] = True
        return self.rejected[:, ends]

    def rates(self, counts: IntArray) -> FloatArray:
        """Return the fraction of positives rejected and of every other class accepted, [classes, M] like the counts."""
        total = self.rejected[:, -1:]
        accepted = (total - counts) / total
        accepted[0] = counts[0] / total[0]
        return accepted

    def counts_at(self, points: IntArray) -> IntArray:
        """Return the trials [classes, M] rejected at any points [M]."""
        run = np.searchsorted(self.points[:-1], points, side="right") - 1
        return self.counts_within(run, points - self.points[run])

    def counts_within(self, run: IntArray, steps: IntArray) -> IntArray:
        """Return the trials [classes, M] rejected some steps [M] into the runs [M]."""
        counts = self.rejected[:, run]
        counts[self.owner[run], np.arange(run.size)] += steps
        return counts


def checked(scores: npt.ArrayLike, name: str) -> FloatArray:
    """Return the scores of a class as an array; ValueError where they cannot be measured."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} scores: shape {array.shape}, expected one dimension")
    if not array.size:
        raise ValueError(f"{name} scores: none given, expected at least one of every class")
    bad = np.flatnonzero(~(np.abs(array) <= LARGEST_SCORE))
    if bad.size:
        raise ValueError(
            f"{name} scores: {bad.size} of {array.size} are NaN or infinite, or beyond +-{LARGEST_SCORE:g}, "
            f"the first at index {bad[0]}"
        )
    return array
