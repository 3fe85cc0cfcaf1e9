"""The alternatives to joint pruning: each through the same plan, count, shrink and heal, and resumed equal."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import configure, write_speaker_world
from hybrid_pruning.config import GATED, Config, Method, save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import report
from hybrid_pruning.training.export import build_export, export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import Run
from runs import assert_same_run, read_steps

METHODS: tuple[Method, ...] = ("post-hoc", "magnitude", "taylor", "random", "truncation", "layers", "small")
RESUMED = ("post-hoc", "taylor", "small")
"""With gates, cut from the trained network, cut from a fresh one."""
TARGET = 0.5


def staged(recipe: dict[str, Any], method: str) -> Config:
    """Return a recipe with a dense stage, and one that prunes by a method."""
    pruning = {"use_pruning_loss": True, "method": method, "target_sparsity": TARGET, "score_batches": 2}
    pruning |= {"constraint_solver": "exact", "units": ["head", "interm"]}
    stages = {
        "dense": {"pruning": {"use_pruning_loss": False}, "training": {"epochs": 1}},
        "prune": {"pruning": pruning, "training": {"epochs": 2}},
    }
    return configure(recipe, stages=stages)


@pytest.fixture(scope="module")
def begun(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of such a recipe whose second stage has not begun."""
    run = train(staged(recipe, "random"), tmp_path_factory.mktemp("begun") / "run")
    shutil.rmtree(run / "prune")
    return run


def go_on(recipe: dict[str, Any], method: str, begun: Path, out: Path) -> Path:
    """Train the second stage by a method."""
    shutil.copytree(begun, out)
    config = staged(recipe, method)
    save_config(config, out / "config.yaml")
    return train(config, out, resume=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_meets_the_target_and_is_resumed_equal(
    recipe: dict[str, Any], begun: Path, tmp_path: Path, method: str
):
    whole = go_on(recipe, method, begun, tmp_path / "whole")
    model = export(whole, tmp_path / "model")
    dense = sum(p.numel() for p in build_export(whole / "dense").backbone.parameters())
    left = sum(p.numel() for p in model.backbone.parameters())
    assert 1 - left / dense == pytest.approx(TARGET, abs=0.01)
    shape = json.loads((tmp_path / "model" / "config.json").read_text())["backbone"]["kept"]
    widths = {name: len(units) for name, units in shape.items()}
    first, second = ({name.split(".")[0]: n for name, n in widths.items() if name.endswith(layer)} for layer in "01")
    if method == "truncation":
        assert first["head"] > second["head"] == second["interm"] == 0 or second["interm"] < first["interm"]
        assert first["interm"] >= second["interm"]
    if method in ("small", "random", "magnitude"):
        assert min(first["interm"], second["interm"]) > 0
    if method in RESUMED:
        shutil.copytree(whole, tmp_path / "cut")
        Run(tmp_path / "cut" / "prune").list_checkpoints()[-1].unlink()
        resumed = train(staged(recipe, method), tmp_path / "cut", resume=True)
        assert_same_run(resumed / "prune", whole / "prune")
        page = report([whole], tmp_path / "page.html", rounds=0).read_text()
        assert ("cut before training by " + method in page) == (method not in GATED)


def test_gates_after_training_leave_the_network_as_it_was(recipe: dict[str, Any], begun: Path, tmp_path: Path):
    whole = go_on(recipe, "post-hoc", begun, tmp_path / "run")
    before, after = (
        torch.load(Run(whole / stage).list_checkpoints()[-1], weights_only=True)["objective"]
        for stage in ("dense", "prune")
    )
    learnt = {name.replace(".parametrizations.weight.original", ".weight"): value for name, value in after.items()}
    same = [torch.equal(value, learnt[name]) for name, value in before.items() if name in learnt]
    assert all(same)
    assert len(same) > 50
    assert {rate for step in read_steps(whole / "prune") for rate in step["learning_rate"].values()} >= {0.0}


def test_layers_are_those_that_the_head_weighs_most(recipe: dict[str, Any], begun: Path, tmp_path: Path):
    shutil.copytree(begun, tmp_path / "begun")
    path = Run(tmp_path / "begun" / "dense").list_checkpoints()[-1]
    state = torch.load(path, weights_only=True)
    for name in ("model.head.key_mix", "model.head.value_mix"):
        state["objective"][name] = torch.tensor([0.0, -9.0, 9.0, -9.0])
    torch.save(state, path)
    run = go_on(recipe, "layers", tmp_path / "begun", tmp_path / "run")
    kept = json.loads((run / "prune" / "architecture.json").read_text())["backbone"]["kept"]
    assert len(kept["interm.1"]) > len(kept["interm.0"])


def test_verification_keeps_its_class_weights_over_the_cut(tmp_path: Path):
    world = write_speaker_world(tmp_path)
    config = staged(world, "taylor")
    run = train(config, tmp_path / "run")
    assert SpeechModel.from_architecture(json.loads((run / "prune" / "architecture.json").read_text()))
    before, after = (
        torch.load(Run(run / stage).list_checkpoints()[-1], weights_only=True)["objective"]
        for stage in ("dense", "prune")
    )
    margins = [name for name in before if name.startswith("margin.")]
    assert margins
    for name in margins:
        assert torch.nn.functional.cosine_similarity(before[name], after[name], dim=-1).mean() > 0.9


@pytest.mark.parametrize("method", ["post-hoc", "taylor", "layers"])
def test_a_method_that_reads_a_trained_network_needs_one(recipe: dict[str, Any], tmp_path: Path, method: str):
    with pytest.raises(InputError, match=f"pruning.method {method} reads a network that has learnt the task"):
        train(configure(recipe, pruning__method=method), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_snapshots_of_a_cut_are_refused(recipe: dict[str, Any]):
    with pytest.raises(InputError, match="method random cuts before the first step and leaves no snapshots"):
        configure(recipe, pruning__method="random", pruning__export_at=[0.2])
