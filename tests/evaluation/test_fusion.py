"""Fusion: of systems, by weights fitted on keyed scores; of a verifier and a countermeasure, by Bayes' theorem."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_calibration import write_keys, write_scores

from hybrid_pruning import InputError, evaluate, fuse, metrics
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_trials
from hybrid_pruning.evaluation.fusion import Fusion, fuse_tandem
from hybrid_pruning.metrics import SasvCost


def test_a_fusion_is_better_than_each_of_its_systems(tmp_path: Path):
    rng = np.random.default_rng(0)
    positive = rng.random(4000) < 0.5
    columns = [np.where(positive, 1, -1) * strength + rng.normal(size=4000) for strength in (1.0, 0.8)]
    systems = [write_scores(tmp_path / f"{index}.tsv", column) for index, column in enumerate(columns)]
    fusion = fuse(systems, tmp_path / "fusion.json", keys=write_keys(tmp_path / "k.tsv", positive)).fusion
    assert fusion is not None
    assert Fusion.read(tmp_path / "fusion.json") == fusion
    fused = fusion.apply(columns)
    alone = [metrics.eer(column[positive], column[~positive]) for column in columns]
    assert metrics.eer(fused[positive], fused[~positive]) < min(alone) - 0.02
    assert fusion.weights == pytest.approx((2.0, 1.6), rel=0.1)
    assert fused == pytest.approx(fusion.weights[0] * columns[0] + fusion.weights[1] * columns[1] + fusion.offset)


def test_fused_files_hold_the_fused_scores_in_the_first_files_order(tmp_path: Path):
    one = write_scores(tmp_path / "one.tsv", np.array([1.0, 2.0, 3.0]))
    two = tmp_path / "two.tsv"
    two.write_text("filename\tcm-score\nu2\t30\nu0\t10\nu1\t20\n")
    fusion = Fusion("track1", ("a", "b"), (2.0, 0.1), 0.5, 0.5, "k.tsv", 1, 2)
    fusion.write(tmp_path / "fusion.json")
    assert Fusion.read(tmp_path / "fusion.json") == fusion
    apply = tmp_path / "fusion.json"
    assert fuse([one, two], tmp_path / "out.tsv", apply=apply).trials == 3
    assert (tmp_path / "out.tsv").read_text() == "filename\tcm-score\nu0\t3.5\nu1\t6.5\nu2\t9.5\n"
    with pytest.raises(InputError, match=r"fusion of 2 systems \(a, b\), got 1 files"):
        fuse([one], tmp_path / "new.tsv", apply=apply)
    for rows, systems, message in (
        ("u2\t30\nu0\t10\n", [one, two], r"one.tsv: 'u1' has no score in \S+two.tsv; do both files belong to"),
        ("u2\t30\nu0\t10\n", [two, one], r"one.tsv:3: 'u1' has no score in \S+two.tsv; do both files belong to"),
        ("u2\t30\nu2\t10\nu1\t2\n", [two, one], r"two.tsv:3: 'u2' stands twice"),
        ("u2\tnan\nu0\t10\nu1\t2\n", [one, two], r"two.tsv:2: cm-score of 'u2' is 'nan'"),
    ):
        two.write_text(f"filename\tcm-score\n{rows}")
        with pytest.raises(InputError, match=message):
            fuse(systems, tmp_path / "new.tsv", apply=apply)
    assert not (tmp_path / "new.tsv").exists()


def test_verification_scores_are_fused_the_same_way(tmp_path: Path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    names = [(f"p{index % 9}", f"q {index}") for index in range(400)]  # names may hold blanks where tabs separate
    (tmp_path / "t").write_text(
        "label\tenrol\ttest\n" + "".join(f"{label}\t{e}\t{t}\n" for label, (e, t) in zip(labels, names, strict=True))
    )
    systems = [tmp_path / "0.tsv", tmp_path / "1.tsv"]
    for path in systems:
        rows = [f"{e}\t{t}\t{label + rng.normal(0, 0.7)}\n" for label, (e, t) in zip(labels, names, strict=True)]
        path.write_text("enrol\ttest\tscore\n" + "".join(rows + rows[:1]))  # a trial may stand twice, in keys as well
    with (tmp_path / "t").open("a") as handle:
        handle.write(f"{labels[0]}\t{names[0][0]}\t{names[0][1]}\n")
    trials = [read_trials(path, tmp_path / "t", SV) for path in systems]
    fusion = fuse(systems, tmp_path / "f.json", keys=tmp_path / "t", track="sv").fusion
    assert fuse(systems, tmp_path / "out.tsv", apply=tmp_path / "f.json").trials == 401
    fused = read_trials(tmp_path / "out.tsv", tmp_path / "t", SV)
    assert fused.scores["score"] == pytest.approx(fusion.apply([one.scores["score"] for one in trials]))
    assert fused.names == trials[0].names


def test_a_file_that_is_no_fusion_or_a_damaged_one_is_refused(tmp_path: Path):
    path, another = tmp_path / "f.json", "f.json: .*write one with `fuse"
    Fusion("track1", ("a", "b"), (2.0, 0.1), 0.5, 0.5, "k.tsv", 1, 2).write(path)
    whole = json.loads(path.read_text())
    damages = ({"weights": [1.0]}, {"offset": None}, {"task": "track3"}, {"weights": ["x", 1]})
    texts = ("", "[]", "{}", '{"format": "hybrid-pruning fusion"}', '{"format": "other"}', "\x00", '"text"')
    for text, message in (
        *((text, another) for text in texts),
        *((json.dumps(whole | damage), "f.json: is no fusion") for damage in damages),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            Fusion.read(path)
    with pytest.raises(InputError, match=r"absent.json: cannot be read"):
        Fusion.read(tmp_path / "absent.json")


def test_the_rule_is_bayes_theorem_for_a_mixture():
    asv, cm, share = 1.3, -0.4, 0.0095 / 0.0595
    likelihood = {"target": 1.0, "nontarget": math.exp(-asv), "spoof": math.exp(-cm)}
    expected = math.log(likelihood["target"] / (share * likelihood["nontarget"] + (1 - share) * likelihood["spoof"]))
    assert fuse_tandem(np.array([asv]), np.array([cm])) == pytest.approx([expected])


def test_both_have_to_accept():
    asv, cm = np.array([50.0, -50.0, 50.0, 800.0]), np.array([50.0, 50.0, -50.0, 800.0])
    assert fuse_tandem(asv, cm) == pytest.approx([50, -50, -50, 800], abs=2), "however far the scores lie out"
    only_spoofs = SasvCost(p_nontarget=1e-12, p_spoof=0.5)
    assert fuse_tandem(np.array([-3.0]), np.array([2.0]), only_spoofs) == pytest.approx([2.0], abs=1e-6)


def world(folder: Path, trials: int) -> tuple[Path, Path, Path]:
    """Write scores that are log-likelihood ratios, and keys; spoofs are the target to the verifier."""
    rng = np.random.default_rng(0)
    kinds = np.array(["target", "nontarget", "spoof"])[np.arange(trials) % 3]
    noise = rng.normal(size=(2, trials)) * math.sqrt(6)  # of log-likelihood ratios the mean is half the variance
    asv, cm = (
        np.where(kinds == worst, -3.0, 3.0) + one for worst, one in zip(("nontarget", "spoof"), noise, strict=True)
    )
    spk, names = [f"D_{index % 7}" for index in range(trials)], [f"E_{index}" for index in range(trials)]
    order = rng.permutation(trials).tolist()
    write_table(folder / "asv.tsv", ("enrol", "test", "score"), zip(spk, names, asv.tolist(), strict=True))
    write_table(folder / "cm.tsv", ("filename", "cm-score"), ((f"{names[i]}.flac", cm[i].item()) for i in order))
    write_table(folder / "keys", ("spk", "filename", "asv-label"), zip(spk, names, kinds, strict=True))
    return folder / "asv.tsv", folder / "cm.tsv", folder / "keys"


def test_track_2_reads_the_file(tmp_path: Path):
    asv, cm, keys = world(tmp_path, 900)
    assert fuse([asv, cm], tmp_path / "out.tsv", track="sasv").trials == 900
    header, *lines = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert header == ["spk", "filename", "cm-score", "asv-score", "sasv-score"]
    assert [line[:2] for line in lines] == [line.split()[:2] for line in keys.read_text().splitlines()[1:]]
    known = {line.split("\t")[0]: line.split("\t")[1] for line in cm.read_text().splitlines()[1:]}
    assert all(line[2] == known[f"{line[1]}.flac"] for line in lines)
    found = evaluate(tmp_path / "out.tsv", keys, "track2").metrics
    added = ((speaker, name, float(asv) + float(cm)) for speaker, name, cm, asv, _ in lines)
    write_table(tmp_path / "sum.tsv", ("spk", "filename", "sasv-score"), added)
    assert found["a_dcf"] < evaluate(tmp_path / "sum.tsv", keys, "track2").metrics["a_dcf"] < 1
    assert found["min_t_dcf"] < 1


def test_llrs_need_no_other_threshold(tmp_path: Path):
    """At the threshold of its costs, the fused score costs hardly more than at the best."""
    asv, cm, keys = world(tmp_path, 30_000)
    fuse([asv, cm], tmp_path / "out.tsv", track="sasv")
    fused = np.array([float(line.split("\t")[4]) for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]])
    kinds = np.array([line.split()[-1] for line in keys.read_text().splitlines()[1:]])
    weights = {"nontarget": 10 * 0.0095, "spoof": 10 * 0.05}
    threshold = math.log(sum(weights.values()) / 0.9405)
    paid = 0.9405 * (fused[kinds == "target"] < threshold).mean()
    paid += sum(weight * (fused[kinds == kind] >= threshold).mean() for kind, weight in weights.items())
    least = evaluate(tmp_path / "out.tsv", keys, "track2").metrics["a_dcf"] * sum(weights.values())
    assert least <= paid < 1.05 * least
