"""Metrics as tables of names, and trials prepared for them: ranked once, measured under any weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hybrid_pruning.metrics.costs import ASVSPOOF5, ASVSPOOF5_ASV, ASVSPOOF5_SASV, VERIFICATION, AsvRates, DetectionCost
from hybrid_pruning.metrics.ranking import FloatArray, IntArray, Ranking, Steps, checked
from hybrid_pruning.metrics.rates import eer_of, min_cllr_of, min_dcf_of, surprise
from hybrid_pruning.metrics.tandem import a_dcf_of, t_dcf_of, t_eer_of

Names = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Column:
    """A score column and what it must tell apart.

    Args:
        name: of the column.
        groups: classes of trials, those of the positive class first; one group may hold several classes.
    """

    name: str
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A metric of ranks.

    Args:
        columns: what it reads.
        of: the counted trials of each column -> the metric.
    """

    columns: tuple[Column, ...]
    of: Callable[..., float]


@dataclass(frozen=True, slots=True)
class Averaged:
    """A metric of averages.

    Args:
        column: what it reads.
        losses: the scores of each group -> what each trial loses.
        of: the mean loss of each group -> the metric.
    """

    column: Column
    losses: tuple[Callable[[FloatArray], npt.NDArray[Any]], ...]
    of: Callable[..., float]


Measure = Ranked | Averaged
Measures = Mapping[str, Measure]


def detection(column: Column, cost: DetectionCost = ASVSPOOF5) -> dict[str, Measure]:
    """Return the metrics of ASVspoof's track 1, by the names evaluations give them.

    Args:
        column: of two groups.
        cost: of minDCF and actDCF.
    """
    return {
        "eer": Ranked((column,), eer_of),
        "min_dcf": Ranked((column,), lambda steps: min_dcf_of(steps, cost)),
        "act_dcf": Averaged(
            column,
            (lambda scores: scores < cost.threshold, lambda scores: scores >= cost.threshold),
            lambda miss, false_alarm: float(cost.normalised(miss, false_alarm)),
        ),
        "cllr": Averaged(
            column, (lambda scores: surprise(-scores), surprise), lambda positive, negative: (positive + negative) / 2
        ),
        "min_cllr": Ranked((column,), min_cllr_of),
    }


def verification(column: Column) -> dict[str, Measure]:
    """Return the metrics of speaker verification."""

    def at(cost: DetectionCost) -> Measure:
        return Ranked((column,), lambda steps: min_dcf_of(steps, cost))

    return {"eer": Ranked((column,), eer_of)} | {f"min_dcf_{cost.p_target:g}": at(cost) for cost in VERIFICATION}


def tandem(cm: Column, asv: Column) -> dict[str, Measure]:
    """Return the metrics of a countermeasure and a verifier in tandem, as ASVspoof 5 defines them.

    Args:
        cm: of bona fide speech and spoofs.
        asv: of targets, nontargets and spoofs.
    """
    return {"min_t_dcf": fixed_verifier(cm, ASVSPOOF5_ASV), "t_eer": Ranked((cm, asv), t_eer_of)}


def fixed_verifier(cm: Column, asv: AsvRates, legacy: bool = False) -> Measure:
    """Return the min t-DCF beside a verifier of these error rates, which resampling leaves as they are."""
    return Ranked((cm,), lambda steps: t_dcf_of(steps, ASVSPOOF5_SASV, asv, legacy))


COUNTERMEASURE = Column("cm-score", (("bonafide",), ("spoof",)))
TRACK1 = detection(COUNTERMEASURE)
SV = verification(Column("score", (("target",), ("nontarget",))))
TRACK2_SINGLE: dict[str, Measure] = {
    "a_dcf": Ranked((Column("sasv-score", (("target",), ("nontarget",), ("spoof",))),), a_dcf_of)
}
TRACK2_TANDEM = TRACK2_SINGLE | tandem(
    Column("cm-score", (("target", "nontarget"), ("spoof",))),
    Column("asv-score", (("target",), ("nontarget",), ("spoof",))),
)


class Sample:
    """One system's scored trials.

    Args:
        scores: the named score columns, [N] each.
        classes: [N] the class of each trial.
        unit: [N] what each trial is drawn with, from 0; each trial on its own by default.

    Raises:
        ValueError: (when measured) a class is empty or a score is not finite.
    """

    def __init__(self, scores: Mapping[str, FloatArray], classes: Names, unit: IntArray | None = None) -> None:
        self._scores, self._classes = scores, classes
        self._unit = np.arange(classes.size) if unit is None else unit
        self._units = int(self._unit.max(initial=-1)) + 1
        self._rankings: dict[Column, tuple[Ranking, IntArray]] = {}
        self._sums: dict[Averaged, list[tuple[slice, FloatArray, FloatArray]]] = {}

    def measure(self, measures: Measures, weights: npt.NDArray[np.integer] | None = None) -> dict[str, float]:
        """Return the metrics of the trials, or of a resample of them.

        The metrics are those of the trials repeated as often as they were drawn, not an approximation.

        Args:
            measures: name -> metric.
            weights: [units] how often each unit was drawn; once each by default.
        """
        averaged = any(isinstance(measure, Averaged) for measure in measures.values())
        drawn = np.ones(self._units) if weights is None else weights.astype(np.float64) if averaged else np.empty(0)
        if weights is not None:  # few of them are large: what is small stays in the processor's cache
            weights = weights.astype(np.min_scalar_type(weights.max()))
        counted: dict[Column, Steps] = {}
        return {
            name: float(measure.of(*self._means(measure, drawn)))
            if isinstance(measure, Averaged)
            else self._rank(measure, weights, counted)
            for name, measure in measures.items()
        }

    def _rank(self, measure: Ranked, weights: npt.NDArray[np.integer] | None, counted: dict[Column, Steps]) -> float:
        for column in measure.columns:
            if column not in counted:
                ranking, unit = self._ranked(column)
                counted[column] = ranking.count(None if weights is None else weights.take(unit))
        return measure.of(*(counted[column] for column in measure.columns))

    def _ranked(self, column: Column) -> tuple[Ranking, IntArray]:
        """Return the ranking of a column and the unit of each ranked trial."""
        if column not in self._rankings:
            members = self._members(column)
            ranking = Ranking(*(self._select(column, group) for group in members))
            self._rankings[column] = ranking, self._unit[np.concatenate(members)[ranking.order]]
        return self._rankings[column]

    def _means(self, measure: Averaged, drawn: FloatArray) -> list[float]:
        if measure not in self._sums:
            self._sums[measure] = [
                self._sum(self._unit[group], losses(self._select(measure.column, group)).astype(np.float64))
                for group, losses in zip(self._members(measure.column), measure.losses, strict=True)
            ]
        return [float(drawn[units] @ lost / (drawn[units] @ size)) for units, lost, size in self._sums[measure]]

    @staticmethod
    def _sum(unit: IntArray, losses: FloatArray) -> tuple[slice, FloatArray, FloatArray]:
        """Return the units from a group's first to its last, and the losses and the number of trials of each."""
        units = slice(int(unit.min()), int(unit.max()) + 1)
        place = unit - units.start
        return units, np.bincount(place, weights=losses).astype(np.float64), np.bincount(place).astype(np.float64)

    def _members(self, column: Column) -> list[IntArray]:
        return [np.flatnonzero(np.isin(self._classes, group)) for group in column.groups]

    def _select(self, column: Column, group: IntArray) -> FloatArray:
        return checked(self._scores[column.name][group], "one class's")
