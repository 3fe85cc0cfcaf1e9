"""Calibration and fusion: logistic regression by its definition, composing, bad input; tandems by Bayes' theorem."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from hybrid_pruning import InputError, evaluate, metrics
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.data.trials import Trials, read_trials
from hybrid_pruning.evaluation.fitting import (
    VERIFICATION,
    find_qualities,
    fit_calibration,
    fit_weights,
    require_same_cohort,
)
from hybrid_pruning.evaluation.fusion import Fusion, fuse, fuse_tandem
from hybrid_pruning.metrics import SasvCost
from hybrid_pruning.models.calibration import Calibration, Fit


def gaussians(trials, mean, seed=0, share=0.3):
    """Return scores whose log-likelihood ratio is 2 * mean * score, and which of them are positive."""
    rng = np.random.default_rng(seed)
    positive = rng.random(trials) < share
    return np.where(positive, mean, -mean) + rng.normal(size=trials), positive


def as_trials(scores, positive):
    classes = np.where(positive, "bonafide", "spoof")
    return Trials({"cm-score": scores}, classes, {}, [f"u{index}" for index in range(scores.size)])


def write_scores(path, scores):
    rows = (f"u{index}\t{score!r}\n" for index, score in enumerate(scores.tolist()))
    path.write_text("filename\tcm-score\n" + "".join(rows))
    return path


def write_keys(path, positive):
    rows = (f"u{index}\t{'bonafide' if label else 'spoof'}\n" for index, label in enumerate(positive))
    path.write_text("filename\tcm-label\n" + "".join(rows))
    return path


def make_fit(scale, offset, digest=""):
    return Fit(scale, offset, 0.5, "s.tsv", "k.tsv", digest, 3, 4)


@pytest.mark.parametrize("prior", [0.5, 0.05, 0.9])
@pytest.mark.parametrize("systems", [1, 3])
@pytest.mark.parametrize("separate", [False, True])
def test_weights_minimise_the_prior_weighted_cross_entropy(prior, systems, separate):
    """By the definition, and of separate classes with Jeffreys' prior, whatever the scores' scale and offset."""
    rng = np.random.default_rng(systems)
    positive = rng.random(300) < 0.3
    scores = np.where(positive, 0.5, -0.5) + rng.normal(size=(systems, 300))
    if separate:
        scores[0] = np.where(positive, 0.1, -0.1) + np.where(positive, 1, -1) * np.abs(scores[0])
    share = np.where(positive, prior / positive.sum(), (1 - prior) / (~positive).sum())

    def loss(parameters):
        logits = parameters[:-1] @ scores + parameters[-1] + np.log(prior / (1 - prior))
        chance = 1 / (1 + np.exp(-logits))
        value = -np.sum(share * np.log(np.where(positive, chance, 1 - chance)))
        if separate:
            inputs = np.vstack([scores, np.ones(300)])
            information = (inputs * (share * chance * (1 - chance))) @ inputs.T
            value -= 0.5 * np.log(np.linalg.det(information)) * np.sum(share**2)
        return value

    weights, offset = fit_weights(scores, positive, prior)
    found = np.array([*weights, offset])
    best = minimize(loss, found * 0.9, method="BFGS", options={"gtol": 1e-7})
    assert found == pytest.approx(best.x, rel=1e-4, abs=1e-4)
    assert loss(found) <= best.fun + 1e-9
    moved, shifted = fit_weights(7 * scores - 3, positive, prior)
    assert np.array([*moved]) * 7 == pytest.approx(found[:-1], rel=1e-5, abs=1e-5)
    assert shifted - 3 * sum(moved) == pytest.approx(offset, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("trials", "d_prime", "share"), [(200, 1, 0.5), (200, 2, 0.2), (2000, 2, 0.1), (2000, 4, 0.5), (10_000, 6, 0.5)]
)
def test_calibration_recovers_the_true_llr_without_bias(trials, d_prime, share):
    """The LLR of two Gaussians at a distance d' is d' times the score; no shrinking towards 0, nor a shift."""
    fits = []
    seeds = 20 if trials < 10_000 else 6
    for seed in range(seeds):
        scores, positive = gaussians(trials, d_prime / 2, seed, share)
        (scale,), offset = fit_weights(scores[None], positive)
        fits.append((scale / d_prime, offset))
    (scale, offset), (scale_error, offset_error) = np.mean(fits, axis=0), np.std(fits, axis=0) / seeds**0.5
    assert scale == pytest.approx(1, abs=3 * scale_error + 4 / (trials * share) + 0.01)
    assert offset == pytest.approx(0, abs=3 * offset_error + 0.02)


def test_calibrated_scores_cost_hardly_more_than_the_least():
    scores, positive = gaussians(20_000, 1.2)
    scores = 5 * scores - 8
    (scale,), offset = fit_weights(scores[None], positive)
    given, classes = ((column[positive], column[~positive]) for column in (scores, scale * scores + offset))
    assert metrics.cllr(*classes) < metrics.min_cllr(*classes) + 0.01 < metrics.cllr(*given)
    assert metrics.act_dcf(*classes) < metrics.min_dcf(*classes) + 0.02 < metrics.act_dcf(*given)
    assert metrics.eer(*classes) == metrics.eer(*given)


def test_classes_without_overlap_get_a_finite_scale_and_a_warning(capsys, tmp_path):
    scores = np.concatenate([np.arange(1.0, 11), -np.arange(1.0, 11)])
    positive = scores > 0
    (scale,), offset = fit_weights(scores[None], positive)
    assert (scale, offset) == (pytest.approx(0.770, abs=1e-3), pytest.approx(0, abs=1e-6))
    assert fit_weights(scores[None], positive)[0] == (scale,), "the same again"
    wider = scores + np.where(positive, 5, -5)
    assert fit_weights(wider[None], positive)[0][0] < scale, "a wider gap says less of the scale"
    touching = np.where(np.abs(scores) == 1, 0, scores)  # a tie between the classes bounds the scale no more
    assert fit_weights(touching[None], positive)[0][0] == pytest.approx(0.656, abs=1e-3)
    assert fit_weights(np.array([[0.0, 1.0]]), np.array([False, True]))[0][0] < 10
    fit_calibration(as_trials(scores, positive), TRACK1, write_scores(tmp_path / "s.tsv", scores), "k.tsv")
    write_scores(tmp_path / "b.tsv", wider)
    systems, keys = [tmp_path / "s.tsv", tmp_path / "b.tsv"], write_keys(tmp_path / "k.tsv", positive)
    fuse(systems, tmp_path / "fusion.json", keys=keys)
    assert [line.split(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"warning: {name}: no error in 20 trials, so the scale cannot be estimated and is kept low"
        for name in (tmp_path / "s.tsv", keys)
    ]


def test_systems_that_score_alike_share_their_weight():
    scores, positive = gaussians(2000, 1.0)
    other = gaussians(2000, 1.0, seed=1)[0] * np.where(positive, 1, -1) * np.where(gaussians(2000, 1, 1)[1], 1, -1)
    (alone, beside), offset = fit_weights(np.stack([scores, other]), positive)
    (one, two, three), again = fit_weights(np.stack([scores, scores, other]), positive)
    assert one == pytest.approx(two, rel=1e-6)
    assert (one + two, three, again) == pytest.approx((alone, beside, offset), rel=1e-5, abs=1e-6)


def with_qualities(trials=20_000):
    """Return verification scores that mean less where recordings are short, with quality measures beside them."""
    rng = np.random.default_rng(3)
    positive = rng.random(trials) < 0.4
    seconds = rng.normal(2, 0.7, trials)
    scores = {"score": np.where(positive, 1, -1) + rng.normal(size=trials) - 0.8 * seconds, "log-seconds-min": seconds}
    scores["embedding-length-min"] = np.full(trials, 1.7)
    names = [f"e{index}\tt" for index in range(trials)]
    return Trials(scores, np.where(positive, "target", "nontarget"), {}, names), positive


def test_quality_measures_are_weighed(tmp_path):
    trials, positive = with_qualities()
    path = write_scores(tmp_path / "s.tsv", trials.scores["score"])
    plain, fit = (fit_calibration(trials, task, path, "k.tsv") for task in (SV, VERIFICATION))
    assert (fit.scale, fit.offset) == pytest.approx((2, 0), abs=0.1)
    assert fit.qualities == pytest.approx({"log-seconds-min": 1.6}, abs=0.1), "what is the same in all is left out"
    assert plain.qualities == {}
    systems = np.stack([trials.scores["score"], trials.scores["log-seconds-min"]])
    (scale, weight), offset = fit_weights(systems, positive)
    assert (fit.scale, fit.offset, fit.qualities["log-seconds-min"]) == (scale, offset, weight), "as fusion does"
    better, worse = (
        Calibration((one,)).apply(trials.scores["score"], find_qualities(trials, one, path)) for one in (fit, plain)
    )
    assert metrics.eer(better[positive], better[~positive]) < metrics.eer(worse[positive], worse[~positive]) - 0.02


def test_calibrations_compose_and_survive_json():
    rng = np.random.default_rng(0)
    scores, one, other = rng.normal(size=(3, 5))
    first = replace(make_fit(2.0, 1.0, "a"), qualities={"log-seconds-min": 0.5})
    second = replace(make_fit(0.5, -3.0, "b"), qualities={"log-seconds-min": 1.0, "log-seconds-max": -1.0})
    calibration = Calibration().then(first).then(second)
    assert (calibration.scale, calibration.offset) == (1.0, -2.5)
    expected = 0.5 * (2 * scores + 1 + 0.5 * one) - 3 + one - other
    assert calibration.apply(scores, {"log-seconds-min": one, "log-seconds-max": other}) == pytest.approx(expected)
    assert Calibration().apply(scores) == pytest.approx(scores)
    for whole in (calibration, Calibration().then(make_fit(1 / 3, 1e-9, "a")).then(make_fit(2.0, -1.0, "b"))):
        assert Calibration.from_json(json.loads(json.dumps(whole.to_json())), "config.json") == whole
    (fit,) = Calibration().then(make_fit(2.0, 1.0)).to_json()["fits"]  # without quality measures as before them
    assert set(fit) == {"scale", "offset", "prior", "scores", "keys", "digest", "positives", "negatives"}


def test_missing_quality_measures_are_named():
    trials, _ = with_qualities(50)
    fit = replace(make_fit(1.0, 0.0), qualities={"log-seconds-max": 1.0})
    with pytest.raises(InputError, match=r"s.tsv: column 'log-seconds-max' is missing, .*score with --qualities"):
        find_qualities(trials, fit, "s.tsv")
    require_same_cohort(trials, "s.tsv", has_cohort=False)
    with pytest.raises(InputError, match=r"s.tsv: was made without a cohort, but the model has one"):
        require_same_cohort(trials, "s.tsv", has_cohort=True)


def test_a_second_fit_on_calibrated_scores_changes_next_to_nothing(tmp_path):
    scores, positive = gaussians(5000, 1.0)
    keys = write_keys(tmp_path / "k.tsv", positive)
    calibration = Calibration()
    for name in ("first.tsv", "second.tsv"):
        path = write_scores(tmp_path / name, calibration.apply(3 * scores + 2))
        trials = read_trials(path, keys, TRACK1)
        calibration = calibration.then(fit_calibration(trials, TRACK1, path, keys))
    first, second = calibration.fits
    assert first.scale * 3 == pytest.approx(2, rel=0.1)
    assert (second.scale, second.offset) == pytest.approx((1, 0), abs=1e-4)
    assert (first.scores, first.keys, first.prior) == ("first.tsv", "k.tsv", 0.5)
    assert (first.positives, first.negatives) == (positive.sum(), (~positive).sum())
    assert first.digest != second.digest
    expected = calibration.apply(3 * scores + 2)
    assert calibration.seen == pytest.approx((expected.min(), expected.max()))
    assert first.seen == pytest.approx(second.seen, abs=0.01)
    assert Calibration().seen is None
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json())), "config.json") == calibration


def test_scores_that_were_fitted_on_are_fitted_anew():
    calibration = Calibration().then(make_fit(2.0, 1.0, "a")).then(make_fit(0.5, -3.0, "b"))
    assert calibration.then(make_fit(7.0, 0.0, "b")).fits == (make_fit(2.0, 1.0, "a"), make_fit(7.0, 0.0, "b"))
    assert calibration.then(make_fit(7.0, 0.0, "a")).fits == (make_fit(7.0, 0.0, "a"),)
    assert len(calibration.then(make_fit(7.0, 0.0, "c")).fits) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, "config.json: calibration has scale 0.0 and offset 1.0; calibrate anew"),
        ({"scale": -1.0}, "scale -1.0"),
        ({"offset": float("nan")}, "offset nan"),
        ({"why": 1}, "config.json: calibration cannot be understood .*why"),
        ({"scale": "2"}, "config.json: calibration cannot be understood"),
        ({"qualities": {"pitch": 1.0}}, "quality measure 'pitch' is unknown"),
        ({"qualities": {"log-seconds-min": float("inf")}}, "scale 2.0"),
        ({"qualities": [1]}, "config.json: calibration cannot be understood"),
        ({"seen": [1.0]}, r"config.json: calibration cannot be understood \(seen \[1.0\]: expected two numbers"),
        ({"seen": 3}, "config.json: calibration cannot be understood"),
    ],
)
def test_a_damaged_calibration_is_refused(change, message):
    values = Calibration().then(make_fit(2.0, 1.0)).to_json()
    values["fits"][0] |= change
    with pytest.raises(InputError, match=message):
        Calibration.from_json(values, "config.json")
    for broken in ([], {}, {"fits": 3}, None):
        with pytest.raises(InputError, match=r"config.json: calibration cannot be understood"):
            Calibration.from_json(broken, "config.json")


def test_bad_scores_are_refused(tmp_path):
    scores, positive = gaussians(200, 2.0)
    path = write_scores(tmp_path / "s.tsv", scores)
    for bad, prior, message in (
        (-scores, 0.5, r"s.tsv: lower scores speak for bonafide \(scale -.*are they inverted"),
        (np.full(200, 3.0), 0.5, "all scores of system 1 are 3"),
        (np.full(200, 0.1), 0.5, r"all scores of system 1 are 0.1"),  # whose deviation is not 0 but 1e-17
        (np.where(positive, 1e308, -1e308), 0.5, r"scores from -1e\+308 to 1e\+308 cannot be calibrated"),
        *((scores, prior, "expected one between 0 and 1") for prior in (0.0, 1.0, -2.0, float("nan"))),
    ):
        with pytest.raises(InputError, match=message):
            fit_calibration(as_trials(bad, positive), TRACK1, path, "k.tsv", prior)


def test_a_fusion_is_better_than_each_of_its_systems(tmp_path):
    rng = np.random.default_rng(0)
    positive = rng.random(4000) < 0.5
    columns = [np.where(positive, 1, -1) * strength + rng.normal(size=4000) for strength in (1.0, 0.8)]
    systems = [write_scores(tmp_path / f"{index}.tsv", column) for index, column in enumerate(columns)]
    fusion = fuse(systems, tmp_path / "fusion.json", keys=write_keys(tmp_path / "k.tsv", positive)).fusion
    assert Fusion.read(tmp_path / "fusion.json") == fusion
    fused = fusion.apply(columns)
    alone = [metrics.eer(column[positive], column[~positive]) for column in columns]
    assert metrics.eer(fused[positive], fused[~positive]) < min(alone) - 0.02
    assert fusion.weights == pytest.approx((2.0, 1.6), rel=0.1)
    assert fused == pytest.approx(fusion.weights[0] * columns[0] + fusion.weights[1] * columns[1] + fusion.offset)


def test_fused_files_hold_the_fused_scores_in_the_first_files_order(tmp_path):
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


def test_verification_scores_are_fused_the_same_way(tmp_path):
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


def test_a_file_that_is_no_fusion_or_a_damaged_one_is_refused(tmp_path):
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


def test_a_tandem_is_bayes_theorem_for_a_mixture():
    asv, cm, share = 1.3, -0.4, 0.0095 / 0.0595
    likelihood = {"target": 1.0, "nontarget": math.exp(-asv), "spoof": math.exp(-cm)}
    expected = math.log(likelihood["target"] / (share * likelihood["nontarget"] + (1 - share) * likelihood["spoof"]))
    assert fuse_tandem(np.array([asv]), np.array([cm])) == pytest.approx([expected])
    asv, cm = np.array([50.0, -50.0, 50.0, 800.0]), np.array([50.0, 50.0, -50.0, 800.0])
    assert fuse_tandem(asv, cm) == pytest.approx([50, -50, -50, 800], abs=2), "however far the scores lie out"
    only_spoofs = SasvCost(p_nontarget=1e-12, p_spoof=0.5)
    assert fuse_tandem(np.array([-3.0]), np.array([2.0]), only_spoofs) == pytest.approx([2.0], abs=1e-6)


def world(folder, trials):
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


def test_track_2_reads_the_file(tmp_path):
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


def test_llrs_need_no_other_threshold(tmp_path):
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
