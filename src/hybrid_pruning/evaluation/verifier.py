"""The organisers' speaker verifier behind a t-DCF: its score files of ASVspoof 2019 and 2021 -> its error rates.

Source: the evaluation plans of both challenges and the files they were released with.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hybrid_pruning.data.tables import Text, read_lines
from hybrid_pruning.data.trials import require_known
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import AsvRates, asv_rates, t_dcf

KINDS = ("target", "nontarget", "spoof")
SCORES_2019 = ("source", "kind", "score")
"""E.g. `bonafide target 36.78691` or `A07 spoof 27.07672`."""
SCORES_2021 = ("spk", "filename", "score")
KEYS_2021 = ("spk", "filename", "codec", "transmission", "attack", "kind", "trim", "phase")
"""E.g. `LA_0007-alaw-ita_tx LA_E_5013670-alaw-ita_tx alaw ita_tx bonafide nontarget notrim eval`."""


def read_verifier_2019(path: str | Path) -> AsvRates:
    """Return the error rates from ASVspoof2019.LA.asv.*.gi.trl.scores.txt."""
    text = read_lines(Path(path))
    cells = text.take(SCORES_2019, ("kind", "score"), None)
    return _rates(text, cells["kind"], cells["score"])


def read_verifier_2021(scores: str | Path, keys: str | Path, only: Mapping[str, str] | None = None) -> AsvRates:
    """Return the error rates from ASV/ASVtorch_kaldi/score.txt and ASV/trial_metadata.txt of the keys of 2021 LA.

    Only trials with the given values in columns of the keys count, such as phase -> eval.
    """
    table, text = read_lines(Path(scores)), read_lines(Path(keys))
    scored = table.take(SCORES_2021, SCORES_2021, None)
    known = text.take(KEYS_2021, KEYS_2021, None)
    require_known(text.path, KEYS_2021, list(only or {}))
    score = dict(zip(zip(scored["spk"], scored["filename"], strict=True), scored["score"], strict=True))
    chosen = [
        (row, (known["spk"][row], known["filename"][row]))
        for row in range(len(text.lines))
        if all(known[column][row] == value for column, value in (only or {}).items())
    ]
    missing = [(row, trial) for row, trial in chosen if trial not in score]
    text.refuse([(row, f"'{' '.join(trial)}' has no score in {scores}") for row, trial in missing])
    return _rates(text, [known["kind"][row] for row, _ in chosen], [score[trial] for _, trial in chosen])


def _rates(text: Text, kinds: Sequence[str], cells: Sequence[str]) -> AsvRates:
    try:
        scores, kind = np.array(cells, dtype=np.float64), np.array(kinds, dtype=np.str_)
        rates = asv_rates(*(scores[kind == name] for name in KINDS))
        t_dcf([1.0], [0.0], asv=rates)  # whether a tandem with it makes sense
    except ValueError as error:
        raise InputError(f"{text.path}: is no score file of a verifier ({error})") from error
    return rates
