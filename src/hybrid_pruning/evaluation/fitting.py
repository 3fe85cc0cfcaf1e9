"""Fitting of calibrations and fusions on keyed scores, by prior-weighted logistic regression.

Calibration of verification scores may also weigh quality measures of each trial, as fusion weighs systems (Thienpondt
et al., "The IDLAB VoxSRC-20 Submission", 2021).

Source: Brümmer & du Preez, "Application-independent evaluation of speaker detection", 2006, prior-weighted logistic
regression; Brümmer et al., "Fusion of heterogeneous speaker recognition systems", 2007, the same over several systems;
Firth, "Bias reduction of maximum likelihood estimates", 1993, and Heinze & Schemper, "A solution to the problem of
separation in logistic regression", 2002, Jeffreys' prior where classes are separate.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from hybrid_pruning.console import warn
from hybrid_pruning.data.score_files import Trials, join_systems
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV, TRACK1, Track
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import write_json
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.models.calibration import QUALITIES, Fit
from hybrid_pruning.trees import read_json

PRIOR = 0.5
"""Of the positive class: every threshold matters alike, as in the Cllr."""
CLOSE = 1e-10
"""Slope of the cross-entropy at which it counts as smallest."""
RIDGE = 1e-9
"""On weights of scores of unit variance: two systems that score alike share their weight."""
FORMAT = "hybrid-pruning fusion"
TASKS = {"track1": TRACK1, "sv": SV}
VERIFICATION = replace(SV, beside=QUALITIES)
CONSTANT = 1e-9
"""A quality that deviates less than this from its mean, relative to it, is the same in all trials and is left out."""


class UncalibratableError(InputError):
    """Scores that no calibration makes log-likelihood ratios: inverted, or all the same."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """A weighted sum of several systems' scores that is a log-likelihood ratio.

    Args:
        task: `track1` or `sv`.
        systems: the score files it was fitted on, in order.
        weights: of each.
        offset: added to the weighted sum.
        prior: of the positive class.
        keys: the keys it was fitted with.
        positives: bona fide or target trials.
        negatives: spoof or nontarget trials.
    """

    task: str
    systems: tuple[str, ...]
    weights: tuple[float, ...]
    offset: float
    prior: float
    keys: str
    positives: int
    negatives: int

    def apply(self, scores: Sequence[FloatArray]) -> FloatArray:
        """Return the fused scores [N] of every system's [N]."""
        fused: FloatArray = np.tensordot(self.weights, np.stack(scores), axes=1) + self.offset
        return fused

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read it back.

        Raises:
            InputError: the file cannot be read, or is no fusion.
        """
        another = "write one with `fuse SCORES... --keys KEYS --out FILE`"
        values = read_json(path, damaged=another)
        try:
            if values.pop("format") != FORMAT:
                raise ValueError(f"format is not '{FORMAT}'")
            fusion = cls(**values)
            numbers = np.array([*fusion.weights, fusion.offset], dtype=np.float64)
            if fusion.task not in TASKS or not np.isfinite(numbers).all() or len(fusion.systems) + 1 != numbers.size:
                raise ValueError("its values do not belong together")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: is no fusion; {another}") from error
        return replace(fusion, systems=tuple(fusion.systems), weights=tuple(fusion.weights))


def fit_calibration(
    trials: Trials, task: Track, scores_path: str | Path, keys_path: str | Path, prior: float = PRIOR
) -> Fit:
    """Fit scale and offset on one system's scores, and weights of the quality measures that stand beside them.

    A quality measure that is the same in all trials is left out.

    Args:
        trials: the system's.
        task: what they are, `TRACK1`, `SV` or `VERIFICATION`.
        scores_path: where they were read from.
        keys_path: their keys.
        prior: of the positive class, inside (0, 1).

    Raises:
        UncalibratableError: all scores are the same, or lower scores speak for the positive class.
    """
    positive = trials.classes == task.kinds[0]
    beside = {name: trials.scores[name] for name in task.beside if _varies(trials.scores.get(name))}
    (scale, *weights), offset = fit_weights(np.stack([trials.scores[task.scores], *beside.values()]), positive, prior)
    if scale <= 0:
        raise UncalibratableError(
            f"{scores_path}: lower scores speak for {task.kinds[0]} (scale {scale:.3g}); calibration never turns the "
            "order of scores around: are they inverted, or do the keys belong to another set?"
        )
    _warn_if_separate(trials.scores[task.scores], positive, str(scores_path))
    digest = hashlib.sha256(Path(scores_path).read_bytes()).hexdigest()
    names = Path(scores_path).name, Path(keys_path).name
    sizes = int(positive.sum()), int((~positive).sum())
    return Fit(scale, offset, prior, *names, digest, *sizes, dict(zip(beside, weights, strict=True)))


def find_qualities(trials: Trials, fit: Fit, scores_path: str | Path) -> dict[str, FloatArray]:
    """Return the quality measures that a fit weighs.

    Raises:
        InputError: the score file has them not.
    """
    missing = [name for name in fit.qualities if name not in trials.scores]
    if missing:
        raise InputError(f"{scores_path}: column '{missing[0]}' is missing, which is weighed; score with --qualities")
    return {name: trials.scores[name] for name in fit.qualities}


def require_same_cohort(trials: Trials, scores_path: str | Path, has_cohort: bool) -> None:
    """Require, where a verification score file has quality measures, that it and the model agree about a cohort.

    Raises:
        InputError: one of them has a cohort.
    """
    found = {name for name in QUALITIES if name in trials.scores}
    if found and (any(name.startswith("impostor-mean") for name in found)) != has_cohort:
        one, other = ("with", "has none") if not has_cohort else ("without", "has one")
        raise InputError(
            f"{scores_path}: was made {one} a cohort, but the model {other}; calibrate what the model scores "
            "by itself: see cohort, and score without --cohort and --no-norm"
        )


def _varies(values: FloatArray | None) -> bool:
    return values is not None and bool(values.std() > CONSTANT * abs(values.mean()))


def fit_fusion(systems: Mapping[str, Trials], task_name: str, keys_path: str | Path, prior: float = PRIOR) -> Fusion:
    """Fit a weight for each system and an offset.

    Args:
        systems: score file -> the same trials in the same order.
        task_name: what they are, `track1` or `sv`.
        keys_path: their keys.
        prior: of the positive class, inside (0, 1).

    Raises:
        InputError: all scores of a system are the same.
    """
    task = TASKS[task_name]
    positive = next(iter(systems.values())).classes == task.kinds[0]
    scores = np.stack([trials.scores[task.scores] for trials in systems.values()])
    weights, offset = fit_weights(scores, positive, prior)
    _warn_if_separate(weights @ scores, positive, str(keys_path))
    sizes = int(positive.sum()), int((~positive).sum())
    return Fusion(task_name, tuple(systems), weights, offset, prior, Path(keys_path).name, *sizes)


def fuse_files(scores: Sequence[str | Path], fusion: Fusion, out: str | Path) -> int:
    """Write the fused scores of the same trials in several score files, and return how many they are.

    Raises:
        InputError: a file cannot be read, they do not score the same trials, there are more or fewer of them than
            systems, or the output cannot be written.
    """
    if len(scores) != len(fusion.systems):
        raise InputError(
            f"fusion of {len(fusion.systems)} systems ({', '.join(fusion.systems)}), got {len(scores)} files"
        )
    task = TASKS[fusion.task]
    systems = join_systems(scores, task)
    fused = fusion.apply([trials.scores[task.scores] for trials in systems])
    write_table(out, (*task.trial, task.scores), zip(*systems[0].names, fused.tolist(), strict=True))
    return len(fused)


def fit_weights(
    scores: FloatArray, positive: npt.NDArray[np.bool_], prior: float = PRIOR
) -> tuple[tuple[float, ...], float]:
    """Return the weights [S] and the offset that make the scores a log-likelihood ratio, by logistic regression.

    Each class counts as its prior, whatever its number of trials. Where the weighted scores separate the classes
    without error, the cross-entropy has no minimum: every larger scale is better. Jeffreys' prior then stands beside
    it, in proportion to the effective number of trials (Kish's, of the weights of the trials): the scale is finite,
    and falls with the width of the gap rather than growing without limit. It is no estimate of the true scale.

    Args:
        scores: [S, N] of S systems.
        positive: [N] whether each trial is of the positive class; both classes occur.
        prior: of the positive class, inside (0, 1).

    Raises:
        InputError: the prior is impossible, all scores of a system are the same, or they are too large or too close.
    """
    if not 0 < prior < 1:
        raise InputError(f"prior {prior}, expected one between 0 and 1, both excluded")
    lowest, highest = scores.min(axis=1), scores.max(axis=1)
    if (lowest == highest).any():
        flat = int(np.argmax(lowest == highest))
        raise UncalibratableError(f"all scores of system {flat + 1} are {lowest[flat]:g}")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean, deviation = scores.mean(axis=1), scores.std(axis=1)
        inputs = np.vstack([(scores - mean[:, None]) / deviation[:, None], np.ones(positive.size)])
    if not np.isfinite(inputs).all():
        raise UncalibratableError(
            f"scores from {lowest.min():g} to {highest.max():g} cannot be calibrated; are they scores?"
        )
    share = np.where(positive, prior / positive.sum(), (1 - prior) / (~positive).sum())
    log_odds = math.log(prior / (1 - prior))
    solution = _minimise(inputs, share, positive, log_odds, jeffreys=0.0)
    if are_separate(solution @ inputs, positive):
        solution = _minimise(inputs, share, positive, log_odds, jeffreys=float(share @ share))
    weights = solution[:-1] / deviation
    return tuple(weights.tolist()), float(solution[-1] - weights @ mean)


def are_separate(scores: FloatArray, positive: npt.NDArray[np.bool_]) -> bool:
    """Return whether no negative trial scores above a positive one."""
    return bool(scores[positive].min() >= scores[~positive].max())


def _warn_if_separate(scores: FloatArray, positive: npt.NDArray[np.bool_], where: str) -> None:
    if are_separate(scores, positive):
        warn(
            f"{where}: no error in {positive.size:,} trials, so the scale cannot be estimated and is kept low; "
            "log-likelihood ratios need more or harder trials"
        )


def _minimise(
    inputs: FloatArray, share: FloatArray, positive: npt.NDArray[np.bool_], log_odds: float, jeffreys: float
) -> FloatArray:
    """Return the weights of least cross-entropy, less `jeffreys` times half the log determinant of its Hessian."""
    side = np.where(positive, -1.0, 1.0)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        logits = weights @ inputs + log_odds
        chance = expit(logits)
        value = share @ np.logaddexp(0, side * logits) + RIDGE * weights[:-1] @ weights[:-1] / 2
        slope = inputs @ (share * (chance - positive)) + RIDGE * np.append(weights[:-1], 0.0)
        if jeffreys:
            spread = share * chance * (1 - chance)
            information = (inputs * spread) @ inputs.T + RIDGE * np.eye(len(inputs))
            leverage = spread * (inputs * np.linalg.solve(information, inputs)).sum(axis=0)
            value -= jeffreys * np.linalg.slogdet(information)[1] / 2
            slope -= jeffreys * inputs @ (leverage * (1 - 2 * chance)) / 2
        return float(value), slope

    solution: FloatArray = minimize(loss, np.zeros(len(inputs)), jac=True, method="BFGS", options={"gtol": CLOSE}).x
    return solution
