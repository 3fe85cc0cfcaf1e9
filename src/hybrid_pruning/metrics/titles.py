"""Metrics for a person: titles, units, and which values deserve a second look."""

from collections.abc import Mapping

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
    "n_bonafide": "bona fide trials",
    "n_spoof": "spoof trials",
    "n_target": "target trials",
    "n_nontarget": "nontarget trials",
}


def find_warnings(result: Mapping[str, float]) -> list[str]:
    """Return what in the metrics a person should look at twice, one sentence each."""
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
        found.append("a-DCF is 1, as for a system that knows nothing: are the scores inverted?")
    return found


def show_value(name: str, value: float, sign: str = "") -> str:
    """Return a metric as a table shows it; `sign` is the format's, + for differences."""
    if name.startswith("n_"):
        return f"{value:,.0f}"
    return f"{100 * value:{sign}.3f}" if TITLES.get(name, name).endswith("%") else f"{value:{sign}.4f}"
