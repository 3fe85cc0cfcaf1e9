"""A recipe at several sparsities: the training at each, the table, the plot, and nothing done twice."""

import csv
import re
import shutil

import pytest
import yaml

import hybrid_pruning.jobs.sweep as jobs
from corpus import MINUTE, configure, describe_asvspoof5, describe_voxceleb, settings
from hybrid_pruning.config import expand_stages
from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.sweep import Swept, draw_sweep, name_job, parse_sparsities, set_sparsity, to_markdown
from hybrid_pruning.models.card.measured import Result
from hybrid_pruning.reporting.published import read_published
from world import STAGES, hurry

MANIFESTS = {"data.train": "train.tsv", "data.dev": "dev.tsv", "backbone.source": "wavlm"}
LARGE = {"pruning": {"use_pruning_loss": False}}


def recipe(**changes):
    return configure(settings(MINUTE, MANIFESTS), **changes)


def prunings(config):
    trainings = list(expand_stages(config).values()) or [config]
    return [(one.pruning.use_pruning_loss, one.pruning.target_sparsity) for one in trainings]


def test_sparsities_are_sorted_and_checked():
    for values in ("0.7,0, 0.5", [0.7, 0, 0.5]):
        assert parse_sparsities(values) == (0.0, 0.5, 0.7)
    assert [name_job(value) for value in (0.0, 0.5, 0.725)] == ["dense", "hp50", "hp72.5"]
    wrong = ["", "half", "0,,0.5", "1", "50", "-0.1", "nan", "0.5,0.50", [], [1.0], [0, 0]]
    for values in wrong:
        with pytest.raises(InputError, match="--sparsity"):
            parse_sparsities(values)


def test_a_sparsity_is_set_where_a_recipe_prunes():
    for prunes in (True, False):
        config = recipe(pruning__use_pruning_loss=prunes)
        assert prunings(set_sparsity(config, 0.7)) == [(True, 0.7)]
        assert [on for on, _ in prunings(set_sparsity(config, 0))] == [False]
    config = recipe(stages={**STAGES, "joint": {"training": {"epochs": 1}}, "large": LARGE})
    assert prunings(set_sparsity(config, 0.7))[1] == (True, 0.7)
    for value in (0, 0.7):
        assert [on for on, _ in prunings(set_sparsity(config, value))] == [False, value > 0, False]
    assert expand_stages(set_sparsity(config, 0.7))["joint"].training.epochs == 1
    with pytest.raises(InputError, match="none of the stages head, large prunes"):
        set_sparsity(recipe(stages={"head": STAGES["head"], "large": LARGE}), 0.5)


def start_from(job, config, folder):
    """Write the recipe of a finished job, which is then that of the sweep at its own sparsity; return the command."""
    shutil.copytree(job / "out", folder / "out" / "hp40")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return f"sweep {folder}/recipe.yaml --sparsity 0.4,0 --out {folder}/out"


def test_a_sweep_from_raw_corpus_to_table_and_plot(verification_job, tmp_path, cli, monkeypatch):
    hurry(monkeypatch)
    command = start_from(verification_job, configure(describe_voxceleb(verification_job), stages=STAGES), tmp_path)
    found = cli(*command.split())
    assert found.code == 0, found.err
    assert found.out.count("prepare: working") == 1, "the jobs share the manifests"
    assert found.out.count("train: working") == 1, "the job at 0.4 is finished"
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
    runs = [tmp_path / "out" / name / "run" for name in ("dense", "hp40")]
    assert (tmp_path / "out" / "sweep.html").read_text() == str(runs)
    again = cli(*command.split())
    assert (again.code, re.findall(r"^(.+): working$", again.out, re.MULTILINE)) == (0, [])


def test_a_job_that_fails_leaves_the_others_in_the_table(spoofing_job, tmp_path, cli, monkeypatch):
    hurry(monkeypatch)
    command = start_from(spoofing_job, configure(describe_asvspoof5(spoofing_job)), tmp_path)
    run = jobs.run

    def fail_dense(config, out, prepared):
        if out.name == "dense":
            raise InputError("u1.flac: score nan")
        return run(config, out, prepared=prepared)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run", fail_dense)
        found = cli(*command.split())
    assert (found.code, "is without dense: u1.flac: score nan; call again" in found.err) == (2, True), found.err
    assert {row["model"] for row in read_rows(tmp_path / "out" / "sweep.tsv")} == {"hp40"}
    assert cli(*command.split()).code == 0
    rows = read_rows(tmp_path / "out" / "sweep.tsv")
    assert [(row["set"], row["model"]) for row in rows] == [(s, m) for s in ("dev", "eval") for m in ("dense", "hp40")]
    assert "| eval | DPHuBERT | 50 | 48.4 | 25.8 | 11.73 | 0.321 |" in (tmp_path / "out" / "sweep.md").read_text()


def read_rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def job(name, target, params, rate):
    interval = (0.9 * rate, 1.2 * rate)
    result = Result("eval", {"eer": rate, "min_dcf": 2 * rate}, {"eer": interval, "min_dcf": interval}, "speakers", {})
    return Swept(name, target, target, params, 300 * params, {"eval": result, "dev": result}, ("eer", "min_dcf"))


JOBS = [job("dense", 0, 95_600_000, 0.05), job("hp50", 0.5, 48_400_000, 0.08)]


def test_the_papers_points_lie_behind_ours_where_it_has_the_corpus():
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
    assert [text.get_text() for text in draw_sweep(JOBS).legends[0].get_texts()] == ["eval"]
    assert "paper" not in to_markdown(JOBS)
