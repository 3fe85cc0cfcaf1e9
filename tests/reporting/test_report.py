"""The report: one self-contained page, with a sentence for each missing part, the same bytes for the same input."""

import json
import os
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
import yaml

import hybrid_pruning as hp
from hybrid_pruning.models.size import count_kept, count_parameters
from hybrid_pruning.reporting.page import compare_snapshots
from hybrid_pruning.reporting.run_files import count_model, read_runs
from logged_runs import EPOCHS, STEPS, add_records, draw_nothing, write_keys, write_run, write_scores

VOID = {"meta", "br", "hr", "img", "input", "link"}
SECTIONS = {"comparison", "errors", "kept", "training", "recipe"}
LINKS = {"href", "src", "srcset", "action", "data", "poster", "xlink:href"}
PAPER = "https://arxiv.org/abs/2508.16232"


class Page(HTMLParser):
    """A page taken apart: its tags in balance, its references, its ids, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], [], []
        self.attributes = set()
        self.references = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value or "" for name, value in attrs if name in LINKS]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Write a report without its figures, or `drawn` and not laid out, and take it apart."""

    def make(*folders, rounds=0, drawn=False, **options):
        draw_nothing(monkeypatch, only_layout=drawn)
        return Page(hp.report(folders, tmp_path / "report.html", rounds=rounds, **options).read_text())

    return make


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder with a dense and a pruned run, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "dense", pruned=False, seed=1)
    write_run(folder / "hp40", seed=2)
    return folder


def write_whole(both, out):
    """Return a page with all its figures."""
    return hp.report([both / "dense", both / "hp40"], out, published="asvspoof5", rounds=0).read_text()


@pytest.fixture(scope="module")
def whole(both):
    return write_whole(both, both / "r.html")


@pytest.fixture
def runs(both, tmp_path):
    """A copy of these runs, for a test to break."""
    shutil.copytree(both, tmp_path / "runs")
    return tmp_path / "runs"


def test_the_page_stands_alone_with_every_section(whole):
    page = Page(whole)
    assert not {"script", "link"} & set(page.tags)
    assert [where for where in page.references if not where.startswith("#")] == [PAPER]
    assert not re.search(r"@import|url\((?!#)", whole)
    assert len(page.ids) == len(set(page.ids))
    inside = {where[1:] for where in page.references if where.startswith("#")}
    assert inside | set(re.findall(r"url\(#([^)]+)\)", whole)) <= set(page.ids)
    page = Page(whole)
    assert set(page.ids) >= SECTIONS
    assert "attention" not in page.ids
    for words in (
        *("EER, %", "minDCF", "actDCF", "Cllr, bits", "backbone parameters", "false alarms, %", "attention heads"),
        *("share of the class, %", "removed, %", "task loss", "λ2", "attention sub-layers: 30", "target_sparsity: 0.4"),
        "The lowest EER on the dev set: dense 7.5% at step 40, hp40 7.5% at step 40",
        *("Learning rates peak at 5e−4 (backbone, head, gates, multipliers)", "Grey: the same in several runs."),
        *("9.8.7", "pruning.use_pruning_loss"),
    ):
        assert words in page.text, words


def test_the_page_is_the_same_byte_for_byte(whole, both, tmp_path):
    assert write_whole(both, tmp_path / "r.html") == whole


HOSTILE = (
    *('x"><img src=x onerror=alert(1)>', "<script>alert(1)</script>", "</style></svg><b>", "' onload='x", "]]>--><u>"),
    *("$\\frac{x", "_hidden", "\x1b]0;owned\x07", "\u202eabc", "&amp;{{ 7*7 }}", "javascript:x", "名前", "x" * 300),
)
TAGS = re.findall(
    r"\w+",
    "a b body clippath code defs details div figcaption figure footer g h1 h2 h3 head header html i li main meta nav "
    "ol p path pre rect section small span style summary svg table tbody td text th thead title tr ul use",
)
ATTRIBUTES = re.findall(
    r"[\w-]+",
    "aria-label charset class clip-path colspan content d height href http-equiv id lang name role scope style title "
    "transform viewbox width x y",
)


def test_names_of_others_are_text_alone(tmp_path):
    run = write_run(tmp_path / f"{HOSTILE[3]}<b>$x$ & y")
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for record in records:
        for part in ("loss", "multipliers", "gradient_norm", "learning_rate", "gates"):
            if record.get(part):
                some = next(iter(record[part].values()))
                record[part] |= dict.fromkeys(HOSTILE[:2], some)
        record |= {"warnings": HOSTILE, "skipped": {"files": HOSTILE[0], "first": HOSTILE}}
        record.get("gates", {})["words"] = [list(HOSTILE)]
    (run / "log.jsonl").write_text("")
    add_records(run, *records)
    recipe = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(recipe.replace("source: somewhere", f"source: {json.dumps(HOSTILE[0])}"))
    keys = write_keys(tmp_path / f"{HOSTILE[0]}.tsv")
    scores = write_scores(tmp_path / "scores.tsv")
    text = hp.report([run], tmp_path / "r.html", [str(scores)], [keys], "asvspoof5", rounds=0).read_text()
    page = Page(text)
    assert not set(page.tags).difference(TAGS)
    assert not page.attributes.difference(ATTRIBUTES)
    assert [where for where in page.references if not where.startswith("#")] == [PAPER]
    assert not set("\x1b\x07\u202e") & set(text)
    assert "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids))
    for name in (*HOSTILE[:3], "<b>$x$ & y"):
        assert name in page.text


def test_one_run_alone_has_no_differences(both, report):
    page = report(both / "hp40", rounds=50)
    assert "points from" not in page.text
    assert "Settings that differ" not in page.text
    assert "intervals: 95%, by 50 resamples" in page.text


def test_differences_are_paired(both, report):
    page = report(both / "dense", both / "hp40", rounds=50)
    assert re.search(
        r"hp40 39\.9% of the parameters .* EER on dev \d+\.\d%, [+−]\d+\.\d points from dense \(", page.text
    )
    assert re.search(r"EER, % \d+\.\d+ \d+\.\d+–\d+\.\d+ \d+\.\d+ \d+\.\d+–\d+\.\d+ [+−]\d+\.\d+ \(", page.text)


def test_runs_of_one_name_get_names_that_differ(tmp_path, report):
    runs = [write_run(tmp_path / day / "hp", epochs=1) for day in ("monday", "tuesday")]
    assert "monday/hp · tuesday/hp" in report(*runs).text
    assert "report hp50 hp50" in report(write_run(tmp_path / "hp50" / "run", epochs=1)).text


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [  # of the sparsities the schedule's target by now, not the recipe's 40%
        (2, (f"2 of {EPOCHS} epochs are done.", "middle of the training (epoch-0002)", "20.0% of the parameters")),
        (0, (f"In progress: epoch 1 of {EPOCHS}.", "young: no training step is logged yet.", "No scores yet")),
    ],
)
def test_a_run_in_progress(tmp_path, report, epochs, expected):
    page = report(write_run(tmp_path / "young", epochs=epochs), drawn=True)
    assert not [words for words in ("In progress: ", *expected) if words not in page.text]


def edit(name, change):
    """Return a function that changes the text of one of a run's files."""

    def damage(run):
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(change(path.read_text() if path.exists() else ""))

    return damage


def write(name, text):
    return edit(name, lambda _: text)


def remove(name):
    return lambda run: (shutil.rmtree if (run / name).is_dir() else os.remove)(run / name)


def add(*records):
    return lambda run: add_records(run, *records)


def damage_checkpoints(run):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])


LOG = "log.jsonl"
STRANGE = (
    {"step": "x", "loss": {"task": "high"}},
    {"step": 41, "loss": {"task": float("nan")}, "sparsity": None, "kept": [1]},
    {"step": 42, "dev": {"eer": None}, "gates": {"head": [1, 2], "brand new": "x"}},
    [1, 2],
)
MISSING = {
    "log": (remove(LOG), "log.jsonl is not there"),
    "end of the log": (edit(LOG, lambda text: text[:-30]), "log.jsonl, line 45: cut off or damaged"),
    "validations": (edit(LOG, lambda text: re.sub('.*"dev".*\n', "", text)), "not validated yet"),
    "recipe": (remove("config.yaml"), "config.yaml is not there"),
    "recipe's form": (write("config.yaml", "a: [b"), "config.yaml is damaged"),
    "architecture": (remove("architecture.json"), "Unknown without the model's architecture"),
    "architecture's form": (write("architecture.json", "{"), "architecture.json is damaged"),
    "architecture's sense": (write("architecture.json", '{"backbone": {"config": 1}}'), "Could not be counted"),
    "checkpoints": (remove("checkpoints"), "No checkpoint has been written yet"),
    "whole checkpoints": (damage_checkpoints, "epoch-0004.pt is damaged"),
    "dev scores": (remove("dev_scores.tsv"), "No scores yet"),
    "whole dev scores": (edit("dev_scores.tsv", lambda text: text.replace("utt3\t", "utt2\t")), "'utt2' stands twice"),
    "evaluation": (write("evaluation/eval.tsv", "nothing\n"), "eval.tsv"),
    "sense in the log": (add(*STRANGE), "log.jsonl, line 49: cut off or damaged"),
    "warnings": (add({"step": 40, "warnings": ["the scores look inverted"]}), "the scores look inverted"),
    "files": (
        add({"step": 40, "skipped": {"files": 3, "first": ["a.wav: is empty"]}}),
        "3 training files could not be read and were left out: a.wav: is empty",
    ),
}


@pytest.mark.parametrize("part", MISSING)
def test_each_missing_part_is_named(runs, report, part):
    damage, expected = MISSING[part]
    damage(runs / "hp40")
    page = report(runs / "hp40", drawn=part in ("validations", "recipe", "sense in the log"))
    assert expected in page.text
    assert set(page.ids) >= SECTIONS


def test_runs_with_different_missing_parts(runs, report):
    write_run(runs / "hp2")
    (runs / "dense" / "dev_scores.tsv").unlink()
    (runs / "hp40" / "log.jsonl").unlink()
    (runs / "hp2" / "config.yaml").unlink()
    assert set(report(runs / "dense", runs / "hp40", runs / "hp2", drawn=True).ids) >= SECTIONS


def test_a_dense_run_has_a_reason_for_no_sparsity(both, report):
    page = report(both / "dense", drawn=True)
    assert "dense: trained without gates: no sparsity, multipliers or gates to show." in page.text
    assert "dense: everything is kept" in page.text
    assert "Nothing was pruned in this training." in page.text


@pytest.mark.parametrize("part", ["checkpoints", "whole checkpoints", "recipe", "recipe's form"])
def test_the_log_has_the_kept_units_too(runs, report, part):
    MISSING[part][0](runs / "hp40")
    reason = "config.yaml cannot be read" if "recipe" in part else "no checkpoint can be read"
    assert f"As last logged, each gate rounded on its own: {reason}." in report(runs / "hp40").text


def test_the_manifest_has_the_speakers(runs, report, monkeypatch):
    monkeypatch.chdir(runs)
    write_keys(runs / "dev.tsv")
    assert "resamples of 10 speakers" in report(runs / "hp40", rounds=50).text
    write_keys(runs / "dev.tsv", trials=10)  # another set by now
    assert "resamples of trials" in report(runs / "hp40", rounds=50).text


def test_further_sets(runs, report, tmp_path):
    both, keys = (runs / "dense", runs / "hp40"), [write_keys(tmp_path / "keys" / "eval.tsv")]
    scores = [str(write_scores(tmp_path / f"{name}.tsv", seed=place)) for place, name in enumerate(("dense", "hp40"))]
    page = report(*both, scores=scores, keys=keys, rounds=50)
    assert "60 bona fide and 60 spoof trials; intervals: 95%, by 50 resamples of 10 speakers" in page.text
    named = report(*both, scores=[f"hp40={scores[1]}", f"dense={scores[0]}"], keys=keys, rounds=50)
    assert named.text == page.text
    alone = report(*both, scores=[f"hp40={scores[1]}"], keys=keys, rounds=50)
    assert "EER on eval" in alone.text
    assert "points from dense" in alone.text  # on dev, where both are
    write_scores(runs / "hp40" / "evaluation" / "eval.tsv", labels=True, seed=3)
    assert "EER on eval" in report(runs / "hp40").text


def test_key_files_of_one_name_get_names_that_differ(runs, report, tmp_path):
    keys = [write_keys(tmp_path / name / "eval.tsv") for name in ("seen", "unseen")]
    scores = str(write_scores(tmp_path / "s.tsv"))
    text = report(runs / "hp40", scores=[scores, scores], keys=keys).text
    assert "EER on seen/eval" in text
    assert "EER on unseen/eval" in text


def test_runs_on_different_trials_are_not_subtracted(runs, report):
    write_scores(runs / "hp40" / "dev_scores.tsv", trials=30, labels=True)
    page = report(runs / "dense", runs / "hp40", rounds=50)
    assert "hp40 and dense were scored on different trials" in page.text
    assert "points from" not in page.text


def test_published_systems(runs, report, tmp_path):
    page = report(runs / "hp40", published="asvspoof5")
    assert "so no row is ours" in page.text
    assert "measured here" not in page.text.replace("“measured here”", "").replace("Stars: measured here", "")
    assert "T27, fusion (rank 3)" in page.text
    keys = write_keys(tmp_path / "eval.tsv")
    page = report(runs / "dense", scores=[str(write_scores(tmp_path / "s.tsv"))], keys=[keys], published="asvspoof5")
    assert "so no row is ours" not in page.text
    assert "dense 0 0.0 0.5" in page.text
    path = runs / "hp40" / "config.yaml"
    path.write_text(path.read_text().replace("corpus: null", "corpus: {name: asvspoof5, root: data}"))
    assert "published" in report(runs / "hp40").ids
    path.write_text(path.read_text().replace("asvspoof5", "in_the_wild"))
    assert "published" not in report(runs / "hp40").ids


def test_long_runs_stay_small(tmp_path):
    run = write_run(tmp_path / "run")
    step = json.loads(next(line for line in (run / LOG).read_text().splitlines() if '"loss"' in line))
    noise = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0)).tolist()
    figures = [{"loss": {"task": loss}, "gradient_norm": {"network": norm}} for loss, norm in noise]
    add_records(run, *(step | {"step": count} | found for count, found in enumerate(figures, EPOCHS * STEPS)))
    write_scores(run / "dev_scores.tsv", trials=10_000, labels=True)
    assert hp.report([run], tmp_path / "r.html", rounds=0).stat().st_size < 500_000


def write_snapshot(folder, epochs=EPOCHS):
    """Write a run that has left one snapshot, and whose last validation has its size."""
    run = write_run(folder, epochs, pruning__export_at=[0.25])
    snapshot = {"name": "hp25", "target": 0.25, "eer": 0.2, "sparsity": 0.25, "macs_sparsity": 0.125}
    dev = {"eer": 0.3, "sparsity": 0.4, "macs_sparsity": 0.5}
    add_records(run, {"step": 9, "snapshot": snapshot}, {"step": 40, "epoch": epochs, "dev": dev})
    write_scores(run / "evaluation" / "hp25" / "strangers.tsv", labels=True)
    return run


def snapshots(*folders):
    runs = read_runs(folders)
    found = compare_snapshots(runs, [count_model(run) for run in runs])
    return [(run, table.headings[4:], {row[0]: row[1:] for row in table.rows}) for run, table in found]


def test_the_models_of_one_training_stand_side_by_side(tmp_path, report):
    dense, run = write_run(tmp_path / "dense", pruned=False), write_snapshot(tmp_path / "family")
    [(index, sets, rows)] = snapshots(dense, run)
    assert (index, sets) == (1, ("EER on dev, %", "EER on strangers, %"))
    assert list(rows) == ["hp25", "hp40"]
    (params, *sizes, dev, strangers), last = rows["hp25"], rows["hp40"]
    assert (sizes, dev) == (["25.0", "12.5"], "20.00")
    assert params.endswith("k")
    assert 0 < float(strangers) < 50
    assert last[1:] == ("40.0", "50.0", "30.00", "–")
    page = report(run)
    assert "models of one training" in page.text
    assert " ".join(("hp40", *last)).replace("\N{NO-BREAK SPACE}", " ") in page.text
    assert "models of one training" not in report(dense).text
    (run / "evaluation" / "hp25" / "strangers.tsv").write_text("filename\tcm-score\n")
    [(_, sets, _)] = snapshots(run)
    assert sets == ("EER on dev, %",)
    [(_, _, rows)] = snapshots(write_snapshot(tmp_path / "run", epochs=2))
    assert list(rows) == ["hp25"]


@pytest.mark.parametrize(("constraint", "target"), [("params", 0.4), ("macs", 0.03)])
def test_the_report_counts_the_units_of_an_export(constraint, target, spoofing_job, tmp_path):
    folder = shutil.copytree(spoofing_job / "out" / "run", tmp_path / "run")
    recipe = yaml.safe_load((folder / "config.yaml").read_text())
    recipe["pruning"] |= {"constraint": constraint, "target_sparsity": target}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    model = hp.export(folder, tmp_path / "model")
    (run,) = read_runs([folder])
    size = count_model(run)
    assert not isinstance(size, str), size
    expected = count_kept(model.backbone)
    assert (dict(size.units.kept), size.units.budget) == (dict(expected.kept), expected.budget)
    assert size.units.budget.removed(constraint) > 0
    assert size.head_params == count_parameters(model.head) + count_parameters(model.classifier)
    assert "the mean of the last 2 checkpoints" in size.basis
    assert not run.missing
    assert run.is_finished
