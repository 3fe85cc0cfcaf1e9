"""A verifier and a countermeasure -> spoofing-robust speaker verification, in the file of ASVspoof 5, track 2.

Both scores have to be log-likelihood ratios: the verifier's of the target against another human speaker, calibrated on
trials without spoofs; the countermeasure's of bona fide speech against spoofs. A trial is then as likely a target's,
against a mixture of nontarget and spoof in the shares r and 1 - r, as

    sasv = -log(r exp(-asv) + (1 - r) exp(-cm))

where a spoof is taken to look like the target to the verifier, and all human speech alike to the countermeasure. The
shares are those of the a-DCF, of cost times prior: r = 0.16 with the costs of ASVspoof 5, whose decision is right at
-0.458 = log((10 x 0.0095 + 10 x 0.05) / 0.9405).

Source: Wang et al., "Revisiting and Improving Scoring Fusion for Spoofing-aware Speaker Verification Using
Compositional Data Analysis", 2024, the non-linear fusion.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from hybrid_pruning.data.names import Register
from hybrid_pruning.data.score_files import join_systems
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.metrics.costs import ASVSPOOF5_SASV, SasvCost

COLUMNS = (*TRACK2.trial, *TRACK2.tandem, TRACK2.scores)


def fuse_tandem(verifier: FloatArray, countermeasure: FloatArray, cost: SasvCost = ASVSPOOF5_SASV) -> FloatArray:
    """Return [T] the log-likelihood ratio of the target against nontarget and spoof.

    Args:
        verifier: [T] log-likelihood ratios of target against nontarget.
        countermeasure: [T] log-likelihood ratios of bona fide against spoof.
        cost: its shares of nontarget and spoof.
    """
    nontarget, spoof = cost.cost_nontarget * cost.p_nontarget, cost.cost_spoof * cost.p_spoof
    share = nontarget / (nontarget + spoof)
    fused: FloatArray = -np.logaddexp(np.log(share) - verifier, np.log1p(-share) - countermeasure)
    return fused


def fuse_tandem_files(verifier: str | Path, countermeasure: str | Path, out: str | Path) -> int:
    """Write `spk filename cm-score asv-score sasv-score` for every trial of the verifier, and return how many they are.

    Args:
        verifier: TSV with enrol, test and score.
        countermeasure: TSV with filename and cm-score of every recording that is tested, with or without suffix.
        out: the file that `evaluate --track2` reads.

    Raises:
        InputError: a file cannot be read, a trial stands twice, a recording has no cm-score, or the output cannot be
            written.
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
    write_table(out, COLUMNS, ((*pair, *cells) for pair, *cells in rows))
    return len(pairs)
