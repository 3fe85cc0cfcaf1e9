"""A recipe at several sparsities: what is trained at each, the table, the plot, and nothing done twice."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from corpus import MINUTE, configure, describe_voxceleb, settings, write_voxceleb, write_wavlm
from hybrid_pruning.config import Config, expand_stages
from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.sweep import cells as jobs
from hybrid_pruning.jobs.sweep import parse_sparsities
from hybrid_pruning.jobs.sweep.drawing import draw_sweep
from hybrid_pruning.jobs.sweep.summary import Swept, write_markdown
from hybrid_pruning.jobs.sweep.values import name_job, set_sparsity
from hybrid_pruning.models.card.measured import Result
from hybrid_pruning.reporting.published import read_published
from test_pipeline import describe, write_asvspoof5
from world import Cli

MANIFESTS = {"data.train": "train.tsv", "data.dev": "dev.tsv", "backbone.source": "wavlm"}
STAGES = {
    "head": {"backbone": {"frozen": True}, "pruning": {"use_pruning_loss": False}},
    "joint": {"training": {"epochs": 1}},
    "large": {"pruning": {"use_pruning_loss": False}},
}


def recipe(**changes: Any) -> Config:
    return configure(settings(MINUTE, MANIFESTS), **changes)


def prunings(config: Config) -> list[tuple[bool, float]]:
    trainings = list(expand_stages(config).values()) or [config]
    return [(one.pruning.use_pruning_loss, one.pruning.target_sparsity) for one in trainings]


def test_values_rise_whatever_their_order():
    assert parse_sparsities("0.7,0, 0.5") == (0.0, 0.5, 0.7)
    assert [name_job(value) for value in (0.0, 0.5, 0.725)] == ["dense", "hp50", "hp72.5"]


@pytest.mark.parametrize("text", ["", "half", "0,,0.5", "1", "50", "-0.1", "nan", "0.5,0.50"])
def test_what_is_no_list_of_sparsities(text: str):
    with pytest.raises(InputError, match="--sparsity"):
        parse_sparsities(text)


@pytest.mark.parametrize("prunes", [True, False])
def test_one_training_is_set_whether_its_recipe_prunes_or_not(prunes: bool):
    config = recipe(pruning__use_pruning_loss=prunes)
    assert prunings(set_sparsity(config, 0.7)) == [(True, 0.7)]
    assert [on for on, _ in prunings(set_sparsity(config, 0))] == [False]


def test_of_stages_the_one_that_prunes_is_set():
    config = recipe(stages=STAGES)
    assert prunings(set_sparsity(config, 0.7))[1] == (True, 0.7)
    for value in (0, 0.7):
        assert [on for on, _ in prunings(set_sparsity(config, value))] == [False, value > 0, False]
    assert expand_stages(set_sparsity(config, 0.7))["joint"].training.epochs == 1


def test_recipes_that_cannot_be_swept():
    with pytest.raises(InputError, match=r"none of the stages head, large prunes"):
        set_sparsity(recipe(stages={name: STAGES[name] for name in ("head", "large")}), 0.5)
    with pytest.raises(InputError, match=r"several sizes from one training: use `run`"):
        set_sparsity(recipe(pruning__export_at=[0.2]), 0.5)
    with pytest.raises(InputError, match=r"at sparsity 0\.1: pruning\.min_sparsity 0\.2 is above"):
        set_sparsity(recipe(pruning__min_sparsity=0.2), 0.1)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


def test_a_sweep_from_raw_corpus_to_table_and_plot(tmp_path: Path, wavlm: Path, cli: Cli):
    write_voxceleb(tmp_path / "corpus")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(describe_voxceleb(tmp_path, wavlm)))
    command = f"sweep {tmp_path}/recipe.yaml --sparsity 0.4,0 --out {tmp_path}/out --set data.fraction=0.8".split()
    found = cli(*command)
    assert found.code == 0, found.err
    assert found.out.count("prepare: working") == 1, "the jobs share the manifests"
    rows = read_rows(tmp_path / "out" / "sweep.tsv")
    assert [(row["set"], row["model"]) for row in rows] == [
        (name, model) for name in ("dev", "vox1-H", "vox1-O") for model in ("dense", "hp40")
    ]
    assert float(rows[0]["sparsity"]) == 0
    assert float(rows[1]["sparsity"]) == pytest.approx(0.4, abs=0.02)
    for size in ("params", "macs"):
        assert int(rows[1][size]) < int(rows[0][size])
    for row in rows:
        assert float(row["eer_low"]) <= float(row["eer"]) <= float(row["eer_high"])
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "| vox1-O | hp40 |" in text
    assert "| vox1-O | Hybrid Pruning | 70 | 29.5 | – | 0.73 | – |" in text, "the paper's"
    figure = (tmp_path / "out" / "sweep.svg").read_text()
    assert "EER, %" in figure
    assert "vox1-O, the paper" in figure
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert ">dense</b>" in page
    assert ">hp40</b>" in page
    again = cli(*command)
    assert (again.code, re.findall(r"^(.+): working$", again.out, re.MULTILINE)) == (0, [])


def test_a_sweep_of_detectors(tmp_path: Path, wavlm: Path, cli: Cli):
    write_asvspoof5(tmp_path / "corpus")
    plain = describe(tmp_path, wavlm, training__epochs=1).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    found = cli("sweep", f"{tmp_path}/recipe.yaml", "--sparsity", "0.4", "--out", f"{tmp_path}/out")
    assert found.code == 0, found.err
    assert [row["set"] for row in read_rows(tmp_path / "out" / "sweep.tsv")] == ["dev", "eval"]
    assert "| eval | DPHuBERT | 50 | 48.4 | 25.8 | 11.73 | 0.321 |" in (tmp_path / "out" / "sweep.md").read_text()


def test_a_job_that_fails_leaves_the_others_in_the_table(
    tmp_path: Path, wavlm: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    """A score that is not a number, of one model alone."""
    write_asvspoof5(tmp_path / "corpus")
    plain = describe(tmp_path, wavlm, training__epochs=1).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    run = jobs.run_recipe

    def fail_dense(config: Config, out: Path, prepared: Path) -> Path:
        if out.name == "dense":
            raise InputError("u1.flac: score nan")
        return run(config, out, prepared)

    monkeypatch.setattr(jobs, "run_recipe", fail_dense)
    found = cli("sweep", f"{tmp_path}/recipe.yaml", "--sparsity", "0,0.4", "--out", f"{tmp_path}/out")
    assert (found.code, "is without dense: u1.flac: score nan; call again" in found.err) == (2, True), found.err
    assert {row["model"] for row in read_rows(tmp_path / "out" / "sweep.tsv")} == {"hp40"}
    monkeypatch.setattr(jobs, "run_recipe", run)
    assert cli("sweep", f"{tmp_path}/recipe.yaml", "--sparsity", "0,0.4", "--out", f"{tmp_path}/out").code == 0
    assert {row["model"] for row in read_rows(tmp_path / "out" / "sweep.tsv")} == {"dense", "hp40"}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def job(name: str, target: float, params: int, rate: float) -> Swept:
    interval = (0.9 * rate, 1.2 * rate)
    result = Result("eval", {"eer": rate, "min_dcf": 2 * rate}, {"eer": interval, "min_dcf": interval}, "speakers", {})
    return Swept(name, target, target, params, 300 * params, {"eval": result, "dev": result}, ("eer", "min_dcf"))


JOBS = [job("dense", 0, 95_600_000, 0.05), job("hp50", 0.5, 48_400_000, 0.08)]


def test_the_papers_points_lie_behind_ours():
    published = [row for row in read_published("asvspoof5") if row.source.startswith("Peng")]
    figure = draw_sweep(JOBS, published)
    assert [axes.get_ylabel() for axes in figure.axes] == ["EER, %", "", "minDCF", ""]
    assert [axes.get_xlabel().split(",")[0] for axes in figure.axes] == ["", "", "parameters", "MACs of the encoder"]
    for axes, sizes in zip(figure.axes, ([48.4, 67.3, 86.0, 95.6], [13.45, 19.55, 25.95, 28.7]) * 2, strict=True):
        theirs = next(line for line in axes.lines if line.get_label() == "eval, the paper's")
        ours = next(line for line in axes.lines if line is not theirs and len(line.get_xdata()) == len(JOBS))
        assert list(theirs.get_xdata()) == pytest.approx(sizes), "FLOPs halved"
        assert theirs.get_zorder() < ours.get_zorder()
        assert theirs.get_markerfacecolor() != theirs.get_color()


def test_other_corpora_have_no_papers_points():
    assert [text.get_text() for text in draw_sweep(JOBS).legends[0].get_texts()] == ["eval"]
    assert "paper" not in write_markdown(JOBS)
