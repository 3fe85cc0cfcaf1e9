"""Log-likelihood ratios by prior-weighted logistic regression on keyed scores: weights, and a model's calibration.

Source: Brümmer & du Preez, "Application-independent evaluation of speaker detection", 2006, prior-weighted logistic
regression; Brümmer et al., "Fusion of heterogeneous speaker recognition systems", 2007, the same over several systems;
Thienpondt et al., "The IDLAB VoxSRC-20 Submission", 2021, over quality measures of each verification trial; Firth,
"Bias reduction of maximum likelihood estimates", 1993, and Heinze & Schemper, "A solution to the problem of separation
in logistic regression", 2002, Jeffreys' prior where classes are separate.
"""

import hashlib
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from hybrid_pruning.console import warn
from hybrid_pruning.data.tracks import SV, TRACK1, Track
from hybrid_pruning.data.trials import Trials, read_trials
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation.results import operating_point
from hybrid_pruning.files import new_folder, require_new_folder
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.metrics.measures import Column, Sample, detection
from hybrid_pruning.models import artifact
from hybrid_pruning.models.calibration import QUALITIES, Calibration, Fit, read_calibration

PRIOR = 0.5  # of the positive class: every threshold has the same importance, as in the Cllr
CLOSE = 1e-10  # slope of the cross-entropy at which it counts as smallest
RIDGE = 1e-9  # on weights of scores of unit variance: two systems that score alike share their weight
CONSTANT = 1e-9  # relative deviation below which a quality measure is the same in all trials and left out
VERIFICATION = replace(SV, beside=QUALITIES)
Comparison = Mapping[tuple[str, str], Mapping[str, float]]
"""(trials, scores) -> EER, minDCF, actDCF, minimum Cllr and Cllr: calibration changes the third and the last."""


class UncalibratableError(InputError):
    """Scores that no calibration makes log-likelihood ratios: inverted, or all the same."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibrated model's folder and calibration, the new fit last; the scores as they are and calibrated compared."""

    folder: Path
    track: Track
    calibration: Calibration
    comparison: Comparison


def calibrate(
    model: str | Path,
    scores: str | Path,
    keys: str | Path,
    out: str | Path | None = None,
    *,
    prior: float = PRIOR,
    check: tuple[str | Path, str | Path] | None = None,
    replace: bool = False,
    qualities: bool = True,
) -> Calibrated:
    """Make a model's scores log-likelihood ratios, by a scale and an offset that the artifact keeps.

    Args:
        model: an exported model: a folder, or with `out` a hub id.
        scores: the score file of a development set by the model as it is now.
        keys: of the development set.
        out: a new folder for the calibrated model; by default the model itself is calibrated.
        prior: of the positive class, inside (0, 1).
        check: further scores of the model and their keys, to compare before and after.
        replace: drop the model's calibration, which `scores` are older than.
        qualities: of verification, weigh the quality measures in the score file too.

    Raises:
        UncalibratableError: all scores are the same, or lower scores speak for the positive class.
    """
    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the calibrated model goes")
    folder = artifact.locate(model)
    config = artifact.read_config(folder)
    target = folder if out is None else require_new_folder(out)
    verifies = config.get("task") == "speaker-verification"
    track = TRACK1 if not verifies else VERIFICATION if qualities else SV
    sets = {str(path): read_trials(path, of, track) for path, of in ((scores, keys), *([check] if check else []))}
    if verifies:
        for name, trials in sets.items():
            require_same_cohort(trials, name, "cohort" in config)
    fit = fit_calibration(sets[str(scores)], track, scores, keys, prior)
    earlier = read_calibration(config, folder / artifact.CONFIG) or Calibration()
    whole = (Calibration() if replace else earlier).then(fit)
    comparison = {}
    for name, trials in sets.items():
        given = trials.scores[track.scores]
        calibrated = Calibration((fit,)).apply(given, find_qualities(trials, fit, name))
        comparison[name, "as they are"] = measure_scores(track, trials, given)
        comparison[name, "calibrated"] = measure_scores(track, trials, calibrated)
    with nullcontext(folder) if out is None else new_folder(out) as place:
        artifact.write_variant(folder, {**config, "calibration": whole.to_json()}, place)
    return Calibrated(target, track, whole, comparison)


def measure_scores(track: Track, trials: Trials, scores: FloatArray) -> dict[str, float]:
    """Return the metrics of a `Comparison`, of any scores of the same trials."""
    measures = detection(Column(track.scores, tuple((kind,) for kind in track.kinds)), operating_point(track))
    chosen = {name: measures[name] for name in ("eer", "min_dcf", "act_dcf", "min_cllr", "cllr")}
    return Sample({track.scores: scores}, trials.classes).measure(chosen)


def fit_calibration(
    trials: Trials, track: Track, scores_path: str | Path, keys_path: str | Path, prior: float = PRIOR
) -> Fit:
    """Fit scale and offset on one system's scores, and weights of the quality measures beside them that vary."""
    positive, scores = trials.classes == track.kinds[0], trials.scores[track.scores]
    measured = {name: trials.scores[name] for name in track.beside if name in trials.scores}
    beside = {name: values for name, values in measured.items() if values.std() > CONSTANT * abs(values.mean())}
    (scale, *weights), offset = fit_weights(np.stack([scores, *beside.values()]), positive, prior)
    if scale <= 0:
        raise UncalibratableError(
            f"{scores_path}: lower scores speak for {track.kinds[0]} (scale {scale:.3g}); calibration never turns the "
            "order of scores around: are they inverted, or do the keys belong to another set?"
        )
    warn_if_separate(scores, positive, scores_path)
    digest = hashlib.sha256(Path(scores_path).read_bytes()).hexdigest()
    names = Path(scores_path).name, Path(keys_path).name
    sizes = int(positive.sum()), int((~positive).sum())
    fit = Fit(scale, offset, prior, *names, digest, *sizes, dict(zip(beside, weights, strict=True)))
    llrs = Calibration((fit,)).apply(scores, beside)
    return replace(fit, seen=[float(llrs.min()), float(llrs.max())])


def find_qualities(trials: Trials, fit: Fit, scores_path: str | Path) -> dict[str, FloatArray]:
    """Return the quality measures that a fit weighs."""
    missing = [name for name in fit.qualities if name not in trials.scores]
    if missing:
        raise InputError(f"{scores_path}: column '{missing[0]}' is missing, which is weighed; score with --qualities")
    return {name: trials.scores[name] for name in fit.qualities}


def require_same_cohort(trials: Trials, scores_path: str | Path, has_cohort: bool) -> None:
    """Require of a verification score file with quality measures a cohort where the model has one, and else none."""
    found = {name for name in QUALITIES if name in trials.scores}
    if found and (any(name.startswith("impostor-mean") for name in found)) != has_cohort:
        one, other = ("with", "has none") if not has_cohort else ("without", "has one")
        raise InputError(
            f"{scores_path}: was made {one} a cohort, but the model {other}; calibrate what the model scores "
            "by itself: see cohort, and score without --cohort and --no-norm"
        )


def fit_weights(
    scores: FloatArray, positive: npt.NDArray[np.bool_], prior: float = PRIOR
) -> tuple[tuple[float, ...], float]:
    """Return the weights [S] and the offset that make scores [S, N] a log-likelihood ratio, by logistic regression.

    Each class counts as its prior, whatever its number of trials. Where the weighted scores separate the classes
    without error, the cross-entropy has no minimum. Jeffreys' prior is then added, in proportion to the effective
    number of trials (Kish's, of their weights): the scale is finite and falls with the width of the gap, but is no
    estimate of the true one. UncalibratableError: scores of a system are all the same, too large or too close.
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


def warn_if_separate(scores: FloatArray, positive: npt.NDArray[np.bool_], where: str | Path) -> None:
    """Warn of scores whose scale is a guess, naming the file that they are of."""
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
