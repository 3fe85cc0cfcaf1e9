"""A recipe over a grid: the cells, the tables, the plot, what cells share, and nothing done twice."""

import csv
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml
from matplotlib.collections import PathCollection

import hybrid_pruning.jobs.sweep as jobs
from corpus import MINUTE, configure, describe_asvspoof5, describe_voxceleb, settings
from hybrid_pruning.config import load_config, save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.grid import lay_out, parse_axes
from hybrid_pruning.jobs.sweep_results import SetFigures, Swept, draw_sweep, estimate_difference, to_markdown, write_tsv
from hybrid_pruning.metrics.bootstrap import Interval
from hybrid_pruning.reporting.published import read_published
from world import STAGES, hurry


def start_from(job, config, folder, *names):
    """Write the recipe of a finished job, which is then that of some cells; return the command of the sweep."""
    for name in names:
        shutil.copytree(job / "out", folder / "out" / name)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return f"sweep {folder}/recipe.yaml --sparsity 0.4,0 --out {folder}/out"


def read_rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_a_sweep_from_raw_corpus_to_table_and_plot(verification_job, tmp_path, cli, monkeypatch):
    hurry(monkeypatch)
    config = configure(describe_voxceleb(verification_job), stages=STAGES)
    command, out = start_from(verification_job, config, tmp_path, "hp40"), tmp_path / "out"
    found = cli(*command.split())
    assert found.code == 0, found.err
    assert found.out.count("prepare: working") == 1, "the jobs share the manifests"
    assert found.out.count("train: working") == 1, "the job at 0.4 is finished"
    assert f"stage head: from {out}/hp40/run/head" in found.out, "both begin with it"
    rows = read_rows(out / "sweep.tsv")
    assert [(row["set"], row["model"]) for row in rows] == [
        (name, model) for name in ("dev", "vox1-H", "vox1-O") for model in ("dense", "hp40")
    ]
    assert float(rows[0]["sparsity"]) == 0
    assert float(rows[1]["sparsity"]) == pytest.approx(0.4, abs=0.02)
    for size in ("params", "macs"):
        assert int(rows[1][size]) < int(rows[0][size])
    for row in rows:
        assert float(row["eer_low"]) <= float(row["eer"]) <= float(row["eer_high"])
    assert rows[1]["command"] == f"hybrid-pruning sweep {tmp_path}/recipe.yaml --out {out} --sparsity 0.4"
    text = (out / "sweep.md").read_text()
    assert "| vox1-O | hp40 |" in text
    assert "| vox1-O | Hybrid Pruning | 70 | 29.5 | – | 0.73 | – |" in text, "the paper's"
    figure = (out / "sweep.svg").read_text()
    for words in ("EER, %", "vox1-O", ">pruned<", ">dense<", "the paper's, not measured here"):
        assert words in figure
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    runs = [out / name / "run" for name in ("dense", "hp40")]
    assert (out / "sweep.html").read_text() == str(runs)
    again = cli(*command.split())
    assert (again.code, re.findall(r"^(.+): working$", again.out, re.MULTILINE)) == (0, [])


def test_a_job_that_fails_leaves_the_others_in_the_table(spoofing_job, tmp_path, cli, monkeypatch):
    hurry(monkeypatch)
    command = start_from(spoofing_job, configure(describe_asvspoof5(spoofing_job)), tmp_path, "hp40")
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


def test_a_grid_is_run_cell_by_cell_and_its_table_has_what_is_finished(spoofing_job, tmp_path, cli, monkeypatch):
    """All cells are copies of one job, as if the seed changed nothing; one of them is not finished."""
    hurry(monkeypatch)
    names = ("hp40-s1", "hp40-s2", "dense-s1", "dense-s2")
    config, out = configure(describe_asvspoof5(spoofing_job)), tmp_path / "out"
    command = f"{start_from(spoofing_job, config, tmp_path, *names)} --seed 1,2".split()
    for cell in lay_out(config, parse_axes("0,0.4", (), "1,2", ())):
        save_config(cell.config, out / cell.name / "run" / "config.yaml")
    (out / "dense-s2" / "model" / "config.json").unlink()
    listed = cli(*command, "--list")
    assert listed.code == 0, listed.err
    assert re.findall(r"^(\S+) +(\S.*?) *$", listed.out, re.MULTILINE)[1:] == [
        ("dense-s1", "finished"),
        ("hp40-s1", "finished"),
        ("dense-s2", "trained"),
        ("hp40-s2", "finished"),
        ("3", "of 4 cells are finished"),
    ]
    assert not (out / "sweep.md").exists()
    found = cli(*command, "--only", "hp40-s1")
    assert (found.code, re.findall(r"^(.+): working$", found.out, re.MULTILINE)) == (0, ["prepare"]), found
    assert not (out / "sweep.html").exists(), "a page of every cell of a grid would not be read"
    text = (out / "sweep.md").read_text()
    assert "Not finished, and not in this table: dense-s2." in text
    rows = read_rows(out / "sweep.tsv")
    assert [(row["model"], row["seed"]) for row in rows[:3]] == [("dense-s1", "1"), ("hp40-s1", "1"), ("hp40-s2", "2")]
    counted = {"n_bonafide", "n_spoof"}
    metrics = {"eer", "min_dcf", "act_dcf", "cllr", "min_cllr"}
    assert rows[0].keys() >= {*counted, *(f"{name}{end}" for name in metrics for end in ("", "_low", "_high"))}
    assert shlex.split(rows[2]["command"])[-4:] == ["--sparsity", "0.4", "--seed", "2"]
    [header, _, *lines] = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert header[2] == "seeds"
    assert [line[1:3] for line in lines[:2]] == [["dense", "1"], ["hp40", "2"]]
    assert all("(+0.00: +0.00 to +0.00)" in line[6] for line in lines if line[1] == "hp40"), "the same scores"


def test_states_of_cells(spoofing_job, tmp_path):
    config = configure(describe_asvspoof5(spoofing_job), stages=STAGES, training__epochs=3)
    [cell] = lay_out(config, parse_axes("0.4", (), (), ()))
    run = tmp_path / "hp40" / "run"
    assert jobs.describe_state(cell, tmp_path) == "not begun"
    save_config(cell.config, run / "config.yaml")
    assert jobs.describe_state(cell, tmp_path) == "head: epoch 0 of 1"
    for stage, epoch in (("head", 1), ("joint", 2)):
        (run / stage / "checkpoints").mkdir(parents=True)
        (run / stage / "checkpoints" / f"epoch-000{epoch}.pt").touch()
    assert jobs.describe_state(cell, tmp_path) == "joint: epoch 2 of 3"
    save_config(load_config(run / "config.yaml", ["training.lr=1e-5"]), run / "config.yaml")
    assert jobs.describe_state(cell, tmp_path) == "of another recipe"


MANIFESTS = {"data.train": "train.tsv", "data.dev": "dev.tsv", "backbone.source": "wavlm"}
LUCK = np.random.default_rng(0).normal(1, 0.05, 200)
"""Of 200 resamples of the speakers."""


def pretend(sparsities="0,0.5", sets=("dev", "eval"), rates=None, **axes):
    """Return finished cells with an EER in percent by name, by default larger at smaller sizes."""
    config = configure(settings(MINUTE, MANIFESTS))
    cells = lay_out(
        config, parse_axes(sparsities, axes.get("methods", ()), axes.get("seeds", ()), axes.get("vary", ()))
    )
    found = []
    for cell in cells:
        rate = (rates or {}).get(cell.name, 5 + 6 * cell.target) / 100
        metrics = {"eer": rate, "min_dcf": 2 * rate, "n_spoof": 10}
        drawn = {metric: metrics[metric] * LUCK for metric in ("eer", "min_dcf")}
        measured = SetFigures(metrics, drawn, "48 speakers", ("eer", "min_dcf"))
        params = round(95_600_000 * (1 - 0.987 * cell.target))
        found.append(Swept(cell, cell.target, params, 300 * params, dict.fromkeys(sets, measured)))
    return found


def test_differences_are_from_the_dense_cell_of_the_same_seed():
    rates = {"dense-s1": 5, "dense-s2": 9, "hp50-s1": 7, "hp50-s2": 11}
    swept = pretend(seeds="1,2", rates=rates)
    pruned = [one for one in swept if one.cell.target]
    found = estimate_difference(pruned, swept, "eval", "eer")
    assert found[0] == pytest.approx(0.02)
    assert [found[1].low, found[1].high] == pytest.approx(0.02 * np.percentile(LUCK, [2.5, 97.5]))
    text = to_markdown(swept)
    assert "| eval | hp50 | 2 | 50.0 |" in text
    assert re.search(r"9\.00 \(6\.\d\d–1[12]\.\d\d\)", text), "from the one seed to the other"
    assert "(+2.00: +1.8" in text
    assert "figures are means over seeds. Intervals by resampling seeds and 48 speakers." in text
    some = [one for one in swept if one.cell.name != "dense-s2"]
    assert estimate_difference(pruned, some, "eval", "eer")[0] == pytest.approx(0.02), "of one seed alone"
    assert "Where there is one seed, its interval has no seeds in it." in to_markdown(some)
    assert estimate_difference(pruned, pruned, "eval", "eer") is None
    same = pretend(seeds="1,2", rates=dict.fromkeys(rates, 5))
    assert estimate_difference(same[1:2], same, "eval", "eer")[1] == Interval(0.0, 0.0)


def test_a_value_of_pruned_models_alone_is_compared_with_the_only_dense_model_of_the_seed():
    rates = {"dense-workers-1-s1": 5, "hp50-workers-1-s1": 6, "hp50-workers-2-s1": 9}
    swept = pretend(seeds="1", vary=["data.workers=1,2"], rates=rates)
    only = [one for one in swept if one.cell.name != "dense-workers-2-s1"]
    found = [estimate_difference([one], only, "eval", "eer")[0] for one in only if one.cell.target]
    assert found == pytest.approx([0.01, 0.04])
    pruned = [one for one in swept if one.cell.name == "hp50-workers-2-s1"]
    own = next(one for one in swept if one.cell.name == "dense-workers-2-s1").sets["eval"].metrics["eer"]
    assert estimate_difference(pruned, swept, "eval", "eer")[0] == pytest.approx(0.09 - own)
    others = pretend(seeds="1,2", vary=["data.workers=1,2"])
    assert estimate_difference(pruned, [one for one in others if one.cell.config.seed == 2], "eval", "eer") is None


def test_one_seed_has_the_interval_over_speakers_and_the_table_says_so(tmp_path):
    swept = pretend()
    write_tsv(swept, tmp_path / "sweep.tsv")
    row = read_rows(tmp_path / "sweep.tsv")[3]
    assert (row["set"], row["model"], row["n_spoof"]) == ("eval", "hp50", "10")
    ends = [float(row[f"eer{end}"]) for end in ("_low", "_high")]
    assert ends == pytest.approx(0.08 * np.percentile(LUCK, [2.5, 97.5]))
    text = to_markdown(swept)
    assert "One training each: how much another seed would change is in no interval." in text
    assert "seeds and" not in text


def test_the_papers_points_lie_behind_ours_where_it_has_the_corpus():
    published = [row for row in read_published("asvspoof5") if row.source.startswith("Peng")]
    swept = pretend("0,0.5,0.7")
    figure = draw_sweep(swept, published)
    assert [axes.get_ylabel() for axes in figure.axes] == ["EER, %", "", "minDCF", ""]
    assert [axes.get_xlabel().split(",")[0] for axes in figure.axes] == ["", "", "parameters", "MACs of the encoder"]
    for axes, sizes in zip(figure.axes, ([48.4, 67.3, 86.0, 95.6], [13.45, 19.55, 25.95, 28.7]) * 2, strict=True):
        theirs = next(line for line in axes.lines if "the paper's" in line.get_label())
        ours = next(line for line in axes.lines if line is not theirs and line.get_marker() == "o")
        assert len(ours.get_xdata()) == 2
        assert list(theirs.get_xdata()) == pytest.approx(sizes), "FLOPs halved"
        assert theirs.get_zorder() < ours.get_zorder()
        assert theirs.get_markerfacecolor() != theirs.get_color()
    assert [text.get_text() for text in draw_sweep(swept).legends[0].get_texts()] == ["pruned", "dense"]
    assert "paper" not in to_markdown(swept)


def test_each_line_of_the_figure_begins_at_its_dense_model_and_has_a_point_a_seed():
    axes = {"seeds": "1,2,3", "methods": "joint,random", "vary": ["training.lr=0.1,0.2"]}
    swept = pretend("0,0.5,0.7", ("dev", "eval", "other"), **axes)
    figure = draw_sweep(swept)
    names = [f"{method}-lr-{lr}" for lr in ("0.1", "0.2") for method in ("joint", "random")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*names, "dense"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["EER, %", ""] * 2, "of each set but dev"
    for axes in figure.axes:
        joins = [line for line in axes.lines if line.get_marker() == "None" and line.get_linestyle() != "None"]
        starts = sorted(float(line.get_xdata()[0]) for line in joins)
        assert starts == pytest.approx([95.6 if axes in figure.axes[::2] else 28.68] * 4)
        points = [seeds for seeds in axes.collections if isinstance(seeds, PathCollection)]
        assert [len(seeds.get_offsets()) for seeds in points] == [3] * (2 + 2 * 4), "two dense models, four lines"
    alone = draw_sweep(pretend("0", seeds="1,2"))
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["dense"]
