"""Thresholds from one's own recordings: of genuine speech alone for a detector, of people in folders for a verifier.

The false-alarm rate of a detector is bounded by an order statistic: where the k-th lowest of n genuine scores is the
threshold, the share of genuine recordings below it is distributed as Beta(k, n + 1 - k), whatever the scores are.

Source: Wilks, "Determination of sample sizes for setting tolerance limits", 1941; Owen, "The pigeonhole bootstrap",
2007, trials of two speakers.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import beta

from hybrid_pruning.console import warn
from hybrid_pruning.data.manifest import Utterance, list_recordings, write_manifest
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_trials
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation.fitting import PRIOR, Calibrated, calibrate
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.metrics.bootstrap import ROUNDS, resample_speakers
from hybrid_pruning.metrics.measures import Names
from hybrid_pruning.scoring.embeddings import embed_utterances
from hybrid_pruning.scoring.engine import Engine, load_embedder
from hybrid_pruning.scoring.trial_scores import require_verifier, score_trials
from hybrid_pruning.scoring.verdicts import Unreadable, detect, find_audio
from hybrid_pruning.tasks import Label

RATE, CONFIDENCE = 0.01, 0.95
FEWEST_PEOPLE, MOST_RECORDINGS = 5, 1500


@dataclass(frozen=True, slots=True)
class Bound:
    """A threshold whose error rate is at most `rate`, with a confidence.

    The rate is of genuine recordings called fake, or of recordings of two people called one. `found` is the share on
    the wrong side of the `scores` that the threshold is of, which are those of `people`, 0 where that is not known.
    """

    threshold: float
    rate: float
    confidence: float
    found: float
    scores: int
    people: int = 0


def calibrate_bonafide(
    model: str | Path,
    folder: str | Path,
    rate: float = RATE,
    confidence: float = CONFIDENCE,
    workers: int = 2,
    device: str = "auto",
) -> Bound:
    """Return a detector's threshold with a bounded false-alarm rate, from genuine recordings alone.

    The bound is exact for recordings that are drawn as those in the folder were, each independently: of one voice or
    one microphone many count as few. It says nothing of fakes that pass. The model is left as it is.

    Args:
        model: a detector: an artifact, a graph or a hub id.
        folder: genuine recordings, at any depth; unreadable and silent ones are left out with a warning.
        rate: of genuine recordings below the threshold, at most, inside (0, 1).
        confidence: that this holds, inside (0, 1).
        workers, device: as in `detect`.
    """
    _require_shares(rate, confidence)
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: is no folder here; give one of genuine recordings")
    detector, scores = load_embedder(model, device), []
    if detector.task != "anti-spoofing":
        raise InputError(f"{model}: is for speaker verification; give people in folders with --enrol")
    for one in detect(detector, find_audio(folder), workers):
        if isinstance(one, Unreadable):
            warn(one.reason)
        elif one.silent:
            warn(f"{one.path}: is silent; left out")
        else:
            scores.append(one.llr)
    return bound_below(np.array(scores), rate, confidence, folder)


def bound_below(scores: FloatArray, rate: float, confidence: float, source: str | Path) -> Bound:
    """Return the highest of the scores [N] below which at most a share `rate` of their distribution lies."""
    count, ranks = scores.size, np.arange(1, scores.size + 1)
    rank = int((beta.cdf(rate, ranks, count + 1 - ranks) >= confidence).sum())
    if rank == 0:
        needed = math.ceil(math.log1p(-confidence) / math.log1p(-rate))
        least = f" (they bound one of {1 - (1 - confidence) ** (1 / count):.1%})" if count else ""
        raise InputError(
            f"{source}: {count:,} recordings; a false-alarm rate of at most {rate:.2%} at a confidence of "
            f"{confidence:.0%} takes {needed:,}{least}; record more, or raise --rate"
        )
    threshold = float(np.sort(scores)[rank - 1])
    return Bound(threshold, rate, confidence, float(np.mean(scores < threshold)), count)


def calibrate_enrol(
    model: str | Path,
    folder: str | Path,
    out: str | Path | None = None,
    rate: float = RATE,
    confidence: float = CONFIDENCE,
    prior: float = PRIOR,
    workers: int = 2,
    device: str = "auto",
    rounds: int = ROUNDS,
    seed: int = 0,
) -> tuple[Calibrated, Bound]:
    """Calibrate a verifier on people in folders, and return its threshold with a bounded false-accept rate.

    Every recording is compared with every other, as of one person or two. The bound is the given percentile of the
    threshold over resamples of people: rough where they are few.

    Args:
        model: a verifier's folder, or with `out` a hub id; its cohort counts.
        folder: a folder of recordings for each person, of two or more of one at least.
        out: a new folder for the calibrated model; by default the model itself is calibrated.
        rate: of recordings of two people at or above the threshold, at most, inside (0, 1).
        confidence: that this holds, inside (0, 1).
        prior: of the same person, for the fit, inside (0, 1).
        workers, device: as in `score`.
        rounds, seed: of the resampling.
    """
    _require_shares(rate, confidence)
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: is no folder here; give one with a folder of recordings for each person")
    files = [name for name in list_recordings(Path(folder)) if "/" in name]
    counts = Counter(name.partition("/")[0] for name in files)
    if len(counts) < FEWEST_PEOPLE or max(counts.values()) < 2:
        raise InputError(
            f"{folder}: holds {len(files)} recordings in folders of {len(counts)} people; {FEWEST_PEOPLE} people are "
            "needed at least, one of them with two recordings"
        )
    if len(files) > MOST_RECORDINGS:
        raise InputError(
            f"{folder}: holds {len(files):,} recordings, and all are compared with all; {MOST_RECORDINGS:,} are the "
            "most: take fewer of each person"
        )
    engine = Engine(load_embedder(model, device), workers=workers)
    require_verifier(engine.model)
    root = Path(folder).absolute()
    utterances = [Utterance(name, root / name, Label.BONAFIDE, speaker=name.partition("/")[0]) for name in files]
    with TemporaryDirectory() as scratch:
        name = root.name
        manifest, keys, scores = (Path(scratch) / f"{name}{end}" for end in (".tsv", ".trials", ".scores.tsv"))
        cache = Path(scratch) / "embeddings.safetensors"
        embedded = set(embed_utterances(engine, utterances, scores, cache, skip_bad=True).ids)
        write_manifest(manifest, utterances)
        pairs = combinations([one for one in utterances if one.utt_id in embedded], 2)
        rows = ((a.utt_id, b.utt_id, "target" if a.speaker == b.speaker else "nontarget") for a, b in pairs)
        write_table(keys, (*SV.trial, "label"), rows)
        score_trials(engine, manifest, keys, scores, cache=cache)
        calibrated = calibrate(model, scores, keys, out, prior=prior, qualities=False)
        trials = read_trials(scores, keys, SV)
    fit = calibrated.calibration.fits[-1]
    apart = trials.classes == "nontarget"
    values = trials.scores[SV.scores][apart] * fit.scale + fit.offset
    sides = [np.array([one.partition("/")[0] for one in side])[apart] for side in trials.names]
    return calibrated, bound_above(values, sides, rate, confidence, rounds, seed)


def bound_above(
    scores: FloatArray, sides: Sequence[Names], rate: float, confidence: float, rounds: int = ROUNDS, seed: int = 0
) -> Bound:
    """Return the lowest threshold that a share `rate` of two people's scores [N] reaches at most in a share of rounds.

    Each round draws people with replacement; `sides` are the two people [N] of each score.
    """
    order = np.argsort(-scores, kind="stable")
    resampling = resample_speakers(np.full(scores.size, "nontarget"), *(side[order] for side in sides))
    highest, lowest = scores[order], np.empty(rounds)
    for index in range(rounds):
        counted = np.cumsum(resampling.weights(seed, index)[resampling.unit])
        passing = int(np.searchsorted(counted, rate * counted[-1], side="right"))
        lowest[index] = np.nextafter(highest[passing], np.inf)  # all above that score may pass, and it may not
    threshold = float(np.quantile(lowest, confidence, method="higher"))
    return Bound(threshold, rate, confidence, float(np.mean(scores >= threshold)), scores.size, resampling.count)


def _require_shares(rate: float, confidence: float) -> None:
    for name, share in (("rate", rate), ("confidence", confidence)):
        if not 0 < share < 1:
            raise InputError(f"calibrate: --{name} {share}, expected a share between 0 and 1, both excluded")
