"""What an evaluation finds beside its metrics: groups, chosen trials, intervals, comparisons, t-DCF, curves, tables."""

import contextlib
import hashlib
import io
import json

import numpy as np
import pytest

from hybrid_pruning import metrics
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2
from hybrid_pruning.data.trials import read_trials
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import curves, evaluate, print_evaluation
from hybrid_pruning.evaluation.groups import find_resampling
from hybrid_pruning.evaluation.results import read_verifier_2019, read_verifier_2021

COLUMNS = ("filename", "cm-label", "speaker", "gender", "attack", "codec")


def write_lines(path, *rows, separator="\t"):
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return path


class Corpus:
    def __init__(self, folder, trials=600, speakers=12):
        rng = np.random.default_rng(0)
        self.human = rng.random(trials) < 0.4
        self.speaker = rng.integers(speakers, size=trials)
        self.gender = np.where(self.speaker % 2, "F", "M")
        self.attack = np.where(self.human, "-", np.array(["A01", "A02", "A03"])[rng.integers(3, size=trials)])
        self.codec = np.array(["-", "C01"])[rng.integers(2, size=trials)]
        hard = (self.attack == "A02") * 1.5 + (self.codec == "C01") * 0.4 * ~self.human
        self.value = rng.normal(0, 1, trials) + np.where(self.human, 2.0, -1.0) + hard
        names = [f"u{index}" for index in range(trials)]
        labels = np.where(self.human, "bonafide", "spoof")
        about = zip(names, labels, self.speaker, self.gender, self.attack, self.codec, strict=True)
        self.keys = write_lines(folder / "keys.tsv", COLUMNS, *about)
        self.names = names
        self.scores = self.write(folder / "a.tsv", self.value)
        self.other = self.write(folder / "b.tsv", self.value + rng.normal(0, 2, trials))

    def write(self, path, values):
        order = np.random.default_rng(1).permutation(len(self.names))
        rows = [(self.names[index], repr(float(values[index]))) for index in order]
        return write_lines(path, ("filename", "cm-score"), *rows)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


@pytest.mark.parametrize("by", ["attack", "codec", "gender", "codec,attack"])
def test_a_groups_spoofs_stand_against_bona_fide_speech_of_the_same_columns_but_attack(corpus, by):
    columns = by.split(",")
    found = evaluate(corpus.scores, corpus.keys, TRACK1, by=[by])
    (groups,) = found.groups.values()
    assert len(groups) == (3 if "attack" in columns else 1) * (2 if by != "attack" else 1)
    for group in groups:
        wanted = dict(zip(columns, group.values, strict=True))
        inside = {name: getattr(corpus, name) == value for name, value in wanted.items()}
        same = np.logical_and.reduce([*inside.values()])
        shared = np.logical_and.reduce([corpus.human, *(inside[name] for name in columns if name != "attack")])
        bonafide, spoof = corpus.value[shared], corpus.value[same & ~corpus.human]
        assert group.counts == {"bonafide": bonafide.size, "spoof": spoof.size}
        errors = {"miss": np.mean(bonafide < found.threshold), "false_alarm": np.mean(spoof >= found.threshold)}
        ranked = {"eer": metrics.eer(bonafide, spoof), "min_dcf": metrics.min_dcf(bonafide, spoof)}
        assert group.metrics == pytest.approx({**ranked, **errors}, rel=1e-12)
    rates = [group.metrics["eer"] for group in groups]
    assert rates == sorted(rates, reverse=True)
    ((title, rows),) = found.as_json()["by"].items()
    assert title == " x ".join(columns)
    assert list(rows[0]) == [*columns, "n_bonafide", "n_spoof", "eer", "min_dcf", "miss", "false_alarm"]
    below, above = (
        np.mean(corpus.value[corpus.human] < found.threshold),
        np.mean(corpus.value[~corpus.human] >= found.threshold),
    )
    assert (below + above) / 2 == pytest.approx(found.metrics["eer"])
    assert found.as_json()["by_threshold"] == found.threshold


def test_a_group_without_a_class_is_shown_without_a_figure(tmp_path):
    scores = write_lines(tmp_path / "s", ("filename", "cm-score"), *zip("abcd", (2, 1, -1, 1.5), strict=True))
    rows = [("a", "bonafide", "F"), ("b", "bonafide", "M"), ("c", "spoof", "F"), ("d", "bonafide", "M")]
    keys = write_lines(tmp_path / "k", ("filename", "cm-label", "gender"), *rows)
    found = evaluate(scores, keys, TRACK1, by=["gender"])
    (groups,) = found.groups.values()
    assert [(group.values, dict(group.counts), dict(group.metrics)) for group in groups] == [
        (("F",), {"bonafide": 1, "spoof": 1}, {"eer": 0.0, "min_dcf": 0.0, "miss": 0.0, "false_alarm": 0.0}),
        (("M",), {"bonafide": 2, "spoof": 0}, {}),
    ]
    assert "│ M │ 2 │ 0 │ - │ - │ - │ - │" in " ".join(printed(found).split())


def test_verification_groups_hold_both_classes(tmp_path):
    trials = [(f"e{i}", f"t{i}", "target" if i % 2 else "nontarget", "FM"[i // 4]) for i in range(8)]
    keys = write_lines(tmp_path / "k", ("enrol", "test", "label", "gender"), *trials)
    rows = [(enrol, test, index % 2) for index, (enrol, test, *_) in enumerate(trials)]
    scores = write_lines(tmp_path / "s", ("enrol", "test", "score"), *rows)
    (groups,) = evaluate(scores, keys, SV, by=["gender"]).groups.values()
    assert [dict(group.counts) for group in groups] == [{"target": 2, "nontarget": 2}] * 2


def test_chosen_trials_alone_count(corpus):
    found = evaluate(corpus.scores, corpus.keys, TRACK1, only={"codec": "C01", "gender": "F"})
    inside = (corpus.codec == "C01") & (corpus.gender == "F")
    bonafide, spoof = corpus.value[inside & corpus.human], corpus.value[inside & ~corpus.human]
    assert found.metrics["eer"] == metrics.eer(bonafide, spoof)
    wanted = {"filename", *np.array(corpus.names)[inside]}
    lines = corpus.scores.read_text().splitlines(keepends=True)
    part = corpus.scores.with_name("part.tsv")
    part.write_text("".join(line for line in lines if line.split("\t")[0] in wanted))
    assert evaluate(part, corpus.keys, TRACK1, only={"codec": "C01", "gender": "F"}).metrics == found.metrics


def test_intervals_resample_the_speakers_of_the_keys(corpus):
    found = evaluate(corpus.scores, corpus.keys, TRACK1, rounds=50, seed=3)
    shown = found.as_json()
    words = "12 speakers; so few make rough intervals"
    assert shown["bootstrap"] == {"rounds": 50, "seed": 3, "resampled": words, "percentiles": [2.5, 97.5]}
    assert set(shown["intervals"]) == {"eer", "min_dcf", "act_dcf", "cllr", "min_cllr"}
    for name, (low, high) in shown["intervals"].items():
        assert low <= shown[name] <= high or name == "min_cllr"  # fitted to each resample, it lies lower in all of them
    assert json.loads(json.dumps(shown)) == shown
    again = evaluate(corpus.scores, corpus.keys, TRACK1, rounds=50, seed=3)
    assert again.intervals == found.intervals


def test_systems_are_compared_on_the_same_resamples(corpus):
    found = evaluate(corpus.scores, corpus.keys, TRACK1, rounds=60, against=corpus.other)
    shown = found.as_json()["against"]
    assert shown["scores"] == corpus.other.name
    assert shown["eer"] == evaluate(corpus.other, corpus.keys, TRACK1).metrics["eer"]
    difference = shown["differences"]["eer"]
    assert difference["difference"] == found.metrics["eer"] - shown["eer"]
    assert difference["low"] <= difference["difference"] <= difference["high"] < 0
    assert difference["better"] == 1
    reversed_ = evaluate(corpus.other, corpus.keys, TRACK1, rounds=60, against=corpus.scores)
    assert reversed_.differences["eer"].low == pytest.approx(-found.differences["eer"].high)
    assert reversed_.differences["eer"].better == 0
    assert reversed_.intervals["eer"].low > found.intervals["eer"].low
    without = evaluate(corpus.scores, corpus.keys, TRACK1, against=corpus.other)
    assert "differences" not in without.as_json()["against"]


def verification(tmp_path, name, rounds):
    recordings = [(speaker, take) for speaker in range(8) for take in range(3)]
    pairs = [(a, b) for a in recordings for b in recordings if a < b]
    rng = np.random.default_rng(0)
    rows = [(name(*a), name(*b), int(a[0] == b[0])) for a, b in pairs]
    trials = write_lines(tmp_path / "t", *((label, enrol, test) for enrol, test, label in rows), separator=" ")
    scored = [(enrol, test, label + rng.normal(0, 0.5)) for enrol, test, label in rows]
    scores = write_lines(tmp_path / "s", ("enrol", "test", "score"), *scored)
    return evaluate(scores, trials, SV, rounds=rounds)


NAMES = {
    "VoxCeleb": lambda speaker, take: f"id1027{speaker}/clip/{take:05d}.wav",
    "CN-Celeb": lambda speaker, take: f"test/id0027{speaker}-singing-{take}.wav",
    "folders": lambda speaker, take: f"p{speaker}/{take}.wav",
    "none": lambda speaker, take: f"{speaker}{take}.wav",
    "folders that are no speakers": lambda speaker, take: f"wav/{speaker}{take}.wav",
}


@pytest.mark.parametrize("names", NAMES)
def test_verification_resamples_the_speakers_of_both_sides_where_the_names_have_them(tmp_path, names):
    found = verification(tmp_path, NAMES[names], rounds=50)
    if names in ("VoxCeleb", "CN-Celeb", "folders"):
        assert found.resampled == "8 speakers, enrolled or tested; so few make rough intervals"
    else:
        assert found.resampled.startswith("trials, as not all speakers")
    assert set(found.intervals) == {"eer", "min_dcf_0.01", "min_dcf_0.05"}
    assert found.intervals["eer"].low < found.metrics["eer"] < found.intervals["eer"].high


def test_trials_are_resampled_where_speakers_are_unknown_or_one(corpus):
    header, *rows = (line.split("\t") for line in corpus.keys.read_text().splitlines())
    for change, words in (
        ({"3": "-"}, "trials, as not all speakers are known: intervals may be too narrow"),
        ({row[2]: "p" for row in rows}, "trials, as all are of one speaker"),
    ):
        write_lines(corpus.keys, header, *((*row[:2], change.get(row[2], row[2]), *row[3:]) for row in rows))
        resampling, found = find_resampling(read_trials(corpus.scores, corpus.keys, TRACK1), TRACK1)
        assert (resampling.drawn, found) == ("trials", words)


def test_track2_resamples_enrolled_speakers(tmp_path):
    rng = np.random.default_rng(0)
    kinds = [("target", "nontarget", "spoof")[index % 3] for index in range(120)]
    rows = [(f"s{index % 7}", f"u{index}", kind) for index, kind in enumerate(kinds)]
    keys = write_lines(tmp_path / "k", ("spk", "filename", "asv-label"), *rows)
    values = [(speaker, name, (kind == "target") + rng.normal(0, 0.4)) for speaker, name, kind in rows]
    scores = write_lines(tmp_path / "s", ("spk", "filename", "sasv-score"), *values)
    found = evaluate(scores, keys, TRACK2, rounds=50)
    assert found.resampled.startswith("7 speakers")
    assert set(found.intervals) == {"a_dcf"}
    assert list(curves(found)) == ["s: nontargets", "s: spoofs"]


def test_the_t_dcf_of_2019_takes_the_organisers_scores(corpus, tmp_path):
    """Both versions as the packages of 2019 and 2021 write them, over every threshold."""
    rng = np.random.default_rng(1)
    kinds = rng.choice(["target", "nontarget", "spoof"], 300)
    means = {"target": 4.0, "nontarget": 0.0, "spoof": 2.5}
    values = np.array([means[kind] for kind in kinds]) + rng.normal(0, 1.5, 300)
    sources = np.where(kinds == "spoof", "A07", "bonafide")
    path = write_lines(tmp_path / "asv", *zip(sources, kinds, map(float, values), strict=True), separator=" ")
    rates = read_verifier_2019(path)
    assert rates == metrics.asv_rates(*(values[kinds == kind] for kind in means))
    found = evaluate(corpus.scores, corpus.keys, TRACK1, rounds=40, tdcf2019=path)
    for name, legacy in (("min_t_dcf_2019", True), ("min_t_dcf", False)):
        expected = metrics.t_dcf(corpus.value[corpus.human], corpus.value[~corpus.human], asv=rates, legacy=legacy)
        assert found.metrics[name] == pytest.approx(expected, rel=1e-12)
    assert {"min_t_dcf", "min_t_dcf_2019"} <= set(found.intervals)
    assert "min t-DCF (2019)" in printed(found)


def test_the_t_dcf_of_2021_takes_the_organisers_scores_of_the_chosen_phase(tmp_path):
    rows = [("target", 2.0), ("target", 1.0), ("nontarget", 0.0), ("nontarget", 1.5), ("spoof", 1.2), ("spoof", 0.5)]
    listed, scored = [], []
    for index, (kind, value) in enumerate(rows):
        for phase, shift in (("eval", 0.0), ("progress", 9.0 * (kind == "nontarget"))):
            name = f"LA_{index}-{phase}", f"LA_E_{index}-alaw-ita_tx"
            listed.append((*name, "alaw", "ita_tx", "bonafide", kind, "notrim", phase))
            scored.append((*name, value + shift))
    scores = write_lines(tmp_path / "score.txt", *reversed(scored), separator=" ")
    keys = write_lines(tmp_path / "trial_metadata.txt", *listed, separator=" ")
    assert read_verifier_2021(scores, keys, {"phase": "eval"}) == metrics.asv_rates([2, 1], [0, 1.5], [1.2, 0.5])
    with pytest.raises(InputError, match="t-DCF weights"):
        read_verifier_2021(scores, keys, {"phase": "progress"})
    with pytest.raises(InputError, match="no column 'subset'; the keys have spk, filename"):
        read_verifier_2021(scores, keys, {"subset": "eval"})
    write_lines(scores, *list(reversed(scored))[:-2], separator=" ")
    with pytest.raises(InputError, match=r"metadata.txt:1: 'LA_0-eval LA_E_0-alaw-ita_tx' has no score in .*and 1 m"):
        read_verifier_2021(scores, keys)


def test_faulty_verifier_scores_are_refused(tmp_path):
    good = [("bonafide", "target", 2.0), ("bonafide", "nontarget", 0.0), ("A07", "spoof", 1.0)]
    for rows, message in (
        ([("bonafide", "target", "high"), *good[1:]], "is no score file of a verifier .*could not convert"),
        (good[:2], "spoof scores: none given"),
        ([(*good[0], "x"), *good[1:]], "asv:1: 4 columns, expected 3: source kind score"),
        ([("bonafide", "target", "nan"), *good[1:]], "target scores: 1 of 1 are NaN"),
    ):
        with pytest.raises(InputError, match=message):
            read_verifier_2019(write_lines(tmp_path / "asv", *rows, separator=" "))


def printed(found):
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        print_evaluation(found)
    return stream.getvalue()


def test_the_tables_hold_intervals_comparison_and_groups(corpus):
    by = ["attack", "codec,attack"]
    found = evaluate(corpus.scores, corpus.keys, TRACK1, rounds=40, against=corpus.other, by=by)
    shown = printed(found)
    for expected in ("95% interval", "better in", "by attack, worst (*) first"):
        assert expected in shown
    assert "intervals: 40 resamples of 12 speakers; so few make rough intervals; seed 0" in shown
    assert "by attack: each group's spoofs against all human speech\n" in shown
    assert "by codec and attack: each group's spoofs against all human speech of the same codec" in shown
    (worst,) = (line for line in shown.splitlines() if line.startswith("│ A02"))
    assert worst.count("*") == 3, "the miss rate of shared human speech is the same in all"
    assert max(map(len, shown.splitlines())) <= 100


def test_phases_evaluated_together_are_named(tmp_path):
    scores = write_lines(tmp_path / "s", ("filename", "cm-score"), *zip("abcd", (2, 1, -1, 1.5), strict=True))
    rows = [
        f"LA_1 {name} alaw ita_tx A07 {'bonafide' if name in 'ab' else 'spoof'} notrim {phase}\n"
        for name, phase in zip("abcd", ("eval", "progress", "eval", "progress"), strict=True)
    ]
    (tmp_path / "k").write_text("".join(rows))
    assert "phases eval, progress together" in printed(evaluate(scores, tmp_path / "k", TRACK1))
    assert "together" not in printed(evaluate(scores, tmp_path / "k", TRACK1, only={"phase": "eval"}))


def test_curves_are_named_after_the_score_files(corpus):
    found = evaluate(corpus.scores, corpus.keys, TRACK1, against=corpus.other)
    drawn = curves(found)
    assert list(drawn) == ["a", "b"]
    np.testing.assert_array_equal(np.sort(drawn["a"][0]), np.sort(corpus.value[corpus.human]))


def test_figures_say_which_files_and_which_command_gave_them(corpus):
    found = evaluate(corpus.scores, corpus.keys, TRACK1, rounds=40, seed=3, only={"codec": "C01"}, against=corpus.other)
    about = found.as_json()["provenance"]
    assert about["scores_sha256"] == hashlib.sha256(corpus.scores.read_bytes()).hexdigest()
    assert about["keys_sha256"] == hashlib.sha256(corpus.keys.read_bytes()).hexdigest()
    options = "--bootstrap 40 --seed 3 --against b.tsv --only codec=C01"
    assert about["command"] == f"hybrid-pruning evaluate a.tsv {corpus.keys.name} --track1 {options}"
    assert about["versions"]["numpy"] == np.__version__
