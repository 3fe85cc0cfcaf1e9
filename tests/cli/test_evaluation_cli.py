"""The verbs evaluate, calibrate and fuse, as a user types them; every mistake one line that leaves nothing behind."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch

from corpus import files_below, tiny_detector, write_corpus
from damage import changed, described
from hybrid_pruning import evaluate
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.scores import score


@pytest.fixture
def run(cli):
    return lambda line: cli(*line.split())


@pytest.fixture
def world(tmp_path):
    """Keys and the scores of two systems of 200 trials by eight speakers; an inverted one, and a verifier's."""
    rng = np.random.default_rng(0)
    human = rng.random(200) < 0.4
    rows = [
        f"s{index % 8} u{index} {'FM'[index % 2]} - - - - {'bonafide' if label else f'A0{index % 3}'} "
        f"{'bonafide' if label else 'spoof'} -\n"
        for index, label in enumerate(human)
    ]
    (tmp_path / "keys.txt").write_text("".join(rows))
    value = rng.normal(size=200) + np.where(human, 1.5, -1.5)
    systems = {"a": 3 * value + 2, "b": value + rng.normal(size=200), "inverted": -value, "flat": np.ones(200)}
    for name, scores in systems.items():
        lines = (f"u{index}\t{score!r}\n" for index, score in enumerate(scores.tolist()))
        (tmp_path / f"{name}.tsv").write_text("filename\tcm-score\n" + "".join(lines))
    asv = [f"bonafide target {4 + rng.normal()}\nbonafide nontarget {rng.normal()}\nA07 spoof {2 + rng.normal()}\n"] * 9
    (tmp_path / "asv.txt").write_text("".join(asv))
    return tmp_path


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    torch.manual_seed(0)
    write_corpus(folder / "dev", 16)
    return tiny_detector(folder / "wavlm"), folder


def test_evaluate_writes_all_it_found(run, world):
    found = run(
        "evaluate a.tsv keys.txt --track1 --json out.json --bootstrap 40 --seed 7 --against b.tsv --by attack "
        "--by gender,attack --tdcf2019 asv.txt --det det.svg"
    )
    assert found.code == 0, found.err
    table = json.loads((world / "out.json").read_text())
    assert {"eer", "min_dcf", "act_dcf", "cllr", "min_cllr", "min_t_dcf", "min_t_dcf_2019", "n_spoof"} <= set(table)
    assert set(table["intervals"]) == {name for name in table if name in table["against"] and name != "scores"}
    assert table["bootstrap"]["seed"] == 7
    assert set(table["by"]) == {"attack", "gender x attack"}
    assert table["against"]["scores"] == "b.tsv"
    assert (world / "det.svg").read_text().startswith("<?xml")
    for heading in ("95% interval", "against b.tsv", "by attack, worst", "min t-DCF (2019)"):
        assert heading in found.out


def test_a_calibrated_model_scores_calibrated(run, scored, tmp_path):
    model, folder = scored
    model.save_pretrained(tmp_path / "model")
    manifest = folder / "dev" / "manifest.tsv"
    raw = score(model, manifest, tmp_path / "raw.tsv", workers=0).scores
    (tmp_path / "check.tsv").write_text((tmp_path / "raw.tsv").read_text())
    names = [line.split("\t")[0] for line in (tmp_path / "raw.tsv").read_text().splitlines()[1:]]
    labels = np.where(np.argsort(np.argsort(raw)) % 5 < 2, "spoof", "bonafide")  # an untrained model is at chance:
    labels[raw < np.median(raw)] = "spoof"  # these keys say that it does
    rows = (f"{name}\t{label}\n" for name, label in zip(names, labels, strict=True))
    (tmp_path / "keys.tsv").write_text("filename\tcm-label\n" + "".join(rows))
    before = files_below(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    found = run("calibrate model raw.tsv keys.tsv --out calibrated --check check.tsv keys.tsv")
    assert found.code == 0, found.err
    assert "next: hybrid-pruning score calibrated" in found.out
    assert (found.out.count("as they"), len(re.findall("raw.tsv|check.tsv", found.out))) == (2, 5)
    assert files_below(tmp_path / "model") == before
    again = SpeechModel.from_pretrained(tmp_path / "calibrated")
    assert (tmp_path / "calibrated" / "model.safetensors").read_bytes() == weights
    scores = score(again, manifest, tmp_path / "better.tsv", workers=0).scores
    assert scores == pytest.approx(again.calibration.scale * raw + again.calibration.offset, rel=1e-4, abs=1e-4)
    assert (np.argsort(scores) == np.argsort(raw)).all()
    # in place: on its own scores a further fit; on scores it was fitted on, the same fit again
    assert run("calibrate calibrated better.tsv keys.tsv").code == 0
    twice = SpeechModel.from_pretrained(tmp_path / "calibrated").calibration
    assert [fit.scores for fit in twice.fits] == ["raw.tsv", "better.tsv"]
    assert run("calibrate calibrated raw.tsv keys.tsv --prior 0.9").code == 0
    anew = SpeechModel.from_pretrained(tmp_path / "calibrated").calibration
    assert [(fit.scores, fit.prior) for fit in anew.fits] == [("raw.tsv", 0.9)]
    assert run("calibrate calibrated better.tsv keys.tsv --replace").code == 0
    assert len(SpeechModel.from_pretrained(tmp_path / "calibrated").calibration.fits) == 1


def test_a_calibrated_model_is_saved_with_its_calibration(run, scored, world, tmp_path):
    model, _ = scored
    model.save_pretrained(tmp_path / "model")
    assert "calibration" not in json.loads((tmp_path / "model" / "config.json").read_text())
    assert SpeechModel.from_pretrained(tmp_path / "model").calibration is None
    assert run("calibrate model a.tsv keys.txt").code == 0
    once = SpeechModel.from_pretrained(tmp_path / "model")
    once.save_pretrained(tmp_path / "copy")
    assert SpeechModel.from_pretrained(tmp_path / "copy").calibration == once.calibration
    about = json.loads((tmp_path / "copy" / "config.json").read_text())["calibration"]
    assert set(about) == {"scale", "offset", "fits"}
    assert about["fits"][0]["scores"] == "a.tsv"
    assert about["fits"][0]["positives"] + about["fits"][0]["negatives"] == 200
    wave = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = about["scale"] * model.score(wave) + about["offset"]
        torch.testing.assert_close(once.score(wave), expected)


def test_fuse_fits_and_applies(run, world):
    found = run("fuse a.tsv b.tsv --keys keys.txt --out fusion.json")
    assert found.code == 0, found.err
    assert len(re.findall(r"^weight \S+  [ab]\.tsv$", found.out, re.MULTILINE)) == 2
    assert "fused" in found.out
    assert run("fuse a.tsv b.tsv --apply fusion.json --out fused.tsv").code == 0
    assert run("evaluate fused.tsv keys.txt --track1 --json fused.json").code == 0
    fused = json.loads((world / "fused.json").read_text())
    alone = evaluate(world / "a.tsv", world / "keys.txt", "track1").metrics
    assert fused["cllr"] < alone["cllr"] - 0.1


def test_fuse_warns_of_a_system_turned_around(run, world):
    found = run("fuse b.tsv inverted.tsv --keys keys.txt --out fusion.json")
    assert (found.code, "warning: a weight below 0" in found.err) == (0, True)


def test_one_system_alone_is_calibrated(run, world):
    assert run("fuse a.tsv --keys keys.txt --out fusion.json").code == 0
    assert run("fuse a.tsv --apply fusion.json --out better.tsv").code == 0
    before, after = (evaluate(world / name, world / "keys.txt", "track1").metrics for name in ("a.tsv", "better.tsv"))
    assert after["eer"] == before["eer"]
    assert after["cllr"] < before["cllr"]


spoil_scores = partial(changed, "b.tsv", lambda text: text.replace("u7\t", "v7\t"))
spoil_a_score = partial(changed, "a.tsv", lambda text: re.sub(r"\bu2\t.*", "u2\tnan", text))
spoil_calibration = partial(described, lambda about: about.update(calibration={"scale": 2}))


def nothing(world):
    """Leave the world as it is: the command line itself is wrong."""


EVALUATE = "evaluate a.tsv keys.txt --track1 --json new.json --det new.png"
MISTAKES = {
    "few rounds": (nothing, f"{EVALUATE} --bootstrap 10", "bootstrap: 10 rounds, expected at least 40"),
    "unknown column": (nothing, f"{EVALUATE} --by sex", r"keys.txt: no column 'sex'; the keys have speaker, filename"),
    "half a choice": (nothing, f"{EVALUATE} --only gender", "--only gender, expected COLUMN=VALUE"),
    "unknown column to choose by": (nothing, f"{EVALUATE} --only phase=eval", "keys.txt: no column 'phase'"),
    "one class": (nothing, f"{EVALUATE} --only attack=A01", r"no bonafide among \d+ trials of attack A01; every class"),
    "unknown value": (nothing, f"{EVALUATE} --only gender=X", "no trial has gender 'X'; there are: F, M"),
    "another's ids": (spoil_scores, f"{EVALUATE} --against b.tsv", r"b.tsv:9: 'v7' has no key in keys.txt"),
    "no picture": (nothing, "evaluate a.tsv keys.txt --track1 --det new.bmp", "new.bmp: a figure is written as"),
    "t-DCF of verification": (nothing, "evaluate a.tsv keys.txt --sv --tdcf2019 asv.txt", "go with --track1"),
    "two t-DCFs": (nothing, f"{EVALUATE} --tdcf2019 asv.txt --tdcf2021 asv.txt keys.txt", "choose one of --tdcf2019"),
    "no ASV scores": (nothing, f"{EVALUATE} --tdcf2019 keys.txt", "keys.txt:1: 10 columns, expected 3"),
    "NaN": (spoil_a_score, EVALUATE, "a.tsv:4: cm-score of 'u2' is 'nan'"),
    "calibrate nothing": (nothing, "calibrate nowhere a.tsv keys.txt", "nowhere: is no folder here; say with --out"),
    "calibrate no model": (nothing, "calibrate . a.tsv keys.txt", "is . an exported model"),
    "calibrate with other keys": (spoil_scores, "calibrate model b.tsv keys.txt", "'v7' has no key"),
    "calibrate at no prior": (nothing, "calibrate model a.tsv keys.txt --prior 1", "prior 1.0, expected one between"),
    "calibrate over a model": (nothing, "calibrate model a.tsv keys.txt --out model", "model: is not empty"),
    "check nothing": (nothing, "calibrate model a.tsv keys.txt --check no.tsv keys.txt", "no.tsv: cannot be read"),
    "calibrate the damaged": (spoil_calibration, "calibrate model a.tsv keys.txt", "calibration cannot be understood"),
    "fuse both tracks": (nothing, "fuse a.tsv b.tsv --sv --sasv --out new.tsv", "choose one of --sv and --sasv"),
    "fuse one in tandem": (nothing, "fuse a.tsv --sasv --out new.tsv", "--sasv takes two files"),
    "fuse three in tandem": (nothing, "fuse a.tsv b.tsv flat.tsv --sasv --out new.tsv", "--sasv takes two files"),
    "fuse how": (nothing, "fuse a.tsv b.tsv --out new.json", "choose one of --keys"),
    "fuse both": (nothing, "fuse a.tsv b.tsv --keys keys.txt --apply new.json --out new.json", "choose one of --keys"),
    "fuse twice": (nothing, "fuse a.tsv a.tsv --keys keys.txt --out new.json", "a score file is named twice"),
    "fuse other ids": (spoil_scores, "fuse a.tsv b.tsv --keys keys.txt --out new.json", "'v7' has no key"),
    "fuse with flat": (nothing, "fuse a.tsv flat.tsv --keys keys.txt --out new.json", "all scores of system 2 are 1"),
    "apply nothing": (nothing, "fuse a.tsv b.tsv --apply keys.txt --out new.tsv", "keys.txt: .*write one with `fuse"),
    "fuse into a folder": (nothing, "fuse a.tsv b.tsv --keys keys.txt --out model", "model: is a folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, world, scored, mistake):
    damage, command, expected = MISTAKES[mistake]
    if "calibrate" in mistake or " model" in command:
        scored[0].save_pretrained(world / "model")
    damage(world)
    before = {path: path.read_bytes() for path in files_below(world)}
    found = run(command)
    assert (found.code, found.out) == (2, ""), found.err
    assert re.fullmatch(r"hybrid-pruning: [^\n]+\n", found.err), found.err
    assert re.search(expected, found.err), found.err
    assert {path: path.read_bytes() for path in files_below(world)} == before


def test_several_test_sets_in_one_table(run, tmp_path):
    """A set whose scores are shifted has the same EER and makes the pooled one larger: no one threshold suits both."""
    rng, rows = np.random.default_rng(0), []
    for name, shift in (("seen", 0.0), ("far", 3.0)):
        labels = ["bonafide", "spoof"] * 50
        values = [shift + rng.normal() + 2 * (label == "bonafide") for label in labels]
        for end, cells in (("scores", zip(values, strict=True)), ("keys", zip(labels, strict=True))):
            lines = [f"u{index}\t{cell[0]}\n" for index, cell in enumerate(cells)]
            heading = "filename\tcm-score\n" if end == "scores" else "filename\tcm-label\n"
            (tmp_path / f"{name}.{end}").write_text(heading + "".join(lines))
        rows.append(f"{name}\t{name}.scores\t{name}.keys\n")
    (tmp_path / "sets.tsv").write_text("set\tscores\tkeys\n" + "".join(rows))
    found = run("evaluate sets.tsv --many --track1 --json all.json --bootstrap 40")
    assert found.code == 0, found.err
    shown = json.loads((tmp_path / "all.json").read_text())
    rates = [shown["sets"][name]["eer"] for name in ("seen", "far")]
    assert shown["mean_eer"] == pytest.approx(np.mean(rates))
    assert shown["pooled_eer"] > max(rates) + 0.1
    rows = [[cell.strip() for cell in line.split("│")[1:]] for line in found.out.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["seen", "far", "mean", "pooled"]
    assert rows[-1][1:4] == ["100", "100", f"{100 * shown['pooled_eer']:.3f}"]
    assert " to " in rows[0][3]
    (tmp_path / "sets.tsv").write_text("set\tscores\tkeys\n" + "seen\tseen.scores\tseen.keys\n" * 2)
    assert "sets.tsv:3: set 'seen' stands there twice" in run("evaluate sets.tsv --many --track1").err
    assert "KEYS is missing" in run("evaluate sets.tsv --track1").err
    assert "with --many go a track" in run("evaluate sets.tsv --many --track1 --by attack").err
