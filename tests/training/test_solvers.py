"""The constraint while training: the size follows its schedule at every step, and the cut is the trained network."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from corpus import configure, write_speaker_world
from encoders import KINDS, MakeBackbone
from hybrid_pruning.config import check_config
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.pruning import attach, shrink
from hybrid_pruning.reporting import report
from hybrid_pruning.scoring.scores import score_paths
from hybrid_pruning.training.export import export, read_trained
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import Run
from runs import assert_same_run, read_log, read_steps

LONG = {
    "training__epochs": 5,
    "training__batch_size": 2,
    "training__log_every": 1,
    "pruning__sparsity_warmup_epochs": 3,
    "pruning__target_sparsity": 0.6,
}


TEACHER = {"distillation": {"teacher": "DENSE", "hidden": 50.0}, "pruning__initial_reg_lr": 0.02}
MACS = {"pruning__constraint": "macs", "pruning__target_sparsity": 0.4, "pruning__align": 4}


@pytest.mark.parametrize(
    ("solver", "changes"),
    [
        ("exact", {"pruning__units": ("head", "interm"), "pruning__target_sparsity": 0.5}),
        ("projection", MACS),
        ("exact", TEACHER),
        ("projection", TEACHER),
    ],
    ids=["units", "macs", "exact-teacher", "projection-teacher"],
)
def test_the_size_follows_the_schedule_at_every_step(
    recipe: dict[str, Any], dense: Path, tmp_path: Path, solver: str, changes: dict[str, Any]
):
    changes = {**changes, "pruning__constraint_solver": solver}
    if "distillation" in changes:
        changes["distillation"] = {**changes["distillation"], "teacher": str(dense)}
    steps = read_steps(train(configure(recipe, **{**LONG, **changes}), tmp_path / "run"))
    assert len(steps) == 60
    lag = [abs(step["sparsity"]["expected"] - step["sparsity"]["target"]) for step in steps]
    assert max(lag) < 0.02
    assert "multipliers" not in steps[0]
    histogram = np.sum(
        [*[record for record in read_log(tmp_path / "run") if "gates" in record][-1]["gates"].values()], 0
    )
    assert solver == "projection" or (histogram[1:-1].sum() == 0 and histogram[0] > 0 and histogram[-1] > 0)
    assert not [
        line
        for line in read_log(tmp_path / "run")[0].get("warnings", ())
        if "pruning." in line and "sampled" not in line
    ]
    page = report([tmp_path / "run"], tmp_path / "page.html", rounds=0).read_text()
    assert "Sparsity over steps" in page
    assert "Multipliers over steps" not in page


def test_verification_follows_it_too(tmp_path: Path):
    world = write_speaker_world(tmp_path)
    config = configure(world, **{**LONG, "training__epochs": 1, "pruning__constraint_solver": "exact"})
    steps = read_steps(train(config, tmp_path / "run"))
    assert max(abs(step["sparsity"]["expected"] - step["sparsity"]["target"]) for step in steps) < 0.02


def test_the_export_changes_nothing_that_was_trained(recipe: dict[str, Any], tmp_path: Path):
    """Binary gates are 0 or 1, and the choice of the last epochs is frozen: dev scores are those of the export."""
    config = configure(
        recipe,
        training__epochs=4,
        pruning__constraint_solver="exact",
        pruning__freeze_epochs=2,
        pruning__units=["head", "interm"],
    )
    folder = train(config, tmp_path / "run")
    states = [torch.load(path, weights_only=True)["objective"] for path in Run(folder).list_checkpoints()[-2:]]
    gates = [name for name in states[0] if name.endswith("log_alpha")]
    assert gates
    assert all(torch.equal(states[0][name], states[1][name]) for name in gates)
    small = export(folder, tmp_path / "small", average=1)
    paths = [utterance.path for utterance in read_manifest(config.data.dev)]
    found = torch.as_tensor(score_paths(small, paths, workers=0))
    scores = [float(line.split("\t")[1]) for line in Run(folder).dev_scores.read_text().splitlines()[1:]]
    assert found.tolist() == pytest.approx(scores, abs=1e-4)
    trained = read_trained(Run(folder), average=1).objective
    trained.gates.choose(0.4)
    trained.train()
    wave = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    trained.model.head.eval(), trained.model.classifier.eval()
    assert torch.allclose(small(wave), trained.model.eval()(wave), atol=1e-5)


@pytest.mark.parametrize("solver", ["projection", "exact"])
def test_a_resumed_training_is_the_same(recipe: dict[str, Any], tmp_path: Path, solver: str):
    config = configure(recipe, training__epochs=3, pruning__constraint_solver=solver)
    whole = train(config, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut")
    Run(tmp_path / "cut").list_checkpoints()[-1].unlink()
    assert_same_run(train(config, tmp_path / "cut", resume=True), whole)
    assert [record["dev"]["sparsity"] for record in read_log(whole) if "dev" in record][-1] == pytest.approx(
        0.4, abs=0.02
    )


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_masked_is_shrunk_with_binary_gates(make_backbone: MakeBackbone, wave: torch.Tensor, lengths: torch.Tensor):
    backbone = make_backbone()
    gates = attach(backbone, ("conv", "head", "interm"), binary=True)
    generator = torch.Generator().manual_seed(0)
    for gate in gates.values():
        gate.log_alpha.data.normal_(generator=generator)
    gates.choose(0.5)
    assert float(gates.budget().sparsity) == pytest.approx(0.5, abs=5e-3)
    assert all(set(gate.sampled.tolist()) <= {0.0, 1.0} for gate in gates.values())
    trained = backbone.train()(wave, lengths).frames
    backbone.eval()
    masked = backbone(wave, lengths).frames
    small = shrink(backbone, gates, gates.kept(0.5))(wave, lengths).frames
    assert torch.allclose(trained, masked, atol=1e-6)
    assert (masked - small).abs().max() <= 1e-5 * masked.abs().max()


def test_a_target_out_of_reach_is_refused(recipe: dict[str, Any], tmp_path: Path):
    config = configure(recipe, pruning__constraint_solver="exact", pruning__target_sparsity=0.99)
    with pytest.raises(ValueError, match="cannot be reached by pruning conv, head, interm"):
        train(config, tmp_path / "run")


def test_a_run_of_before_there_were_solvers_has_the_papers(reference: Path, tmp_path: Path):
    old = Run(shutil.copytree(reference, tmp_path / "old"))
    tree = yaml.safe_load(old.config.read_text())
    del tree["pruning"]["constraint_solver"]
    old.config.write_text(yaml.safe_dump(tree))
    assert old.read_config() == Run(reference).read_config()
    assert check_config(tree, "new").pruning.constraint_solver == "exact"


def test_whole_sub_layers_have_gates_where_nothing_within_them_does(recipe: dict[str, Any]):
    pruning = configure(
        recipe, pruning__constraint_solver="exact", pruning__units=("head", "attlayer", "ffnlayer")
    ).pruning
    assert pruning.gated_units == ("head", "ffnlayer")
