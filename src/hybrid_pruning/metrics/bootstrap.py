"""Confidence intervals by resampling what is independent: speakers where they are known, trials where they are not.

A round draws as many speakers as there are, with replacement, and measures the trials as often as their speakers were
drawn. Trials of one speaker resemble each other, so drawing trials as if they were independent would make the intervals
too narrow.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, the percentile interval; Bolle et al., "Error
analysis of pattern recognition systems: the subsets bootstrap", 2004, whole persons; Owen, "The pigeonhole bootstrap",
2007, trials of two speakers.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybrid_pruning.console import progress_bar
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics.measures import Measures, Names, Sample
from hybrid_pruning.metrics.ranking import FloatArray, IntArray

PERCENTILES = (2.5, 97.5)
FEWEST_ROUNDS = 40
"""With fewer, less than one round lies outside either end of the interval."""
MOST_ROUNDS = 100_000
"""Ends of intervals then differ by less than a hundredth of the interval from one seed to another."""
ROUNDS = 1000
MOST_THREADS = 8
"""Each holds some arrays as long as the trials are many."""

Scores = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle 95% of the rounds."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One system's metric minus another's, both measured on the same draws; below 0 the first system is better.

    Args:
        low: the lower end of the middle 95% of the rounds.
        high: its upper end.
        better: share of the rounds in which the first system's metric was smaller.
    """

    low: float
    high: float
    better: float


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """What is drawn in a round.

    Args:
        unit: [N] the unit that each trial is drawn with: a speaker, a pair of speakers, or the trial itself.
        draw: random generator -> [units] how often each was drawn.
        present: [classes, units] whether a unit has trials of a class.
        drawn: what is drawn, in the plural: speakers or trials.
        count: how many of them there are.
    """

    unit: IntArray
    draw: Callable[[np.random.Generator], IntArray]
    present: npt.NDArray[np.bool_]
    drawn: str
    count: int

    def weights(self, seed: int, index: int) -> IntArray:
        """Return [units] how often each is drawn in a round; a draw that misses a class altogether is drawn again."""
        generator = np.random.default_rng((seed, index))
        weights = self.draw(generator)
        while not (self.present @ weights).all():
            weights = self.draw(generator)
        return weights


def resample_speakers(speakers: Names, classes: Names) -> Resampling:
    """Draw speakers, each with all its trials of every class.

    Args:
        speakers: [N] the speaker of each trial.
        classes: [N] its class.
    """
    unit = np.unique(speakers, return_inverse=True)[1]
    count = int(unit.max()) + 1
    return Resampling(unit, lambda generator: _draw(generator, count), _presence(unit, classes), "speakers", count)


def resample_pairs(enrol: Names, test: Names, classes: Names) -> Resampling:
    """Draw speakers where every trial has two: one is enrolled, one tested.

    A trial of two speakers counts as often as both were drawn together, the product of their draws: every copy of the
    one meets every copy of the other. A trial of one speaker counts as often as he was drawn: copies of one person are
    different people in the resample, so a copy meets only itself.

    Args:
        enrol: [N] the speaker enrolled in each trial.
        test: [N] the speaker tested.
        classes: [N] its class.
    """
    speakers = np.unique(np.concatenate((enrol, test)), return_inverse=True)[1].reshape(2, -1)
    count = int(speakers.max()) + 1
    low, high = speakers.min(axis=0), speakers.max(axis=0)
    pairs, unit = np.unique(low * count + high, return_inverse=True)
    first, second = np.divmod(pairs, count)

    def draw(generator: np.random.Generator) -> IntArray:
        weights = _draw(generator, count)
        return np.where(first == second, weights[first], weights[first] * weights[second])

    return Resampling(unit, draw, _presence(unit, classes), "speakers", count)


def resample_trials(classes: Names) -> Resampling:
    """Draw trials, as many of each class as there are.

    Args:
        classes: [N] the class of each trial.
    """
    sizes = np.unique(classes, return_counts=True)[1]
    unit = np.empty(classes.size, dtype=np.int64)
    unit[np.argsort(classes, kind="stable")] = np.arange(classes.size)  # class after class

    def draw(generator: np.random.Generator) -> IntArray:
        return np.concatenate([_draw(generator, size) for size in sizes])

    return Resampling(unit, draw, np.empty((0, classes.size), dtype=np.bool_), "trials", classes.size)


def intervals(
    measures: Measures, classes: Names, scores: Scores, resampling: Resampling, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95% percentile interval of every metric.

    Args:
        measures: name -> metric, such as `metrics.measures.TRACK1`.
        classes: [N] the class of each trial.
        scores: the score columns the metrics read, [N] each.
        resampling: what is drawn.
        rounds: how often.
        seed: of the draws; the same seed draws the same, whatever the scores and the number of processors.

    Raises:
        InputError: too few rounds, or too many.
        ValueError: a class is empty or a score is not finite.
    """
    values = resample([scores], measures, classes, resampling, rounds, seed)[0]
    return {name: to_interval(column) for name, column in zip(measures, values.T, strict=True)}


def differences(
    measures: Measures,
    classes: Names,
    scores: Scores,
    against: Scores,
    resampling: Resampling,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Difference]:
    """Return how much every metric of one system differs from another's on the same trials.

    Args: as in `intervals`; `against` holds the other system's scores of the same trials in the same order.

    Raises:
        InputError: too few rounds, or too many.
        ValueError: a class is empty or a score is not finite.
    """
    ours, theirs = resample([scores, against], measures, classes, resampling, rounds, seed)
    return {name: to_difference(a, b) for name, a, b in zip(measures, ours.T, theirs.T, strict=True)}


def to_interval(values: FloatArray) -> Interval:
    """Return the interval of a metric from its values in all rounds."""
    return Interval(*np.percentile(values, PERCENTILES).tolist())


def to_difference(values: FloatArray, others: FloatArray) -> Difference:
    """Return how one system's metric differs from another's, from the values of both in all rounds."""
    low, high = np.percentile(values - others, PERCENTILES).tolist()
    return Difference(low, high, float(np.mean(values < others)))


def check_rounds(rounds: int) -> None:
    """Require a number of rounds that intervals can be made of.

    Raises:
        InputError: too few or too many.
    """
    if not FEWEST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise InputError(
            f"bootstrap: {rounds} rounds, expected at least {FEWEST_ROUNDS}, so that one lies outside either end of a "
            f"95% interval, and at most {MOST_ROUNDS:,}; {ROUNDS} are usual"
        )


def resample(
    systems: Sequence[Scores], measures: Measures, classes: Names, resampling: Resampling, rounds: int, seed: int = 0
) -> FloatArray:
    """Return every metric of every system in every round, [systems, rounds, metrics]; all systems see the same draws.

    Raises:
        InputError: too few rounds, or too many.
        ValueError: a class is empty or a score is not finite.
    """
    check_rounds(rounds)
    samples = [Sample(scores, classes, resampling.unit) for scores in systems]
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
    return values.swapaxes(0, 1)


def _draw(generator: np.random.Generator, count: int) -> IntArray:
    """Draw `count` of as many, with replacement, and return how often each came."""
    return np.bincount(generator.integers(count, size=count), minlength=count)


def _presence(unit: IntArray, classes: Names) -> npt.NDArray[np.bool_]:
    kinds, kind = np.unique(classes, return_inverse=True)
    present = np.zeros((kinds.size, int(unit.max()) + 1), dtype=np.bool_)
    present[kind, unit] = True
    return present
