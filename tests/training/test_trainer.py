"""Training reaches its target, repeats itself exactly, applies what the recipe says, and refuses early."""

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from corpus import configure, write_wavlm
from encoders import STYLES
from hybrid_pruning.config import DataConfig, load_config, save_config
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.trainset import TrainSet
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import eer
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.scoring.scores import score_paths
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.objective import build_objective, learning_rate_factor
from hybrid_pruning.training.runs import EPOCH, STEP, Run, read_checkpoint
from hybrid_pruning.training.trainer import Skipped, Trainer
from runs import assert_same_run, final_state, finish, kill_at_random, read_log, read_steps, run_command, start

DENSE = {"pruning__use_pruning_loss": False}


def run(recipe, folder, **changes):
    return train(configure(recipe, **changes), folder)


def backbone_size(model):
    return sum(parameter.numel() for parameter in model.backbone.parameters())


@pytest.mark.parametrize(("drop_rate", "target"), [(0.3, 0.4), (0.8, 0.3)], ids=["from below", "from above"])
def test_a_run_reaches_its_target(recipe, dense, tmp_path, drop_rate, target):
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
def test_a_seed_is_a_run(recipe, reference, tmp_path, changes):
    assert_same_run(run(recipe, tmp_path / "run", **changes), reference)


def test_every_seed_and_step_has_dropout_of_its_own(recipe, tmp_path, monkeypatch):
    seeds = []
    manual_seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed % 2**32) or manual_seed(seed))
    changes = {"training__accumulate": 2, "training__epochs": 1, **DENSE}
    one, two = (run(recipe, tmp_path / f"run{seed}", seed=seed, **changes) for seed in (1, 2))
    assert read_steps(one)[0]["loss"] != read_steps(two)[0]["loss"]
    assert len(set(seeds)) == len(seeds) >= 2 * 3 * 2, "a CPU generator reads 32 bits of its seed"


@pytest.mark.parametrize("last", ["lost", "damaged", "there"])
def test_a_resumed_run_is_the_uninterrupted_one(recipe, reference, tmp_path, last, capsys):
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


def test_a_damaged_folder_is_not_resumed(recipe, reference, tmp_path):
    for name, text in (("config.yaml", "a: [1"), ("architecture.json", "{}")):
        shutil.copytree(reference, tmp_path / name)
        (tmp_path / name / name).write_text(text)
        with pytest.raises(InputError, match=name):
            train(configure(recipe), tmp_path / name, resume=True)


def test_a_run_keeps_its_recipe_and_its_last_checkpoints(recipe, reference, tmp_path):
    assert load_config(reference / "config.yaml") == configure(recipe)
    assert [path.name for path in Run(reference).list_checkpoints()] == ["epoch-0001.pt", "epoch-0002.pt"]
    folder = run(recipe, tmp_path / "run", training__keep_checkpoints=1)
    assert [path.name for path in Run(folder).list_checkpoints()] == ["epoch-0002.pt"]
    epochs = [record["dev"] for record in read_log(reference) if "dev" in record]
    assert len(epochs) == 2
    assert all(0 <= epoch["eer"] <= 1 for epoch in epochs)
    assert epochs[-1]["sparsity"] == pytest.approx(0.4, abs=0.005)


def test_export_averages_checkpoints(dense, tmp_path):
    folder = shutil.copytree(dense, tmp_path / "run")
    states = [read_checkpoint(path)["objective"] for path in Run(folder).list_checkpoints()]
    name = "classifier.2.weight"
    weights = [state[f"model.{name}"] for state in states]
    for average, expected in ((1, weights[1]), (2, (weights[0] + weights[1]) / 2)):
        found = export(folder, tmp_path / f"model{average}", average).state_dict()[name]
        torch.testing.assert_close(found, expected)
    for path in Run(folder).list_checkpoints():
        path.unlink()
    with pytest.raises(InputError, match="0 of 2 epochs are done"):
        export(folder, tmp_path / "model3")
    assert not (tmp_path / "model3").exists()


def test_without_the_pruning_loss_a_run_is_dense(dense, tmp_path):
    assert all(set(record["loss"]) == {"task"} and "sparsity" not in record for record in read_steps(dense))
    assert not any("log_alpha" in name or "lambda" in name for name in final_state(dense)["objective"])
    model = export(dense, tmp_path / "model")
    assert shape_of(model.backbone) is None
    assert backbone_size(model) == backbone_size(SpeechModel.from_pretrained(tmp_path / "model"))


def test_learning_rates_are_logged_and_applied(recipe, tmp_path):
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
def test_multipliers_ascend(recipe, tmp_path, clamp):
    """Below its target a model is rewarded for sparsity: lambda1 falls, unless clamped, and lambda2 rises."""
    changes = {"pruning__min_sparsity": 0.4, "pruning__drop_rate": 0.1, "training__batch_size": 4}
    folder = run(recipe, tmp_path / "run", pruning__clamp_lambda1=clamp, training__epochs=1, **changes)
    multipliers = [record["multipliers"] for record in read_steps(folder)]
    assert multipliers[-1]["lambda2"] > 0.1
    assert multipliers[-1]["lambda1"] < -0.1 or clamp
    assert {each["lambda1"] for each in multipliers} == {0.0} or not clamp


def test_accumulated_gradients_are_the_big_batchs(recipe, tmp_path):
    changes = {**DENSE, "backbone__source": str(write_wavlm(tmp_path / "no dropout")), "training__epochs": 1}
    whole, parted = (
        read_steps(run(recipe, tmp_path / f"run{parts}", training__accumulate=parts, **changes)) for parts in (1, 4)
    )
    assert len(whole) == 3
    for expected, found in zip(whole, parted, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)


def test_clipping_is_for_the_network_alone(recipe, tmp_path, monkeypatch):
    norms = {"network": [], "pruning": []}
    step = torch.optim.AdamW.step

    def measure(optimizer, *args, **kwargs):
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


def test_bf16_leaves_the_weights_in_float32(recipe, reference, tmp_path):
    folder = run(recipe, tmp_path / "run", training__mixed_precision="bf16", training__epochs=1)
    losses, expected = ([record["loss"]["task"] for record in read_steps(path)[:3]] for path in (folder, reference))
    assert losses == pytest.approx(expected, abs=0.05)
    assert losses != expected
    state = final_state(folder)["objective"]
    assert {value.dtype for value in state.values() if torch.is_tensor(value)} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run(recipe, tmp_path):
    config = configure(recipe, training__epochs=4, **DENSE)
    beyond = config.training.model_copy(update={"lr": 1e30, "final_lr": 1e30})  # a recipe's bounds would refuse it
    with pytest.raises(InputError, match=r"task loss is not finite at step .*lower training.lr"):
        train(config.model_copy(update={"training": beyond}), tmp_path / "run")


def test_a_pruned_model_can_be_trained_further_and_pruned_again(recipe, reference, tmp_path):
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
    recipe, reference, tmp_path, monkeypatch, killed, checkpoint_steps
):
    """Within an epoch, or with a last checkpoint from before the validation, at the very same step."""
    owner, name = (Trainer, "_step") if killed == "between checkpoints" else (Run, "save_checkpoint")
    original = getattr(owner, name)

    def interrupt(self, *arguments):
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


def test_records_have_all_that_the_report_reads(reference):
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
    assert [set(record) - {"warnings", "closed"} for record in validations] == [{"step", "epoch", "dev", "gates"}] * 2
    assert [record["epoch"] for record in validations] == [1, 2]


def test_gates_are_drawn_and_counted_as_rounded(recipe, tmp_path):
    """Units of one slot differ after the first epoch: only the task, through sampled gates, separates them."""
    folder = run(recipe, tmp_path / "run", training__epochs=1, pruning__drop_rate=0.4, pruning__constraint="macs")
    objective = build_objective(Run(folder).read_config(), Run(folder).read_model())
    objective.load_state_dict(final_state(folder)["objective"])
    gates, last = objective.gates, read_steps(folder)[-1]
    assert all(gate.log_alpha.std() > 1e-4 for gate in gates.values() if gate.slot.size > 1)
    kept = gates.kept()
    assert last["sparsity"]["exact"] == pytest.approx(gates.accounting.exact_kept(kept).macs_sparsity)
    assert last["sparsity"]["exact"] != pytest.approx(last["sparsity"]["expected"], abs=1e-4)
    assert last["kept"] == {name: len(kept[name]) / gate.slot.size for name, gate in gates.items()}
    (read,) = [Run(folder).read_gates([path]).kept(0.4, "macs") for path in Run(folder).list_checkpoints()]
    assert read == gates.kept(0.4, "macs"), "without the network"


def test_dev_scores_lie_beside_the_log(recipe, reference):
    header, *rows = [row.split("\t") for row in (reference / "dev_scores.tsv").read_text().splitlines()]
    assert header == ["filename", "cm-score", "cm-label"]
    devset = read_manifest(recipe["data"]["dev"])
    assert [row[::2] for row in rows] == [[u.utt_id, u.label] for u in devset]
    scores = np.array([float(row[1]) for row in rows])
    bonafide = np.array([u.label == Label.BONAFIDE for u in devset])
    assert read_log(reference)[-1]["dev"]["eer"] == eer(scores[bonafide], scores[~bonafide])


@pytest.mark.parametrize("logged", [False, True])
def test_a_run_killed_before_its_first_checkpoint_begins_again(recipe, reference, tmp_path, logged):
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


def test_a_checkpoint_of_other_processes_or_another_model_is_refused(recipe, reference, tmp_path):
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


def test_unreadable_files_are_reported_at_the_end(recipe, tmp_path, monkeypatch, capsys):
    batches = TrainSet.batches

    def skip(self, epoch, done=0):
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


def test_an_unreadable_file_counts_once_and_the_first_ten_are_reported(capsys):
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
def test_too_many_unreadable_files_are_refused(total, limit, allowed):
    found = Skipped(DataConfig(train="train.tsv", dev="dev.tsv", skip_limit=limit), total)
    found.add(MESSAGES[:allowed])
    expected = rf"train.tsv: {allowed + 1} of {total} .* data.skip_limit {limit:g} allows {allowed}; .* clips/{allowed}"
    with pytest.raises(InputError, match=expected):
        found.add(MESSAGES[: allowed + 1])


def test_parameters_without_gradient_are_frozen(recipe, tmp_path):
    """In a pre-norm model that lost its attentions, the norms in front of them reach no output."""
    large = write_wavlm(tmp_path / "large", **STYLES["large"])
    changes = {"pruning__units": ["attlayer"], "pruning__target_sparsity": 0.15, "backbone__source": str(large)}
    changes |= {"training__epochs": 1, "pruning__initial_reg_lr": 2.0}
    small = export(run(recipe, tmp_path / "run", **changes), tmp_path / "small", 1)
    shape = shape_of(small.backbone)
    closed = {int(name.partition(".")[2]) for name, kept in shape.kept.items() if not kept}
    assert closed
    build_objective(configure(recipe, **DENSE), small)
    frozen = {name for name, parameter in small.backbone.named_parameters() if not parameter.requires_grad}
    expected = {f"encoder.layers.{layer}.layer_norm.{part}" for layer in closed for part in ("weight", "bias")}
    assert {name for name in frozen if "layers" in name} == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_gated_run_on_a_gpu_resumes(recipe, tmp_path, precision):
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


CROWDED = {"training__checkpoint_steps": 1, "training__keep_checkpoints": 100}


@pytest.mark.parametrize(
    ("epochs", "kills", "steps"),
    [
        pytest.param(4, 2, 4, id="twice"),
        pytest.param(60, 20, 12, id="twenty times", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(recipe, tmp_path, epochs, kills, steps):
    """Killed at random points, with workers and without in turn, against a training that was left alone."""
    seed = int(os.environ.get("SOAK_SEED", "1"))
    print(f"\n{kills} kills at random points, seed {seed}")
    save_config(configure(recipe, training__epochs=epochs, training__checkpoint_steps=2), tmp_path / "recipe.yaml")
    chance, killed, whole = random.Random(seed), tmp_path / "killed", tmp_path / "whole"

    def begin(run, workers, more):
        options = ["--out", str(run), "--set", f"data.workers={workers}", *more]
        return start(run_command, ["train", str(tmp_path / "recipe.yaml"), *options], tmp_path / "output.txt")

    for number in range(1, kills + 1):
        workers = 2 * (number % 2)
        where = kill_at_random(lambda more, w=workers: begin(killed, w, more), killed, chance, steps)
        print(f"kill {number:>2} of {kills}, {workers} workers: {where}", flush=True)
    assert finish(begin(killed, 0, ["--resume"]), begin(whole, 0, [])) == [0, 0], (tmp_path / "output.txt").read_text()
    assert_same_run(killed, whole)
    assert not list(killed.rglob(".*"))


def test_the_public_recipes_options_resume_and_export_as_trained(recipe, tmp_path):
    """Batch norm, gradient multiplier, start noise, joint clipping, scaled rates: cut off after the first epoch."""
    changes = {"head__classifier_norm": "batch", "backbone__hidden_gradient": 0.1}
    changes |= {"training__clip_gates": True, "training__clip_norm": 0.05, "training__lr_batch": 4}
    changes |= {"pruning__start_noise": 0.01, "training__average": 1, "training__keep_checkpoints": 2}
    config = configure(recipe, **changes)
    whole = train(config, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut")
    Run(tmp_path / "cut").list_checkpoints()[-1].unlink()
    assert_same_run(train(config, tmp_path / "cut", resume=True), whole)
    model = export(whole, tmp_path / "model")
    assert isinstance(model.classifier[0], torch.nn.BatchNorm1d)
    assert model.classifier[0].running_mean.any()
    assert model.provenance["averaged_checkpoints"] == 1
    loaded = SpeechModel.from_pretrained(tmp_path / "model")
    devset = read_manifest(recipe["data"]["dev"])
    scores = dict(line.split("\t")[:2] for line in (whole / "dev_scores.tsv").read_text().splitlines()[1:])
    found = score_paths(loaded, [utterance.path for utterance in devset], workers=0)
    expected = [float(scores[utterance.utt_id]) for utterance in devset]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4), "masked == shrunk"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a file system needs Linux and root")
def test_a_full_disk_leaves_the_last_good_checkpoint(recipe, tmp_path, small_disk):
    config, folder = configure(recipe, **CROWDED), small_disk / "run"
    with pytest.raises(InputError, match=r"run\S+: cannot be written \(No space left on device\); make room"):
        train(config, folder)
    assert not list(folder.rglob("*.tmp")), "no half-written file"
    paths = [*Run(folder).list_checkpoints(), *Run(folder).list_checkpoints(STEP)]
    assert paths
    for path in paths:
        read_checkpoint(path)  # every one of them is whole
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    train(config, folder, resume=True)
    assert_same_run(folder, train(config, tmp_path / "whole"))
