"""Confidence intervals by resampling: of speakers where they are known, of trials where they are not.

A round draws as many speakers as there are, with replacement, and counts each trial as often as its speaker was drawn.
Trials of one speaker resemble each other: drawn as if they were independent, they give intervals that are too narrow.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, the percentile interval; Bolle et al., "Error
analysis of pattern recognition systems: the subsets bootstrap", 2004, whole persons; Owen, "The pigeonhole bootstrap",
2007, trials of two speakers.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybrid_pruning.console import progress_bar
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics.measures import Measures, Names, Sample
from hybrid_pruning.metrics.rates import FloatArray, IntArray

PERCENTILES = (2.5, 97.5)
ROUNDS = 1000
FEWEST_ROUNDS = 40  # with fewer, less than one round lies outside either end of the interval
MOST_ROUNDS = 100_000  # by then the ends differ by less than a hundredth of the interval from one seed to another
MOST_THREADS = 8  # each holds several arrays of one value a trial

Scores = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle 95% of the rounds."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The middle 95% of one system's metric less another's, and the share of rounds in which the first's is smaller."""

    low: float
    high: float
    better: float


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """The units drawn in a round.

    Args:
        unit: [N] the unit that each trial is drawn with: a speaker, a pair of speakers, or the trial itself.
        draw: random generator -> [units] the number of draws of each.
        present: [classes, units] whether a unit has trials of a class.
        drawn: "speakers" or "trials", and
        count: their number.
    """

    unit: IntArray
    draw: Callable[[np.random.Generator], IntArray]
    present: npt.NDArray[np.bool_]
    drawn: str
    count: int

    def weights(self, seed: int, index: int) -> IntArray:
        """Return [units] the number of draws of each in a round, drawn again where a class is missed altogether."""
        generator = np.random.default_rng((seed, index))
        weights = self.draw(generator)
        while not (self.present @ weights).all():
            weights = self.draw(generator)
        return weights


def resample_speakers(classes: Names, *sides: Names) -> Resampling:
    """Draw speakers, each with all trials of every class; [N] speakers of one side, or of two in verification.

    A verification trial of two speakers counts the product of their draws: every copy of the one meets every copy of
    the other. A trial of one speaker counts that speaker's draws: copies are different speakers in the resample.
    """
    speakers = np.unique(np.concatenate(sides), return_inverse=True)[1].reshape(len(sides), -1)
    count = int(speakers.max()) + 1
    low, high = speakers.min(axis=0), speakers.max(axis=0)
    pairs, unit = np.unique(low * count + high, return_inverse=True)
    first, second = np.divmod(pairs, count)
    kinds, kind = np.unique(classes, return_inverse=True)
    present = np.zeros((kinds.size, pairs.size), dtype=np.bool_)
    present[kind, unit] = True

    def draw(generator: np.random.Generator) -> IntArray:
        weights = _draw(generator, count)
        return np.where(first == second, weights[first], weights[first] * weights[second])

    return Resampling(unit, draw, present, "speakers", count)


def resample_trials(classes: Names) -> Resampling:
    """Draw trials, as many of each class [N] as there are."""
    sizes = np.unique(classes, return_counts=True)[1]
    unit = np.empty(classes.size, dtype=np.int64)
    unit[np.argsort(classes, kind="stable")] = np.arange(classes.size)  # class after class

    def draw(generator: np.random.Generator) -> IntArray:
        return np.concatenate([_draw(generator, size) for size in sizes])

    return Resampling(unit, draw, np.empty((0, classes.size), dtype=np.bool_), "trials", classes.size)


def _draw(generator: np.random.Generator, count: int) -> IntArray:
    """Draw `count` of as many, with replacement, and return the number of draws of each."""
    return np.bincount(generator.integers(count, size=count), minlength=count)


def check_rounds(rounds: int) -> None:
    """Require a number of rounds that intervals can be made of."""
    if not FEWEST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise InputError(
            f"bootstrap: {rounds} rounds, expected at least {FEWEST_ROUNDS}, so that one lies outside either end of a "
            f"95% interval, and at most {MOST_ROUNDS:,}; {ROUNDS} are usual"
        )


def intervals(
    measures: Measures,
    classes: Names,
    scores: Scores,
    resampling: Resampling,
    rounds: int = ROUNDS,
    seed: int = 0,
    against: Scores | None = None,
) -> tuple[dict[str, Interval], dict[str, Difference], dict[str, FloatArray]]:
    """Return the 95% percentile interval of every metric, of its difference from another system's, and its values.

    Scores are columns by name, [N] each like the classes; values are [rounds]. Draws depend on the seed, not on scores
    or processors: another system of the same trials has the same.
    """
    check_rounds(rounds)
    samples = [Sample(columns, classes, resampling.unit) for columns in (scores, *([against] if against else []))]
    for sample in samples:
        sample.measure(measures)  # ranks the trials before the threads share them

    def measure(index: int) -> list[list[float]]:
        weights = resampling.weights(seed, index)
        return [list(sample.measure(measures, weights).values()) for sample in samples]

    values = np.empty((rounds, len(samples), len(measures)))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as threads, progress_bar() as bar:
        try:
            found = bar.track(threads.map(measure, range(rounds)), rounds, description="bootstrap")
            for index, figures in enumerate(found):
                values[index] = figures
        finally:
            threads.shutdown(cancel_futures=True)  # after Ctrl-C
    spans, differences, drawn = {}, {}, {}
    for name, (ours, *others) in zip(measures, values.transpose(2, 1, 0), strict=True):
        spans[name], drawn[name] = over_replicas(ours[None]), ours
        for theirs in others:
            low, high = np.percentile(ours - theirs, PERCENTILES).tolist()
            differences[name] = Difference(low, high, float(np.mean(ours < theirs)))
    return spans, differences, drawn


def over_replicas(values: FloatArray, seed: int = 0) -> Interval:
    """Return the 95% interval of the mean over replicas of a training, which differ in their seeds alone.

    Each round draws replicas, one fewer than there are, so that their mean has the variance of a mean over all of them;
    the round's speakers are the same for all. Of a single replica it is the interval over speakers.

    Values are [replicas, rounds] of a metric, or its difference from another system's replica, in the same resamples.

    Source: McCarthy & Snowden, "The bootstrap and finite population sampling", 1985; Owen, 2007, for crossed factors.
    """
    count, rounds = values.shape
    if count > 1:
        chosen = np.random.default_rng(seed).integers(count, size=(count - 1, rounds))
        values = np.take_along_axis(values, chosen, axis=0)
    return Interval(*np.percentile(values.mean(axis=0), PERCENTILES).tolist())
