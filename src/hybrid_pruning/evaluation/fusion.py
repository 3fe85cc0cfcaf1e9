"""Fusion of score files: a weighted sum that is a log-likelihood ratio, and a verifier with a countermeasure.

A verifier and a countermeasure make the file of ASVspoof 5, track 2. Both scores have to be log-likelihood ratios: the
verifier's of the target against another human speaker, calibrated on trials without spoofs; the countermeasure's of
bona fide speech against spoofs. The ratio of a target against a mixture of nontargets and spoofs in shares r and 1 - r

    sasv = -log(r exp(-asv) + (1 - r) exp(-cm))

takes spoofs to be as likely as targets for the verifier, and all human speech as equally likely for the countermeasure.
The shares are those of the a-DCF, cost times prior: r = 0.16 with the costs of ASVspoof 5, whose Bayes threshold is
-0.458 = log((10 x 0.0095 + 10 x 0.05) / 0.9405).

Source: Brümmer et al., "Fusion of heterogeneous speaker recognition systems", 2007, the weighted sum; Wang et al.,
"Revisiting and Improving Scoring Fusion for Spoofing-aware Speaker Verification Using Compositional Data Analysis",
2024, the non-linear fusion.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2
from hybrid_pruning.data.trials import Register, join_scores, join_systems, read_keys
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation.fitting import PRIOR, Comparison, fit_weights, measure_scores, warn_if_separate
from hybrid_pruning.files import write_json
from hybrid_pruning.metrics import ASVSPOOF5_SASV, FloatArray, SasvCost
from hybrid_pruning.trees import read_json

FORMAT = "hybrid-pruning fusion"
FUSIBLE = {"track1": TRACK1, "sv": SV}


@dataclass(frozen=True, slots=True)
class Fusion:
    """A weighted sum of several systems' scores that is a log-likelihood ratio; the score files and keys of its fit."""

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
        """Write as JSON."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read from JSON."""
        another = "write one with `fuse SCORES... --keys KEYS --out FILE`"
        values = read_json(path, damaged=another)
        try:
            if values.pop("format") != FORMAT:
                raise ValueError(f"format is not '{FORMAT}'")
            fusion = cls(**values)
            numbers = np.array([*fusion.weights, fusion.offset], dtype=np.float64)
            if fusion.task not in FUSIBLE or not np.isfinite(numbers).all() or len(fusion.systems) + 1 != numbers.size:
                raise ValueError("its values do not belong together")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: is no fusion; {another}") from error
        return replace(fusion, systems=tuple(fusion.systems), weights=tuple(fusion.weights))


@dataclass(frozen=True, slots=True)
class Fused:
    """The number of fused trials; the weights (none of `sasv`); of a fit, the systems and their fusion compared."""

    trials: int
    fusion: Fusion | None = None
    comparison: Comparison = field(default_factory=dict)


def fuse(
    scores: Sequence[str | Path],
    out: str | Path,
    *,
    keys: str | Path | None = None,
    apply: str | Path | None = None,
    track: str = "track1",
    prior: float = PRIOR,
) -> Fused:
    """Fit a fusion of several systems on keyed scores, or apply one; a system alone is calibrated.

    Args:
        scores: a score file of each system, all of the same trials.
        out: with `keys` the fusion, JSON; otherwise the fused scores, TSV.
        keys: of the trials, to fit the weights on.
        apply: a fusion of as many systems, to apply in the same order.
        track: `track1` or `sv`; or `sasv` for a verifier's and a countermeasure's scores, which need no fit.
        prior: of the positive class, inside (0, 1).
    """
    if track == "sasv":
        if keys or apply or len(scores) != 2:
            raise InputError("fuse: --sasv takes two files, ASV.tsv CM.tsv, and neither --keys, --apply nor --sv")
        return Fused(fuse_tandem_files(scores[0], scores[1], out))
    if track not in FUSIBLE:
        raise InputError(f"fuse: track '{track}', expected {', '.join(FUSIBLE)} or sasv")
    if (keys is None) == (apply is None):
        raise InputError("fuse: choose one of --keys (fit) and --apply")
    if len({Path(path) for path in scores}) < len(scores):
        raise InputError("fuse: a score file is named twice")
    if apply is not None:
        fusion = Fusion.read(apply)
        if (count := len(fusion.systems)) != len(scores):
            raise InputError(f"fusion of {count} systems ({', '.join(fusion.systems)}), got {len(scores)} files")
        of = FUSIBLE[fusion.task]
        systems = join_systems(scores, of)
        fused = fusion.apply([trials.scores[of.scores] for trials in systems])
        write_table(out, (*of.trial, of.scores), zip(*systems[0].names, fused.tolist(), strict=True))
        return Fused(len(fused), fusion)
    assert keys is not None
    return _fit_fusion(scores, keys, track, prior, out)


def _fit_fusion(scores: Sequence[str | Path], keys: str | Path, name: str, prior: float, out: str | Path) -> Fused:
    track = FUSIBLE[name]
    known = read_keys(keys, track)
    systems = {str(path): join_scores(path, known, track) for path in scores}
    trials = next(iter(systems.values()))
    columns = {system: scored.scores[track.scores] for system, scored in systems.items()}
    stacked, positive = np.stack([*columns.values()]), trials.classes == track.kinds[0]
    weights, offset = fit_weights(stacked, positive, prior)
    warn_if_separate(weights @ stacked, positive, keys)
    sizes = int(positive.sum()), int((~positive).sum())
    fusion = Fusion(name, tuple(systems), weights, offset, prior, Path(keys).name, *sizes)
    fusion.write(out)
    columns["fused"] = fusion.apply([*columns.values()])
    comparison = {(str(keys), system): measure_scores(track, trials, column) for system, column in columns.items()}
    return Fused(positive.size, fusion, comparison)


def fuse_tandem_files(verifier: str | Path, countermeasure: str | Path, out: str | Path) -> int:
    """Write `spk filename cm-score asv-score sasv-score` for every trial of the verifier; return their number.

    The countermeasure's file has every recording that is tested, with or without suffix.
    """
    (trials,), (scored,) = join_systems([verifier], SV), join_systems([countermeasure], TRACK1)
    pairs = list(zip(*trials.names, strict=True))
    (twice, times), *_ = Counter(pairs).most_common(1)
    if times > 1:
        raise InputError(f"{verifier}: '{' '.join(twice)}' stands twice; track 2 has every trial once")
    register = Register(scored.names[0])
    found = {test: register.find(test) for _, test in pairs}
    places = {test: place for test, place in found.items() if place is not None}
    unknown = [test for test in found if test not in places]
    if unknown:
        more = f" (and {len(unknown) - 1:,} more recordings)" if len(unknown) > 1 else ""
        raise InputError(
            f"{verifier}: '{unknown[0]}' has no cm-score in {countermeasure}{more}; score every recording that is "
            "tested with the countermeasure"
        )
    asv, cm = trials.scores[SV.scores], scored.scores[TRACK1.scores][[places[test] for _, test in pairs]]
    rows = zip(pairs, *(column.tolist() for column in (cm, asv, fuse_tandem(asv, cm))), strict=True)
    write_table(out, (*TRACK2.trial, *TRACK2.tandem, TRACK2.scores), ((*pair, *cells) for pair, *cells in rows))
    return len(pairs)


def fuse_tandem(verifier: FloatArray, countermeasure: FloatArray, cost: SasvCost = ASVSPOOF5_SASV) -> FloatArray:
    """Return [T] the log-likelihood ratio of the target against nontarget and spoof.

    Both scores [T] are log-likelihood ratios: target against nontarget, and bona fide against spoof.
    """
    _, nontarget, spoof = cost.weights
    share = nontarget / (nontarget + spoof)
    fused: FloatArray = -np.logaddexp(np.log(share) - verifier, np.log1p(-share) - countermeasure)
    return fused
