"""Verification and stages: learning, frozen parts, and the state that one training hands to the next."""

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import configure, settings, write_speaker_world, write_trials, write_world
from hybrid_pruning.config import expand_stages, save_config
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.data.tables import TAB
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.reporting import report
from hybrid_pruning.scoring.scores import embed_paths
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.export import export, read_trained
from hybrid_pruning.training.launch import digest_data, train
from hybrid_pruning.training.losses import MarginSoftmax
from hybrid_pruning.training.runs import Run, read_checkpoint
from runs import assert_same_run, final_state, kill_at_random, read_log, read_steps, run_command, start

DENSE = {"pruning__use_pruning_loss": False}
STAGES = {
    "head": {"backbone": {"frozen": True}, "pruning": {"use_pruning_loss": False}, "training": {"optimizer": "sgd"}},
    "joint": {"training": {"epochs": 2}},
    "large": {"pruning": {"use_pruning_loss": False}, "objective": {"margin": 0.3}, "training": {"epochs": 1}},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_speaker_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def staged(recipe, tmp_path_factory):
    return train(configure(recipe, stages=STAGES), tmp_path_factory.mktemp("staged") / "run")


def network(state, part="model."):
    return {name: value for name, value in state["objective"].items() if name.startswith(part)}


def validations(run):
    return [record["dev"] for record in read_log(run) if "dev" in record]


def test_speakers_are_learnt(recipe, tmp_path):
    """Those of the training data, as six generalise to no others; at a negligible learning rate they are not."""
    trials = write_trials(tmp_path / "train.trials", Path(recipe["data"]["train"]))
    found = {}
    for lr, epochs in ((1e-30, 1), (1e-2, 10)):
        changes = {"data.dev": recipe["data"]["train"], "data.trials.dev": str(trials), "training.epochs": epochs}
        changes |= {"training.lr": lr, "training.final_lr": lr / 2, "training.backbone_lr_ratio": 0.5}
        run = train(configure(settings(recipe, changes), **DENSE), tmp_path / f"run{epochs}")
        found[epochs] = validations(run)[-1]
        assert set(found[epochs]) == {"eer", "min_dcf_0.01", "min_dcf_0.05"}
    assert found[1]["eer"] > 0.1
    assert found[10]["eer"] < 0.5 * found[1]["eer"]
    losses = [record["loss"]["task"] for record in read_steps(tmp_path / "run10")]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_the_artifact_gives_the_scores_of_the_last_validation_and_has_no_class_weights(recipe, tmp_path):
    run = train(configure(recipe), tmp_path / "run")
    model = export(run, tmp_path / "model", average=1)
    assert model.task == "speaker-verification"
    assert not any("margin" in name for name in SpeechModel.from_pretrained(tmp_path / "model").state_dict())
    devset = read_manifest(recipe["data"]["dev"])
    embeddings = embed_paths(model, [utterance.path for utterance in devset], 8, 0)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = dict(zip((u.utt_id for u in devset), embeddings / lengths, strict=True))
    header, *rows = [row.split("\t") for row in (run / "dev_scores.tsv").read_text().splitlines()]
    assert header == ["enrol", "test", "score", "label"]
    for enrol, test, score, label in rows:
        assert float(score) == pytest.approx(directions[enrol] @ directions[test], abs=1e-4)
        assert (enrol[:2] == test[:2]) == (label == "target")
    evaluated = evaluate(run / "dev_scores.tsv", recipe["data"]["trials"]["dev"], SV).metrics
    last = validations(run)[-1]
    assert {name: last[name] for name in SV.main} == pytest.approx({name: evaluated[name] for name in SV.main})
    assert last["sparsity"] == pytest.approx(0.4, abs=0.01)


def test_class_weights_learn_at_the_heads_rate_and_are_in_the_checkpoint(recipe, tmp_path):
    run = train(configure(recipe, objective__sub_centres=2, **DENSE), tmp_path / "run")
    groups = {group["name"]: group for group in read_log(run)[0]["groups"]}
    assert groups["objective"]["parameters"] == 6 * 2 * 16
    for key in ("peak_learning_rate", "weight_decay"):
        assert groups["objective"][key] == groups["head"][key]
    first, last = (read_checkpoint(path) for path in Run(run).list_checkpoints())
    assert last["classes"] == [f"s{index}" for index in range(6)]
    assert not torch.equal(first["objective"]["margin.weight"], last["objective"]["margin.weight"])
    averaged = read_trained(Run(run), 2)
    mean = torch.stack([state["objective"]["margin.weight"] for state in (first, last)]).double().mean(0).float()
    assert torch.equal(averaged.weights["weight"], mean)
    assert set(read_steps(run)[-1]["gradient_norm"]) == {"network", "backbone", "head", "objective"}


def test_the_margins_grow_as_scheduled(recipe, tmp_path, monkeypatch):
    """Over one epoch of four steps: from 0 at the first to all of it at the fourth, and after."""
    shares = []
    forward = MarginSoftmax.forward
    monkeypatch.setattr(
        MarginSoftmax, "forward", lambda self, e, t, share: shares.append(share) or forward(self, e, t, share)
    )
    train(configure(recipe, objective__margin_warmup_epochs=1, **DENSE), tmp_path / "run")
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_frozen_backbone_stays_as_it_was_bit_for_bit(recipe, tmp_path, optimizer):
    changes = {"backbone__frozen": True, "training__optimizer": optimizer, "training__lr": 0.05, **DENSE}
    run = train(configure(recipe, **changes), tmp_path / "run")
    before = load_backbone(recipe["backbone"]["source"]).state_dict()
    after = network(final_state(run), "model.backbone.")
    assert all(torch.equal(value, after[f"model.backbone.{name}"]) for name, value in before.items())
    first, last = (network(read_checkpoint(path), "model.head.") for path in Run(run).list_checkpoints())
    assert not torch.equal(first["model.head.out.weight"], last["model.head.out.weight"])
    assert {group["name"] for group in read_log(run)[0]["groups"]} == {"head", "head.no_decay", "objective"}
    settings = final_state(run)["optimizers"]["network"]["param_groups"][0]
    assert ("nesterov" in settings) == (optimizer == "sgd")


def test_a_resumed_sgd_run_is_the_uninterrupted_one(recipe, tmp_path):
    config = configure(recipe, training__optimizer="sgd", training__lr=0.05, objective__margin_warmup_epochs=2)
    whole = train(config, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut")
    Run(tmp_path / "cut").list_checkpoints()[-1].unlink()
    assert_same_run(train(config, tmp_path / "cut", resume=True), whole)


def test_stages_are_runs_each_with_its_own_recipe(recipe, staged):
    config = configure(recipe, stages=STAGES)
    assert {path.name for path in staged.iterdir()} == {"config.yaml", *STAGES}
    for name, expected in expand_stages(config).items():
        found = Run(staged / name).read_config()
        assert found == expected
        assert not found.stages
    assert [expand_stages(config)[name].training.epochs for name in STAGES] == [2, 2, 1]


def test_a_stage_begins_with_the_mean_weights_of_the_one_before(recipe, staged, tmp_path):
    """A stage at a negligible learning rate ends with its first weights."""
    still = {"training": {"lr": 1e-30, "final_lr": 1e-30, "epochs": 1}, "pruning": {"use_pruning_loss": False}}
    run = train(configure(recipe, stages={"head": STAGES["head"], "still": still}), tmp_path / "run")
    averaged = read_trained(Run(staged / "head"))
    objective = averaged.objective
    given = final_state(run / "still")["objective"]
    for name, value in objective.model.state_dict().items():
        torch.testing.assert_close(value, given[f"model.{name}"], atol=1e-20, rtol=0, msg=name)
    torch.testing.assert_close(averaged.weights["weight"], given["margin.weight"], atol=1e-20, rtol=0)


def test_the_stage_after_pruning_trains_the_small_model(staged, tmp_path):
    joint, large = export(staged / "joint", tmp_path / "joint"), export(staged, tmp_path / "last")
    shape = shape_of(joint.backbone)
    assert shape is not None
    assert shape_of(large.backbone) == shape
    assert large.provenance["recipe"]["objective"]["margin"] == 0.3
    assert not all(torch.equal(a, b) for a, b in zip(joint.parameters(), large.parameters(), strict=True))
    assert all("sparsity" not in record for record in read_steps(staged / "large"))


def test_antispoofing_has_stages_too(tmp_path):
    recipe = write_world(tmp_path)
    stages = {"head": {"backbone": {"frozen": True}, "pruning": {"use_pruning_loss": False}}, "joint": {}}
    run = train(configure(recipe, stages=stages, training__epochs=1), tmp_path / "run")
    model = export(run, tmp_path / "model")
    assert model.task == "anti-spoofing"
    assert shape_of(model.backbone) is not None
    assert model.provenance["recipe"]["stages"] == {}


@pytest.mark.parametrize("left", [{"head": 2, "joint": 1}, {"head": 2, "joint": 2}])
def test_a_staged_run_resumed_is_the_uninterrupted_one(recipe, staged, tmp_path, left):
    """Interrupted within and between stages: `left` epochs of each had been saved."""
    run = shutil.copytree(staged, tmp_path / "run")
    shutil.rmtree(run / "large")
    for name, epochs in left.items():
        for path in Run(run / name).list_checkpoints()[epochs:]:
            path.unlink()
    train(configure(recipe, stages=STAGES), run, resume=True)
    for name in STAGES:
        assert_same_run(run / name, staged / name)


@pytest.mark.soak
def test_a_killed_staged_run_is_resumed_to_the_same_end(recipe, staged, tmp_path):
    """The first kill falls into the first stage, the second into one of those that come after."""
    changes = {"training__checkpoint_steps": 2, "training__keep_checkpoints": 9}
    save_config(configure(recipe, stages=STAGES, **changes), tmp_path / "recipe.yaml")
    arguments, output = ["train", str(tmp_path / "recipe.yaml"), "--out"], tmp_path / "output.txt"
    chance = random.Random(1)
    for stage in ("head", "joint"):
        run = tmp_path / "killed" / stage

        def begin(_):
            more = ["--resume"] if (tmp_path / "killed" / "config.yaml").exists() else []
            return start(run_command, [*arguments, str(tmp_path / "killed"), *more], output)

        print(kill_at_random(begin, run, chance, 5))
    for name, more in (("killed", ["--resume"]), ("whole", [])):
        process = start(run_command, [*arguments, str(tmp_path / name), *more], output)
        process.join()
        assert process.exitcode == 0, output.read_text()
    for name in STAGES:
        assert_same_run(tmp_path / "killed" / name, tmp_path / "whole" / name)


def test_a_finished_stage_is_not_done_again_nor_with_another_recipe(recipe, staged, tmp_path, capsys):
    shutil.copytree(staged, tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.pt")}
    train(configure(recipe, stages=STAGES), tmp_path / "run", resume=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.pt")} == times
    assert capsys.readouterr().out.count("finished before") == 3
    other = settings({**recipe, "stages": STAGES}, {"stages.large.training.lr": 1e-5})
    with pytest.raises(InputError, match=r"config\.yaml: differs from the recipe"):
        train(configure(other), staged, resume=True)
    other = settings({**recipe, "stages": STAGES}, {"data.trials.more": "x", "data.eval": {"more": "y"}})
    train(configure(other), staged, resume=True)


def test_a_later_stages_data_are_checked_before_the_first_is_trained(recipe, tmp_path):
    recipe = settings(recipe, {"pruning.use_pruning_loss": False})
    stages = {"one": {}, "two": {"data": {"train": "nowhere.tsv"}}}
    with pytest.raises(InputError, match=r"nowhere\.tsv: cannot be read"):
        train(configure(recipe, stages=stages), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unfinished_stage_is_not_exported(staged, tmp_path):
    shutil.copytree(staged, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "large" / "checkpoints")
    with pytest.raises(InputError, match=r"0 of 1 epochs are done; finish with: .*--out \S*run --resume"):
        export(tmp_path / "run", tmp_path / "model")


def test_other_speakers_are_not_resumed(tmp_path):
    world = write_speaker_world(tmp_path / "world")
    run = train(configure(world, **DENSE, training__epochs=1), tmp_path / "run")
    manifest = Path(world["data"]["train"])
    manifest.write_text(manifest.read_text().replace("\ts5\t", "\tx5\t"))
    changed = r"train/manifest.tsv: data.train has changed since \S*run was begun \(as many"
    with pytest.raises(InputError, match=changed):
        train(configure(world, **DENSE, training__epochs=1), run, resume=True)
    (run / "data.json").unlink()  # as in a run of an older version
    with pytest.raises(InputError, match="was trained on other speakers"):
        train(configure(world, **DENSE, training__epochs=1), run, resume=True)


def swap(text, one, other):
    return text.replace(one, "\0").replace(other, one).replace("\0", other)


def rows(text, order):
    head, *lines = text.splitlines(True)
    return head + "".join(order(lines))


CHANGES = {
    "labels swapped": ("train", lambda text: text.replace("\tbonafide\t", "\tspoof\t", 3), "data.train .*as many rows"),
    "another speaker": ("train", lambda text: text.replace("\ts5\t", "\ts4\t", 1), "data.train .*as many rows"),
    "paths swapped": ("train", lambda text: swap(text, "s0-00.wav", "s1-00.wav"), "data.train .*as many rows"),
    "a row lost": ("train", lambda text: rows(text, lambda lines: lines[:-1]), r"data.train .*36 rows then, 35 now"),
    "another order": ("train", lambda text: rows(text, lambda lines: lines[::-1]), "data.train .*as many rows"),
    "more": ("train", lambda text: rows(text, lambda lines: [*lines, "x" + lines[0]]), "36 rows then, 37 now"),
    "another dev set": ("dev", lambda text: rows(text, lambda lines: lines[::-1]), "dev/manifest.tsv: data.dev"),
    "other trials": ("trials", lambda text: swap(text, "0 d0-00 d1-00", "1 d0-00 d1-00"), "data.trials.dev .*as many"),
    "durations": ("train", lambda text: rows(text, lambda lines: [f"{x.rpartition(TAB)[0]}\t-\n" for x in lines]), ""),
}


def test_other_data_are_not_resumed(tmp_path, capsys):
    """Columns without effect on the training may change, also between two stages."""
    world = write_speaker_world(tmp_path)
    (tmp_path / "noise").mkdir()
    shutil.copy(tmp_path / "train" / "s0-00.wav", tmp_path / "noise" / "a.wav")
    stages = {"one": {}, "two": {"pruning": {"use_pruning_loss": False}}}
    augment = {"noise": {"folder": str(tmp_path / "noise"), "snr_db": [10, 20]}}
    config = configure({**world, "augment": augment}, stages=stages, training__epochs=1)
    run = train(config, tmp_path / "run")
    shutil.rmtree(run / "two")
    files = {name: tmp_path / name / "manifest.tsv" for name in ("train", "dev")}
    files["trials"] = Path(world["data"]["trials"]["dev"])
    for name, change, expected in CHANGES.values():
        before = files[name].read_text()
        assert change(before) != before
        files[name].write_text(change(before))
        if expected:
            with pytest.raises(InputError, match=expected):
                train(config, run, resume=True)
            assert not (run / "two").exists()
        else:
            train(config, run, resume=True)
            assert "checked" not in capsys.readouterr().out
        files[name].write_text(before)
    (tmp_path / "noise" / "a.wav").rename(tmp_path / "noise" / "b.wav")
    with pytest.raises(InputError, match=r"noise: augment.noise.folder has changed"):
        train(config, run, resume=True)
    (tmp_path / "noise" / "b.wav").rename(tmp_path / "noise" / "a.wav")
    (run / "two" / "data.json").unlink()
    train(config, run, resume=True)
    assert "two: has no data.json" in " ".join(capsys.readouterr().out.split())
    (run / "two" / "data.json").write_text("[" * 10**5)
    with pytest.raises(InputError, match=r"two/data.json: is damaged; remove it"):
        train(config, run, resume=True)


def test_a_digest_of_a_large_manifest_is_cheap(tmp_path):
    utterance = Utterance("LA_0001/x", tmp_path / "audio" / "LA_0001.flac", Label.SPOOF, "LA_0079")
    config = configure(write_speaker_world(tmp_path))
    before = time.process_time()
    assert digest_data(config, [utterance] * 180_000, [utterance])["data.train"].rows == 180_000
    assert time.process_time() - before < 5


def test_a_report_shows_every_stage_with_verifications_figures(staged, tmp_path):
    page = report([staged], tmp_path / "report.html", rounds=0).read_text()
    for words in (*STAGES, "minDCF, P(target) 0.05", "24 target and 96 nontarget trials", "DET curves on dev"):
        assert words in page
    assert "Accepted at the threshold" not in page
