"""Stages taken from a run that has trained the same: equal to one's own, and never from anything else."""

import os
import shutil
from pathlib import Path

import pytest

from corpus import configure, write_world
from hybrid_pruning.files import TEMPORARY
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import Run
from hybrid_pruning.training.shared import share_stages
from runs import assert_same_run

STAGES = {
    "dense": {"pruning": {"use_pruning_loss": False}},
    "joint": {"distillation": {"teacher": "dense", "layers": [1]}},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def staged(recipe, **changes):
    return configure(recipe, **{"stages": STAGES, "training__epochs": 1, **changes})


@pytest.fixture(scope="module")
def first(recipe, tmp_path_factory):
    return Run(train(staged(recipe), tmp_path_factory.mktemp("first") / "run"))


def at(sparsity):
    """Return the stages with the second at another sparsity."""
    return {**STAGES, "joint": {**STAGES["joint"], "pruning": {"target_sparsity": sparsity}}}


def share(config, folder, *others):
    return list(share_stages(config, Run(folder), others))


def test_a_run_that_takes_its_first_stage_equals_one_that_trains_it(recipe, first, tmp_path):
    config = staged(recipe, stages=at(0.2), data__workers=1)
    alone, shared = train(config, tmp_path / "alone"), tmp_path / "shared"
    places = share_stages(config, Run(shared), [Run(tmp_path / "nothing"), first])
    assert places == {"dense": first.folder / "dense"}
    train(config, shared, resume=True)
    for stage in STAGES:
        assert_same_run(shared / stage, alone / stage)
        assert {path.name for path in (shared / stage).iterdir()} == {path.name for path in (alone / stage).iterdir()}
        assert (shared / stage / "config.yaml").read_text() == (alone / stage / "config.yaml").read_text()
    kept = first.read_config().data.workers
    assert (kept, Run(first.folder / "dense").read_config().data.workers) == (0, 0), "the one that gave it is as it was"
    assert share(config, shared, first) == [], "what is there stays"


def test_stages_are_taken_from_the_same_training_alone(recipe, first, tmp_path):
    folder = tmp_path / "run"
    others = {
        "seed": {"seed": 7},
        "earlier": {"stages": {"before": STAGES["dense"], **at(0.2)}},
        "values": {"stages": {**at(0.2), "dense": {**STAGES["dense"], "training": {"lr": 1e-3}}}},
        "epochs": {"stages": {**at(0.2), "dense": {**STAGES["dense"], "training": {"epochs": 2}}}},
        "none": {"stages": {}},
    }
    for name, changes in others.items():
        assert share(staged(recipe, **changes), folder, first) == [], name
    assert not folder.exists()
    manifest = Path(recipe["data"]["train"])
    before = manifest.read_text()
    manifest.write_text(before.rsplit("\n", 3)[0] + "\n")
    assert share(staged(recipe, stages=at(0.2)), folder, first) == [], "other data"
    manifest.write_text(before)
    shutil.copytree(first.folder, tmp_path / "unfinished")
    for checkpoint in (tmp_path / "unfinished" / "dense" / "checkpoints").iterdir():
        checkpoint.unlink()
    assert share(staged(recipe, stages=at(0.2)), folder, Run(tmp_path / "unfinished")) == []


def test_a_stage_is_taken_whole_or_not_at_all(recipe, first, tmp_path, monkeypatch):
    config, folder = staged(recipe, stages=at(0.2)), tmp_path / "run"
    left = folder / f".dense{TEMPORARY}"
    (left / "checkpoints").mkdir(parents=True)
    (first.folder / "dense" / "evaluation").mkdir(exist_ok=True)

    def refuse(*_):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    assert share(config, folder, first) == ["dense"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "dense"]
    assert not (folder / "dense" / "evaluation").exists(), "scores of the other's job"
    begun = tmp_path / "begun"
    (begun / "dense").mkdir(parents=True)
    assert share(config, begun, first) == [], "a stage that has begun is this run's own"
