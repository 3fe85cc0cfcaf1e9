"""One run, several models: snapshots where the target passes, the same after a kill, each of the size asked for."""

import json
import shutil
from pathlib import Path

import pytest

from corpus import configure, write_wavlm, write_whisper, write_world
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.training.export import export, export_snapshots, find_snapshot
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.objective import target_growth
from hybrid_pruning.training.runs import read_checkpoint, snapshot_name
from hybrid_pruning.training.trainer import Trainer, snapshots_due
from runs import assert_same, assert_same_run, read_log

POINTS = (0.2, 0.4, 0.6)
FAMILY = {
    "training__epochs": 4,
    "training__checkpoint_steps": 2,
    "pruning__target_sparsity": 0.6,
    "pruning__sparsity_warmup_epochs": 2,
    "pruning__export_at": POINTS,
    "pruning__export_hold_epochs": 0.67,  # two steps of an epoch's three
}
MIDDLE = {"hidden_size": 64, "intermediate_size": 256, "conv_dim": [32] * 4}
"""Fine enough for half a point."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    recipe = write_world(folder)
    recipe["backbone"]["source"] = str(write_wavlm(folder / "middle", **MIDDLE))
    return recipe


@pytest.fixture(scope="module")
def reference(recipe, tmp_path_factory):
    return train(configure(recipe, **FAMILY), tmp_path_factory.mktemp("family") / "run")


def removed(model, constraint="params"):
    return float(count_kept(model.backbone).budget.removed(constraint))


def test_snapshots_have_the_sizes_asked_for(reference, tmp_path):
    models = export_snapshots(reference, tmp_path / "models")
    assert [folder.name for folder in models] == ["hp20", "hp40", "hp60"]
    for point, (folder, model) in zip(POINTS, models.items(), strict=True):
        assert abs(removed(model) - point) <= 0.005
        assert removed(SpeechModel.from_pretrained(folder)) == removed(model)
        assert model.provenance.get("snapshot_at", 0.6) == point
    again = export(reference, tmp_path / "one", at=0.4)
    assert_same(again.state_dict(), models[tmp_path / "models" / "hp40"].state_dict())
    last = export(reference, tmp_path / "last", at=0.6)
    assert_same(last.state_dict(), models[tmp_path / "models" / "hp60"].state_dict())


@pytest.mark.parametrize("write", [write_wavlm, write_whisper])
def test_snapshots_are_aligned_and_may_be_of_macs(write, recipe, tmp_path):
    changes = {"pruning__constraint": "macs", "pruning__align": 8, "pruning__macs_seconds": 0.25}
    changes |= {"training__epochs": 3, "pruning__export_at": (0.15,), "pruning__target_sparsity": 0.3}
    changes["backbone__source"] = str(write(tmp_path / "encoder", hidden_size=64, intermediate_size=512))
    run = train(configure(recipe, **{**FAMILY, **changes}), tmp_path / "run")
    (record,) = (record["snapshot"] for record in read_log(run) if "snapshot" in record)
    assert abs(record["macs_sparsity"] - 0.15) <= 0.005
    for model in export_snapshots(run, tmp_path / "models").values():
        kept = count_kept(model.backbone).kept
        assert all(count % 8 == 0 for name, count in kept.items() if name.startswith("interm"))


def test_snapshots_are_taken_and_measured_as_the_target_passes(recipe, reference):
    due = snapshots_due(target_growth(configure(recipe, **FAMILY).pruning, 3), 12)
    assert sorted(path.name for path in (reference / "snapshots").iterdir()) == ["hp20.pt", "hp40.pt"]
    records = [record for record in read_log(reference) if "snapshot" in record]
    assert [record["step"] for record in records] == list(due)
    for record, point in zip(records, POINTS, strict=False):
        found = record["snapshot"]
        assert (found["name"], found["target"]) == (snapshot_name(point), point)
        assert abs(found["sparsity"] - point) <= 0.005
        assert 0 < found["macs_sparsity"] < 1
        assert 0 < found["expected"] < point, "six steps do not move the gates far,"
        assert f"removed at {found['name']}, the target is" in record["warnings"][0], "and the run says so"
        assert 0 <= found["eer"] <= 1
        state = read_checkpoint(reference / "snapshots" / f"{found['name']}.pt")
        assert (state["step"], state["target"]) == (record["step"], point)
        assert "optimizers" not in state, "no training goes on from it"


def test_the_learning_rate_falls_while_the_target_rests(recipe, reference):
    growth, final = target_growth(configure(recipe, **FAMILY).pruning, 3), recipe["training"]["final_lr"]
    rates = {r["step"] - 1: r["learning_rate"]["head"] for r in read_log(reference) if "loss" in r}
    settled = [step for step in rates if growth.rested(step) == 1]
    assert len(settled) == 2
    assert all(rates[step] == pytest.approx(final) for step in settled)
    assert all(rates[step + 1] > 1.2 * final for step in settled), "and then goes on where it was"


def test_a_resumed_run_has_the_same_snapshots(recipe, reference, tmp_path, monkeypatch):
    save = Trainer._save_snapshots

    def interrupt(self):
        save(self)
        if self.step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_snapshots", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(configure(recipe, **FAMILY), tmp_path / "run")
    monkeypatch.undo()
    train(configure(recipe, **FAMILY), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", reference)
    for path in (reference / "snapshots").iterdir():
        assert_same(read_checkpoint(tmp_path / "run" / "snapshots" / path.name), read_checkpoint(path))


def test_without_rests_snapshots_leave_the_training_as_it_was(recipe, tmp_path):
    changes = {**FAMILY, "pruning__export_hold_epochs": 0.0, "training__epochs": 2}
    family = train(configure(recipe, **changes), tmp_path / "family")
    alone = train(configure(recipe, **{**changes, "pruning__export_at": ()}), tmp_path / "alone")
    assert not (alone / "snapshots").exists()
    assert [record for record in read_log(family) if "snapshot" not in record] == read_log(alone)


def test_a_snapshot_can_be_exported_while_the_training_goes_on(reference, tmp_path):
    run = shutil.copytree(reference, tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert abs(removed(export(run, tmp_path / "model", at=0.2)) - 0.2) <= 0.005
    with pytest.raises(InputError, match="0 of 4 epochs are done"):
        export(run, tmp_path / "end", at=0.6)
    with pytest.raises(InputError, match="0 of 4 epochs are done"):
        export_snapshots(run, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_snapshots_by_name(recipe):
    assert configure(recipe, **FAMILY).pruning.snapshots == POINTS[:2]
    assert configure(recipe, **{**FAMILY, "pruning__target_sparsity": 0.7}).pruning.snapshots == POINTS
    assert [snapshot_name(point) for point in (0.3, 0.475, 0.07)] == ["hp30", "hp47.5", "hp7"]
    assert find_snapshot(configure(recipe, **FAMILY), 0.2 + 1e-12, Path("run")) == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning__sparsity_warmup_epochs": 0, "pruning__export_hold_epochs": 0.0}, "0.2: .* after step 0 of 12; len"),
        ({"pruning__sparsity_warmup_epochs": 20}, r"0.2: .* of 12; shorten"),
    ],
)
def test_a_point_that_is_not_passed_is_refused(changes, message, recipe, tmp_path):
    with pytest.raises(InputError, match=message):
        train(configure(recipe, **{**FAMILY, **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dense_training_leaves_no_snapshots(recipe, tmp_path):
    changes = {**FAMILY, "training__epochs": 1, "pruning__use_pruning_loss": False}
    run = train(configure(recipe, **changes), tmp_path / "run")
    assert not (run / "snapshots").exists()
    assert not any("snapshot" in json.dumps(record) for record in read_log(run))
    with pytest.raises(InputError, match=r"--at 0.2: no such model in this run; it has none, it is dense"):
        export(run, tmp_path / "model", at=0.2)
