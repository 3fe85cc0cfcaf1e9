"""Training reaches its target, repeats itself exactly, applies what the recipe says, and refuses early."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import configure, files_below, settings, write_corpus, write_wavlm
from encoders import STYLES
from hybrid_pruning.config import DataConfig, load_config, save_config
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.data.trainset import TrainSet
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import eer
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import PlanError, shape_of
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.objective import build_objective, learning_rate_factor
from hybrid_pruning.training.runs import EPOCH, Run, read_checkpoint
from hybrid_pruning.training.trainer import Skipped, Trainer
from runs import assert_same_run, final_state, read_log, read_steps

Recipe = dict[str, Any]
DENSE = {"pruning__use_pruning_loss": False}


def run(recipe: Recipe, folder: Path, **changes: Any) -> Path:
    return train(configure(recipe, **changes), folder)


def backbone_size(model: SpeechModel) -> int:
    return sum(parameter.numel() for parameter in model.backbone.parameters())


@pytest.mark.parametrize(("drop_rate", "target"), [(0.3, 0.4), (0.8, 0.3)], ids=["from below", "from above"])
def test_a_run_reaches_its_target(recipe: Recipe, dense: Path, tmp_path: Path, drop_rate: float, target: float):
    changes = {"training__epochs": 7, "training__batch_size": 2, "training__log_every": 4}
    changes |= {"pruning__drop_rate": drop_rate, "pruning__target_sparsity": target}
    folder = run(recipe, tmp_path / "run", **changes, pruning__initial_reg_lr=0.4, pruning__sparsity_warmup_epochs=0)
    expected = [record["sparsity"]["expected"] for record in read_steps(folder)]
    assert abs(expected[0] - target) > 0.2
    assert (expected[0] > target) == (drop_rate > 0.5)
    assert max(abs(value - target) for value in expected[-3:]) < 0.05
    whole = backbone_size(Run(dense).read_model())
    assert abs(1 - backbone_size(export(folder, tmp_path / "model")) / whole - target) < 0.005


@pytest.mark.parametrize("changes", [{"data__workers": 2}, {"backbone__gradient_checkpointing": True}], ids=str)
def test_a_seed_is_a_run(recipe: Recipe, reference: Path, tmp_path: Path, changes: dict[str, Any]):
    assert_same_run(run(recipe, tmp_path / "run", **changes), reference)


def test_every_seed_and_step_has_dropout_of_its_own(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []
    manual_seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed % 2**32) or manual_seed(seed))
    changes = {"training__accumulate": 2, "training__epochs": 1, **DENSE}
    one, two = (run(recipe, tmp_path / f"run{seed}", seed=seed, **changes) for seed in (1, 2))
    assert read_steps(one)[0]["loss"] != read_steps(two)[0]["loss"]
    assert len(set(seeds)) == len(seeds) >= 2 * 3 * 2, "a CPU generator reads 32 bits of its seed"


@pytest.mark.parametrize("last", ["lost", "damaged", "there"])
def test_a_resumed_run_is_the_uninterrupted_one(
    recipe: Recipe, reference: Path, tmp_path: Path, last: str, capsys: Any
):
    folder = shutil.copytree(reference, tmp_path / "run")
    newest = Run(folder).list_checkpoints()[-1]
    if last == "lost":
        newest.unlink()
    elif last == "damaged":
        newest.write_bytes(newest.read_bytes()[:5000])
    train(configure(recipe), folder, resume=True)
    line = f"{newest}: is damaged and set aside; going on from epoch-0001.pt"
    assert (line in capsys.readouterr().out) == (last == "damaged")
    assert_same_run(folder, reference)


def test_a_folder_that_cannot_be_resumed(recipe: Recipe, reference: Path, tmp_path: Path):
    shutil.copytree(reference, tmp_path / "run")
    with pytest.raises(InputError, match=r"config\.yaml: differs from the recipe"):
        train(configure(recipe, seed=7), tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="nowhere: is no training run"):
        train(configure(recipe), tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
    for name, text in (("config.yaml", "a: [1"), ("architecture.json", "{}")):
        shutil.copytree(reference, tmp_path / name)
        (tmp_path / name / name).write_text(text)
        with pytest.raises(InputError, match=name):
            train(configure(recipe), tmp_path / name, resume=True)


def test_a_run_keeps_its_recipe_and_its_last_checkpoints(recipe: Recipe, reference: Path, tmp_path: Path):
    assert load_config(reference / "config.yaml") == configure(recipe)
    assert [path.name for path in Run(reference).list_checkpoints()] == ["epoch-0001.pt", "epoch-0002.pt"]
    folder = run(recipe, tmp_path / "run", training__keep_checkpoints=1)
    assert [path.name for path in Run(folder).list_checkpoints()] == ["epoch-0002.pt"]
    epochs = [record["dev"] for record in read_log(reference) if "dev" in record]
    assert len(epochs) == 2
    assert all(0 <= epoch["eer"] <= 1 for epoch in epochs)
    assert epochs[-1]["sparsity"] == pytest.approx(0.4, abs=0.005)


def test_export_averages_checkpoints(dense: Path, tmp_path: Path):
    folder = shutil.copytree(dense, tmp_path / "run")
    states = [read_checkpoint(path)["objective"] for path in Run(folder).list_checkpoints()]
    name = "classifier.2.weight"
    weights = [state[f"model.{name}"] for state in states]
    for average, expected in ((1, weights[1]), (2, (weights[0] + weights[1]) / 2)):
        found = export(folder, tmp_path / f"model{average}", average).state_dict()[name]
        torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match="model1: is not empty"):
        export(folder, tmp_path / "model1")
    for path in Run(folder).list_checkpoints():
        path.unlink()
    with pytest.raises(InputError, match="0 of 2 epochs are done"):
        export(folder, tmp_path / "model3")
    assert not (tmp_path / "model3").exists()


def test_without_the_pruning_loss_a_run_is_dense(dense: Path, tmp_path: Path):
    assert all(set(record["loss"]) == {"task"} and "sparsity" not in record for record in read_steps(dense))
    assert not any("log_alpha" in name or "lambda" in name for name in final_state(dense)["objective"])
    model = export(dense, tmp_path / "model")
    assert shape_of(model.backbone) is None
    assert backbone_size(model) == backbone_size(SpeechModel.from_pretrained(tmp_path / "model"))


def test_learning_rates_are_logged_and_applied(recipe: Recipe, tmp_path: Path):
    """The head's is scheduled, the backbone's a share of it (here none), the gates' constant."""
    folder = run(recipe, tmp_path / "run", training__backbone_lr_ratio=0.0, pruning__clamp_lambda1=False)
    config = configure(recipe).training
    for record in read_steps(folder):
        rate = config.lr * learning_rate_factor(config, record["step"] - 1, total_steps=6, warmup_steps=3)
        expected = {"backbone": 0.0, "backbone.no_decay": 0.0, "head": rate, "head.no_decay": rate}
        assert record["learning_rate"] == pytest.approx({**expected, "gates": 0.1, "multipliers": 0.1})
    first, last = (read_checkpoint(path)["objective"] for path in Run(folder).list_checkpoints())
    for name, value in last.items():
        if torch.is_tensor(value) and "masked_spec_embed" not in name:
            assert torch.equal(value, first[name]) == name.startswith("model.backbone"), name


@pytest.mark.parametrize("clamp", [True, False])
def test_multipliers_ascend(recipe: Recipe, tmp_path: Path, clamp: bool):
    """Below its target a model is rewarded for sparsity: lambda1 falls, unless clamped, and lambda2 rises."""
    changes = {"pruning__min_sparsity": 0.4, "pruning__drop_rate": 0.1, "training__batch_size": 4}
    folder = run(recipe, tmp_path / "run", pruning__clamp_lambda1=clamp, training__epochs=1, **changes)
    multipliers = [record["multipliers"] for record in read_steps(folder)]
    assert multipliers[-1]["lambda2"] > 0.1
    assert multipliers[-1]["lambda1"] < -0.1 or clamp
    assert {each["lambda1"] for each in multipliers} == {0.0} or not clamp


def test_accumulated_gradients_are_the_big_batchs(recipe: Recipe, tmp_path: Path):
    changes = {**DENSE, "backbone__source": str(write_wavlm(tmp_path / "no dropout")), "training__epochs": 1}
    whole, parted = (
        read_steps(run(recipe, tmp_path / f"run{parts}", training__accumulate=parts, **changes)) for parts in (1, 4)
    )
    assert len(whole) == 3
    for expected, found in zip(whole, parted, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)


def test_clipping_is_for_the_network_alone(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    norms: dict[str, list[float]] = {"network": [], "pruning": []}
    step = torch.optim.AdamW.step

    def measure(optimizer: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        kind = "pruning" if optimizer.param_groups[0]["name"] == "gates" else "network"
        norms[kind].append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", measure)
    changes = {"pruning__min_sparsity": 0.4, "training__epochs": 1}
    folder = run(recipe, tmp_path / "run", training__clip_norm=1e-4, **changes)
    assert norms["network"] == pytest.approx([1e-4] * 3, rel=1e-2)
    assert min(norms["pruning"]) > 1e-2
    assert all(record["gradient_norm"]["network"] > 1e-3 for record in read_steps(folder)), "logged before clipping"


def test_bf16_leaves_the_weights_in_float32(recipe: Recipe, reference: Path, tmp_path: Path):
    folder = run(recipe, tmp_path / "run", training__mixed_precision="bf16", training__epochs=1)
    losses, expected = ([record["loss"]["task"] for record in read_steps(path)[:3]] for path in (folder, reference))
    assert losses == pytest.approx(expected, abs=0.05)
    assert losses != expected
    state = final_state(folder)["objective"]
    assert {value.dtype for value in state.values() if torch.is_tensor(value)} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run(recipe: Recipe, tmp_path: Path):
    config = configure(recipe, training__epochs=4, **DENSE)
    beyond = config.training.model_copy(update={"lr": 1e30, "final_lr": 1e30})  # a recipe's bounds would refuse it
    with pytest.raises(InputError, match=r"task loss is not finite at step .*lower training.lr"):
        train(config.model_copy(update={"training": beyond}), tmp_path / "run")


def single_class(folder: Path, recipe: Recipe) -> dict[str, Any]:
    write_manifest(folder / "m.tsv", [u for u in read_manifest(recipe["data"]["train"]) if u.label == Label.SPOOF])
    return {"data.train": str(folder / "m.tsv")}


def missing_audio(folder: Path, recipe: Recipe) -> dict[str, Any]:
    manifest = write_corpus(folder / "corpus", clips=4)
    write_manifest(manifest, [*read_manifest(manifest), Utterance("lost", folder / "lost.wav", Label.SPOOF)])
    return {"data.dev": str(manifest)}


REFUSALS: dict[str, tuple[Any, str]] = {
    "one class": (single_class, "m.tsv: no utterance is labelled 'bonafide'"),
    "one class in dev": (
        lambda *world: {"data.dev": single_class(*world)["data.train"]},
        "m.tsv: no utterance is labelled 'bonafide'",
    ),
    "missing audio": (missing_audio, "'lost': .*lost.wav does not exist"),
    "no manifest": ({"data.train": "nowhere.tsv"}, "nowhere.tsv: cannot be read"),
    "no backbone": ({"backbone.source": "/nowhere/at/all"}, "/nowhere/at/all: no transformers model there"),
    "beyond reach": ({"pruning.target_sparsity": 0.99}, r"0.99 .*cannot be reached .*maximum is 0\.8\d+"),
    "units too few": ({"pruning.units": ["conv"], "pruning.target_sparsity": 0.3}, "pruning conv: the maximum is 0.0"),
}


@pytest.mark.parametrize("mistake", REFUSALS)
def test_mistakes_are_refused_before_anything_is_written(recipe: Recipe, tmp_path: Path, mistake: str):
    changes, expected = REFUSALS[mistake]
    changes = changes(tmp_path, recipe) if callable(changes) else changes
    config = configure(settings(recipe, changes))
    with pytest.raises((InputError, PlanError), match=expected):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_taken_folder_is_left_as_it_was(recipe: Recipe, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match="run: is not empty"):
        train(configure(recipe), tmp_path / "run")
    assert [path.name for path in files_below(tmp_path / "run")] == ["thesis.txt"]


def test_a_pruned_model_can_be_trained_further_and_pruned_again(recipe: Recipe, reference: Path, tmp_path: Path):
    small = export(reference, tmp_path / "small")
    source = {"backbone__source": str(tmp_path / "small")}
    folder = run(recipe, tmp_path / "further", training__epochs=1, **source, **DENSE)
    further = export(folder, tmp_path / "model")
    assert shape_of(further.backbone) == shape_of(small.backbone)
    assert backbone_size(further) == backbone_size(small)
    again = export(run(recipe, tmp_path / "again", **source), tmp_path / "twice")
    left = 1 - recipe["pruning"]["target_sparsity"]
    assert backbone_size(again) == pytest.approx(left * backbone_size(small), rel=0.01)
    assert shape_of(SpeechModel.from_pretrained(tmp_path / "twice").backbone) == shape_of(again.backbone)


@pytest.mark.parametrize(("killed", "checkpoint_steps"), [("between checkpoints", 2), ("after its validation", 3)])
def test_an_interrupted_run_is_resumed_to_the_same_end(
    recipe: Recipe, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str, checkpoint_steps: int
):
    """Within an epoch, or with a last checkpoint from before the validation, at the very same step."""
    owner, name = (Trainer, "_step") if killed == "between checkpoints" else (Run, "save_checkpoint")
    original = getattr(owner, name)

    def interrupt(self: Any, *arguments: Any) -> Any:
        if self.step == 5 if isinstance(self, Trainer) else arguments[0] == EPOCH:
            raise KeyboardInterrupt
        return original(self, *arguments)

    config = configure(recipe, training__checkpoint_steps=checkpoint_steps)
    monkeypatch.setattr(owner, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    assert ("dev" in read_log(tmp_path / "run")[-1]) == (owner is Run)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", reference)


def test_records_have_all_that_the_report_reads(reference: Path):
    log = [json.loads(line) for line in (reference / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    decays = {group["name"]: group["weight_decay"] for group in log[0]["groups"]}
    assert decays["backbone"] == decays["head"] > 0 == decays["backbone.no_decay"] == decays["gates"]
    assert all(group["parameters"] > 0 and group["peak_learning_rate"] > 0 for group in log[0]["groups"])
    parts = {"network", "backbone", "head", "gates", "multipliers"}
    state = final_state(reference)["objective"]
    slots = {name.removeprefix("gates.").removesuffix(".log_alpha") for name in state if name.endswith("log_alpha")}
    names = {"step", "epoch", "loss", "learning_rate", "gradient_norm", "audio_seconds_per_second", "padding"}
    for record in (record for record in log if "loss" in record):
        assert set(record) == names | {"sparsity", "removed", "multipliers", "kept"}
        assert set(record["loss"]) == {"task", "sparsity"}
        assert set(record["gradient_norm"]) == parts
        squares = {name: norm**2 for name, norm in record["gradient_norm"].items()}
        assert squares["network"] == pytest.approx(squares["backbone"] + squares["head"], rel=1e-4)
        assert set(record["sparsity"]) == {"expected", "target", "exact"}
        assert set(record["multipliers"]) == {"lambda1", "lambda2"}
        assert set(record["kept"]) == slots
        assert all(0 <= kept <= 1 for kept in record["kept"].values())
        assert record["padding"] == 0, "every clip is longer than a crop"
        assert record["audio_seconds_per_second"] > 0
    targets = [record["sparsity"]["target"] for record in log if "loss" in record]
    assert targets == pytest.approx([0.0, 0.2, 0.4, 0.4, 0.4, 0.4]), "over the recipe's one epoch of warm-up"
    validations = [record for record in log if "dev" in record]
    assert [set(record) - {"warnings"} for record in validations] == [{"step", "epoch", "dev", "gates"}] * 2
    assert [record["epoch"] for record in validations] == [1, 2]


def test_gates_are_drawn_and_counted_as_rounded(recipe: Recipe, tmp_path: Path):
    """Units of one slot differ after the first epoch: only the task, through sampled gates, separates them."""
    folder = run(recipe, tmp_path / "run", training__epochs=1, pruning__drop_rate=0.4, pruning__constraint="macs")
    objective = build_objective(Run(folder).read_config(), Run(folder).read_model())
    objective.load_state_dict(final_state(folder)["objective"])
    gates, last = objective.gates, read_steps(folder)[-1]
    assert gates is not None
    assert all(gate.log_alpha.std() > 1e-4 for gate in gates.values() if gate.slot.size > 1)
    kept = gates.kept()
    assert last["sparsity"]["exact"] == pytest.approx(gates.accounting.exact_kept(kept).macs_sparsity)
    assert last["sparsity"]["exact"] != pytest.approx(last["sparsity"]["expected"], abs=1e-4)
    assert last["kept"] == {name: len(kept[name]) / gate.slot.size for name, gate in gates.items()}
    (read,) = [Run(folder).read_gates([path]).kept(0.4, "macs") for path in Run(folder).list_checkpoints()]
    assert read == gates.kept(0.4, "macs"), "without the network"


def test_dev_scores_lie_beside_the_log(recipe: Recipe, reference: Path):
    header, *rows = [row.split("\t") for row in (reference / "dev_scores.tsv").read_text().splitlines()]
    assert header == ["filename", "cm-score", "cm-label"]
    devset = read_manifest(recipe["data"]["dev"])
    assert [row[::2] for row in rows] == [[u.utt_id, u.label] for u in devset]
    scores = np.array([float(row[1]) for row in rows])
    bonafide = np.array([u.label == Label.BONAFIDE for u in devset])
    assert read_log(reference)[-1]["dev"]["eer"] == eer(scores[bonafide], scores[~bonafide])


@pytest.mark.parametrize("logged", [False, True])
def test_a_run_killed_before_its_first_checkpoint_begins_again(
    recipe: Recipe, reference: Path, tmp_path: Path, logged: bool
):
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(configure(recipe), folder / "config.yaml")
    (folder / ".architecture.json.abcdefgh.tmp").write_text("{")
    if logged:
        for name in ("architecture.json", "data.json", "log.jsonl"):
            shutil.copy(reference / name, folder)
    train(configure(recipe), folder, resume=True)
    assert_same_run(folder, reference)
    assert (folder / "architecture.json").read_text() == (reference / "architecture.json").read_text()
    assert not list(folder.glob(".*"))


def test_a_checkpoint_of_other_processes_or_another_model_is_refused(recipe: Recipe, reference: Path, tmp_path: Path):
    path = tmp_path / "run" / "checkpoints" / "epoch-0002.pt"
    shutil.copytree(reference, tmp_path / "run")
    state = read_checkpoint(path)
    torch.save({**state, "processes": 2}, path)
    with pytest.raises(InputError, match=r"epoch-0002.pt: was written by 2 processes, now there are 1; resume with as"):
        train(configure(recipe), tmp_path / "run", resume=True)
    state["objective"].pop("model.classifier.2.weight")
    torch.save(state, path)
    with pytest.raises(InputError, match=r"epoch-0002.pt: does not fit the model; is backbone.source another one"):
        train(configure(recipe), tmp_path / "run", resume=True)


def test_unreadable_files_are_reported_at_the_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    batches = TrainSet.batches

    def skip(self: TrainSet, epoch: int, done: int = 0) -> Iterator[Batch]:
        for index, batch in enumerate(batches(self, epoch, done), start=done):
            yield replace(batch, padding=0.25, skipped=(f"clip{min(index, 1)}.wav: cannot be decoded",))

    monkeypatch.setattr(TrainSet, "batches", skip)
    config = configure(recipe, data__skip_limit=0.1, training__checkpoint_steps=2)
    train(config, tmp_path / "run")
    messages = ["clip0.wav: cannot be decoded", "clip1.wav: cannot be decoded"]
    assert read_log(tmp_path / "run")[-1] == {"step": 6, "skipped": {"files": 2, "first": messages}}
    assert "2 of 24 training files could not be read" in capsys.readouterr().out
    assert {record["padding"] for record in read_steps(tmp_path / "run")} == {0.25}
    assert final_state(tmp_path / "run")["skipped"] == messages
    monkeypatch.undo()
    train(config, tmp_path / "run", resume=True)
    assert read_log(tmp_path / "run")[-1]["skipped"]["files"] == 2


MESSAGES = [f"clips/{index}.flac: cannot be decoded" for index in range(12)]


def test_an_unreadable_file_counts_once_and_the_first_ten_are_reported(capsys: pytest.CaptureFixture[str]):
    found = Skipped(DataConfig(train="train.tsv", dev="dev.tsv"), 2000)
    found.add(MESSAGES)
    found.add(["clips/1.flac: cannot be decoded (another reason, at another place)"])
    found.join()
    assert found.report() == {"skipped": {"files": 12, "first": MESSAGES[:10]}}
    title, *lines, rest = capsys.readouterr().out.splitlines()
    assert title == "12 of 2000 training files could not be read and were replaced by others:"
    assert [line.strip() for line in lines] == MESSAGES[:10]
    assert rest.strip() == "and 2 more"


@pytest.mark.parametrize(("total", "limit", "allowed"), [(1000, 0.01, 10), (10, 0.01, 1), (10, 0.0, 1), (5, 1.0, 5)])
def test_too_many_unreadable_files_are_refused(total: int, limit: float, allowed: int):
    found = Skipped(DataConfig(train="train.tsv", dev="dev.tsv", skip_limit=limit), total)
    found.add(MESSAGES[:allowed])
    expected = rf"train.tsv: {allowed + 1} of {total} .* data.skip_limit {limit:g} allows {allowed}; .* clips/{allowed}"
    with pytest.raises(InputError, match=expected):
        found.add(MESSAGES[: allowed + 1])


def test_parameters_without_gradient_are_frozen(recipe: Recipe, tmp_path: Path):
    """In a pre-norm model that lost its attentions, the norms in front of them reach no output."""
    large = write_wavlm(tmp_path / "large", **STYLES["large"])
    changes = {"pruning__units": ["attlayer"], "pruning__target_sparsity": 0.15, "backbone__source": str(large)}
    changes |= {"training__epochs": 1, "pruning__initial_reg_lr": 2.0}
    small = export(run(recipe, tmp_path / "run", **changes), tmp_path / "small", 1)
    shape = shape_of(small.backbone)
    assert shape is not None
    closed = {int(name.partition(".")[2]) for name, kept in shape.kept.items() if not kept}
    assert closed
    build_objective(configure(recipe, **DENSE), small)
    frozen = {name for name, parameter in small.backbone.named_parameters() if not parameter.requires_grad}
    expected = {f"encoder.layers.{layer}.layer_norm.{part}" for layer in closed for part in ("weight", "bias")}
    assert {name for name in frozen if "layers" in name} == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_gated_run_on_a_gpu_resumes(recipe: Recipe, tmp_path: Path, precision: str):
    config = configure(recipe, training__mixed_precision=precision, training__accumulate=2)
    train(config, tmp_path / "run")
    whole = read_steps(tmp_path / "run")
    assert whole[-1]["sparsity"]["expected"] != whole[0]["sparsity"]["expected"]
    assert all(np.isfinite(record["loss"]["task"]) for record in whole)
    Run(tmp_path / "run").list_checkpoints()[-1].unlink()
    train(config, tmp_path / "run", resume=True)
    for found, expected in zip(read_steps(tmp_path / "run"), whole, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-2)
        assert found["sparsity"] == pytest.approx(expected["sparsity"], rel=1e-2)
    assert shape_of(export(tmp_path / "run", tmp_path / "model").backbone) is not None
