"""A verifier and a countermeasure in tandem: the rule by Bayes' theorem, and the file that the evaluation reads."""

import math
from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.evaluation.fusion import fuse_tandem, fuse_tandem_files
from hybrid_pruning.metrics import ASVSPOOF5_SASV, SasvCost


def test_the_rule_is_bayes_theorem_for_a_mixture():
    asv, cm, share = 1.3, -0.4, 0.0095 / 0.0595
    likelihood = {"target": 1.0, "nontarget": math.exp(-asv), "spoof": math.exp(-cm)}
    expected = math.log(likelihood["target"] / (share * likelihood["nontarget"] + (1 - share) * likelihood["spoof"]))
    assert fuse_tandem(np.array([asv]), np.array([cm])) == pytest.approx([expected])


def test_both_have_to_accept():
    asv, cm = np.array([50.0, -50.0, 50.0, 800.0]), np.array([50.0, 50.0, -50.0, 800.0])
    accepted, nontarget, spoof, sure = fuse_tandem(asv, cm)
    assert accepted == pytest.approx(50, abs=2)
    assert nontarget == pytest.approx(-50, abs=2)
    assert spoof == pytest.approx(-50, abs=2)
    assert math.isfinite(sure), "however far the scores lie out"
    only_spoofs = SasvCost(p_nontarget=1e-12, p_spoof=0.5)
    assert fuse_tandem(np.array([-3.0]), np.array([2.0]), only_spoofs) == pytest.approx([2.0], abs=1e-6)


def world(folder: Path, trials: int = 900) -> tuple[Path, Path, Path]:
    """Write scores that are log-likelihood ratios, and keys; spoofs are the target to the verifier."""
    rng = np.random.default_rng(0)
    kinds = np.array(["target", "nontarget", "spoof"])[np.arange(trials) % 3]
    asv = np.where(kinds == "nontarget", -3.0, 3.0) + rng.normal(size=trials) * math.sqrt(
        6
    )  # LLR: mean is variance / 2
    cm = np.where(kinds == "spoof", -3.0, 3.0) + rng.normal(size=trials) * math.sqrt(6)
    names = [f"E_{index}" for index in range(trials)]
    rows = [
        f"D_{index % 7}\t{name}\t{score!r}\n"
        for index, (name, score) in enumerate(zip(names, asv.tolist(), strict=True))
    ]
    (folder / "asv.tsv").write_text("enrol\ttest\tscore\n" + "".join(rows))
    order = rng.permutation(trials).tolist()
    (folder / "cm.tsv").write_text(
        "filename\tcm-score\n" + "".join(f"{names[i]}.flac\t{cm[i].item()!r}\n" for i in order)
    )
    keys = (f"D_{index % 7} {name} F - {kind}\n" for index, (name, kind) in enumerate(zip(names, kinds, strict=True)))
    (folder / "keys").write_text("".join(keys))
    return folder / "asv.tsv", folder / "cm.tsv", folder / "keys"


def test_the_file_is_what_track_2_reads(tmp_path: Path):
    asv, cm, keys = world(tmp_path)
    assert fuse_tandem_files(asv, cm, tmp_path / "out.tsv") == 900
    header, *lines = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert header == ["spk", "filename", "cm-score", "asv-score", "sasv-score"]
    assert [line[:2] for line in lines] == [line.split()[:2] for line in keys.read_text().splitlines()]
    known = {line.split("\t")[0]: line.split("\t")[1] for line in cm.read_text().splitlines()[1:]}
    assert all(line[2] == known[f"{line[1]}.flac"] for line in lines)
    found = evaluate(tmp_path / "out.tsv", keys, "track2").metrics
    (tmp_path / "sum.tsv").write_text(
        "spk\tfilename\tsasv-score\n" + "".join(f"{s}\t{f}\t{float(a) + float(c)}\n" for s, f, c, a, _ in lines)
    )
    assert found["a_dcf"] < evaluate(tmp_path / "sum.tsv", keys, "track2").metrics["a_dcf"] < 1
    assert found["min_t_dcf"] < 1


def test_llrs_need_no_other_threshold(tmp_path: Path):
    """At the threshold of its costs, the fused score costs hardly more than at the best."""
    asv, cm, keys = world(tmp_path, 30_000)
    fuse_tandem_files(asv, cm, tmp_path / "out.tsv")
    fused = np.array([float(line.split("\t")[4]) for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]])
    kinds = np.array([line.split()[-1] for line in keys.read_text().splitlines()])
    cost = ASVSPOOF5_SASV
    weights = {"nontarget": cost.cost_nontarget * cost.p_nontarget, "spoof": cost.cost_spoof * cost.p_spoof}
    threshold = math.log(sum(weights.values()) / (cost.cost_miss * cost.p_target))
    paid = cost.p_target * (fused[kinds == "target"] < threshold).mean()
    paid += sum(weight * (fused[kinds == kind] >= threshold).mean() for kind, weight in weights.items())
    least = evaluate(tmp_path / "out.tsv", keys, "track2").metrics["a_dcf"] * sum(weights.values())
    assert least <= paid < 1.05 * least
