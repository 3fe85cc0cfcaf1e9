"""Metrics by name, with their titles, and trials prepared for them: ranked once, measured under any weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hybrid_pruning.metrics import rates
from hybrid_pruning.metrics.rates import ASVSPOOF5, VERIFICATION, DetectionCost, FloatArray, IntArray, Ranking, Steps
from hybrid_pruning.metrics.tandem import ASVSPOOF5_ASV, ASVSPOOF5_SASV, AsvRates, a_dcf_of, t_dcf_of, t_eer_of

Names = npt.NDArray[np.str_]
TITLES = {
    "eer": "EER %",
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr (bits)",
    "min_cllr": "minimum Cllr (bits)",
    "a_dcf": "a-DCF",
    "min_t_dcf": "min t-DCF",
    "min_t_dcf_2019": "min t-DCF (2019)",
    "t_eer": "t-EER %",
    "min_dcf_0.01": "minDCF (p = 0.01)",
    "min_dcf_0.05": "minDCF (p = 0.05)",
    "miss": "miss %",
    "false_alarm": "false alarm %",
    "n_bonafide": "bona fide trials",
    "n_spoof": "spoof trials",
    "n_target": "target trials",
    "n_nontarget": "nontarget trials",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A score column and the groups of classes to separate by it, those of the positive class first."""

    name: str
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A metric of ranks: of the counted trials of each column."""

    columns: tuple[Column, ...]
    of: Callable[..., float]


@dataclass(frozen=True, slots=True)
class Averaged:
    """A metric of averages: of the mean loss over each group of a column."""

    column: Column
    losses: tuple[Callable[[FloatArray], npt.NDArray[Any]], ...]
    of: Callable[..., float]


Measure = Ranked | Averaged
Measures = Mapping[str, Measure]


def detection(column: Column, cost: DetectionCost = ASVSPOOF5) -> dict[str, Measure]:
    """Return the metrics of ASVspoof's track 1 of a column of two groups; minDCF and actDCF at the given cost."""
    return {
        "eer": Ranked((column,), rates.eer_of),
        "min_dcf": least_cost(column, cost),
        "act_dcf": Averaged(
            column,
            (lambda scores: scores < cost.threshold, lambda scores: scores >= cost.threshold),
            lambda miss, false_alarm: float(cost.normalised(miss, false_alarm)),
        ),
        "cllr": Averaged(
            column,
            (lambda scores: rates.log_loss_bits(-scores), rates.log_loss_bits),
            lambda positive, negative: (positive + negative) / 2,
        ),
        "min_cllr": Ranked((column,), rates.min_cllr_of),
    }


def errors_at(column: Column, threshold: float) -> dict[str, Measure]:
    """Return the miss and the false alarm rate of a column of two groups at a threshold, the lowest score accepted."""
    losses = (lambda scores: scores < threshold, lambda scores: scores >= threshold)
    return {
        "miss": Averaged(column, losses, lambda miss, _: miss),
        "false_alarm": Averaged(column, losses, lambda _, false_alarm: false_alarm),
    }


def least_cost(column: Column, cost: DetectionCost) -> Measure:
    """Return the minDCF of a column of two groups at the given cost."""
    return Ranked((column,), lambda steps: rates.min_dcf_of(steps, cost))


def fixed_verifier(cm: Column, asv: AsvRates, legacy: bool = False) -> Measure:
    """Return the min t-DCF beside a verifier of these error rates, which resampling leaves as they are."""
    return Ranked((cm,), lambda steps: t_dcf_of(steps, ASVSPOOF5_SASV, asv, legacy))


COUNTERMEASURE = Column("cm-score", (("bonafide",), ("spoof",)))
TANDEM_CM = Column("cm-score", (("target", "nontarget"), ("spoof",)))
TANDEM_ASV, SASV = (Column(name, (("target",), ("nontarget",), ("spoof",))) for name in ("asv-score", "sasv-score"))
VERIFIER = Column("score", (("target",), ("nontarget",)))
TRACK1 = detection(COUNTERMEASURE)
TRACK2_SINGLE: dict[str, Measure] = {"a_dcf": Ranked((SASV,), a_dcf_of)}
TRACK2_TANDEM = TRACK2_SINGLE | {
    "min_t_dcf": fixed_verifier(TANDEM_CM, ASVSPOOF5_ASV),
    "t_eer": Ranked((TANDEM_CM, TANDEM_ASV), t_eer_of),
}
SV: dict[str, Measure] = {
    "eer": Ranked((VERIFIER,), rates.eer_of),
    **{f"min_dcf_{cost.p_target:g}": least_cost(VERIFIER, cost) for cost in VERIFICATION},
}


class Sample:
    """One system's scored trials; measuring raises ValueError where a class is empty or a score is not finite.

    Args:
        scores: score columns by name, [N] each.
        classes: [N].
        unit: [N] the number, from 0, of the unit that each trial is drawn with; by default each trial on its own.
    """

    def __init__(self, scores: Mapping[str, FloatArray], classes: Names, unit: IntArray | None = None) -> None:
        self._scores, self._classes = scores, classes
        self._unit = np.arange(classes.size) if unit is None else unit
        self._units = int(self._unit.max(initial=-1)) + 1
        self._rankings: dict[Column, tuple[Ranking, IntArray]] = {}
        self._sums: dict[Averaged, list[tuple[slice, FloatArray, FloatArray]]] = {}

    def measure(self, measures: Measures, weights: npt.NDArray[np.integer] | None = None) -> dict[str, float]:
        """Return the metrics of the trials, or exactly those of a resample, given the number of draws of each unit."""
        drawn = np.ones(self._units) if weights is None else weights.astype(np.float64)
        if weights is not None:  # few of them are large: what is small stays in the processor's cache
            weights = weights.astype(np.min_scalar_type(weights.max()))
        counted: dict[Column, Steps] = {}
        found = {}
        for name, measure in measures.items():
            if isinstance(measure, Averaged):
                found[name] = float(measure.of(*self._means(measure, drawn)))
                continue
            for column in measure.columns:
                if column not in counted:
                    ranking, unit = self._rank(column)
                    counted[column] = ranking.count(None if weights is None else weights.take(unit))
            found[name] = float(measure.of(*(counted[column] for column in measure.columns)))
        return found

    def _rank(self, column: Column) -> tuple[Ranking, IntArray]:
        """Return the ranking of a column and the unit of each ranked trial."""
        if column not in self._rankings:
            members = self._members(column)
            ranking = Ranking(*(self._select(column, group) for group in members))
            self._rankings[column] = ranking, self._unit[np.concatenate(members)[ranking.order]]
        return self._rankings[column]

    def _means(self, measure: Averaged, drawn: FloatArray) -> list[float]:
        """Return the mean loss of each group, from sums by unit over the units from a group's first to its last."""
        if measure not in self._sums:
            sums = self._sums[measure] = []
            for group, losses in zip(self._members(measure.column), measure.losses, strict=True):
                lost = losses(self._select(measure.column, group)).astype(np.float64)
                units = self._unit[group]
                span = slice(int(units.min()), int(units.max()) + 1)
                place = units - span.start
                sizes = np.bincount(place).astype(np.float64)
                sums.append((span, np.bincount(place, weights=lost).astype(np.float64), sizes))
        return [float(drawn[span] @ lost / (drawn[span] @ size)) for span, lost, size in self._sums[measure]]

    def _members(self, column: Column) -> list[IntArray]:
        return [np.flatnonzero(np.isin(self._classes, group)) for group in column.groups]

    def _select(self, column: Column, group: IntArray) -> FloatArray:
        return rates.checked(self._scores[column.name][group], "one class's")


def find_warnings(result: Mapping[str, float]) -> list[str]:
    """Return the suspicious values among metrics, one sentence each."""
    found = []
    rate = max(result.get("eer", 0.0), result.get("t_eer", 0.0))
    if rate > 0.5:
        found.append(
            f"an equal error rate of {rate:.1%} is worse than chance: are the scores inverted? "
            "A higher score must mean more bona fide, or more the same speaker"
        )
    if result.get("act_dcf", 0.0) >= 1 > result.get("min_dcf", 1.0) and rate <= 0.5:
        found.append(
            f"actDCF is {result['act_dcf']:.3f} where minDCF is {result['min_dcf']:.3f}: the scores are not calibrated "
            "log-likelihood ratios"
        )
    if result.get("a_dcf", 0.0) >= 1:
        found.append("a-DCF is 1, that of one answer for every trial: are the scores inverted?")
    return found


def show_value(name: str, value: float, sign: str = "") -> str:
    """Return a metric as a table shows it; `sign` is the format's, + for differences."""
    if name.startswith("n_"):
        return f"{value:,.0f}"
    return f"{100 * value:{sign}.3f}" if TITLES.get(name, name).endswith("%") else f"{value:{sign}.4f}"
