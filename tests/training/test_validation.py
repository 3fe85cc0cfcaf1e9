"""Validation measures the model that would be exported now; every warning comes where it must, in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import configure, score_utterances, write_corpus
from encoders import close, spread
from hybrid_pruning.config import Config, HeadConfig, PruningConfig, TrainingConfig
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import eer
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Lagrangian, attach
from hybrid_pruning.tasks import Label
from hybrid_pruning.training import validation
from hybrid_pruning.training import warnings as checks
from hybrid_pruning.training.export import shrink_model
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.objective import Objective
from hybrid_pruning.training.validation import read_dev_trials, validate, write_scores
from logged_runs import build_model
from runs import read_log
from speakers import write_speakers, write_voxceleb_trials

HEAD = HeadConfig(heads=3, compression=4, embedding=5)
CLASSES = Classes(("spoof", "bonafide"), (1, 1))


@pytest.fixture
def kind():
    return ("wavlm", "base")


@pytest.fixture
def config(recipe):
    return configure(recipe)


@pytest.fixture
def objective(make_backbone):
    torch.manual_seed(0)
    model = SpeechModel.build(make_backbone(), HEAD, CLASSES)
    gates = attach(model.backbone, drop_rate=0.3, seconds=0.5)
    spread(gates)
    return Objective(model, gates, Lagrangian()).train()


def test_the_validated_model_is_the_exported_one(objective, config):
    devset = read_manifest(config.data.dev)
    close(objective.gates, "interm.1")
    before = {name: value.clone() for name, value in objective.state_dict().items() if torch.is_tensor(value)}
    found = validate(objective, devset, 0.3, config)
    assert "interm.1" in found.closed
    assert found.closed == [name for name, units in objective.gates.kept(0.3).items() if not len(units)]
    assert objective.model.training
    assert all(gate.pinned is None for gate in objective.gates.values())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items() if name in before)

    small = shrink_model(objective, 0.3)
    expected = score_utterances(small, devset)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    left = sum(parameter.numel() for parameter in small.backbone.parameters())
    dense = objective.gates.accounting.dense_params
    assert found.figures["sparsity"] == pytest.approx(1 - left / dense)
    assert 0 < found.figures["macs_sparsity"] < 1
    bonafide = np.array([u.label == Label.BONAFIDE for u in devset])
    assert found.figures["eer"] == eer(found.scores[bonafide], found.scores[~bonafide])

    record = found.record()
    names = {"eer", "min_dcf", "act_dcf", "cllr", "accuracy", "sparsity", "macs_sparsity"}
    assert set(record["dev"]) == names
    units = dict.fromkeys(("conv", "head", "attlayer", "interm", "ffnlayer"), 0)
    for gate in objective.gates.values():
        units[gate.slot.unit] += gate.slot.size
    assert {unit: sum(counts) for unit, counts in record["gates"].items()} == units
    assert all(len(counts) == 20 for counts in record["gates"].values())


def test_a_dense_model_has_no_sizes_and_no_gates(make_backbone, config):
    model = SpeechModel.build(make_backbone(), HEAD, CLASSES)
    record = validate(Objective(model), read_manifest(config.data.dev), 0.0, config).record()
    assert set(record) == {"dev"}
    assert set(record["dev"]) == {"eer", "min_dcf", "act_dcf", "cllr", "accuracy"}


def test_an_open_gate_lies_in_the_last_bin(objective):
    for gate in objective.gates.values():
        gate.log_alpha.data.fill_(20.0 if gate.slot.unit == "conv" else -20.0)
    found = validation.open_histograms(objective.gates)
    assert found["conv"][:-1] == [0] * 19
    assert found["conv"][-1] > 0
    assert found["head"][1:] == [0] * 19


def test_accuracy_is_at_the_threshold_zero():
    found = validation.measure(np.array([0.0, 2.0, -1.0]), np.array([-3.0, -0.1, 0.0, 5.0]))
    assert found["accuracy"] == pytest.approx(4 / 7)


def test_scores_and_labels_stand_side_by_side(tmp_path):
    devset = [Utterance("a", Path("a.wav"), Label.SPOOF), Utterance("b", Path("b.wav"), Label.BONAFIDE)]
    write_scores(tmp_path / "scores.tsv", devset, np.array([-0.1, 2.5]))
    lines = ("filename\tcm-score\tcm-label", "a\t-0.1\tspoof", "b\t2.5\tbonafide")
    assert (tmp_path / "scores.tsv").read_text().splitlines() == [*lines]


def test_a_file_that_cannot_be_scored_leaves_the_gates_free(objective, config, tmp_path):
    devset = read_manifest(write_corpus(tmp_path / "more", clips=2))
    devset[1].path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match="cannot be decoded"):
        validate(objective, devset, 0.3, config)
    assert all(gate.pinned is None for gate in objective.gates.values())


def test_trials_name_utterances_with_a_suffix_or_without(tmp_path):
    manifest = write_speakers(tmp_path, 2, 2)
    devset = read_manifest(manifest)
    plain, suffixed = (write_voxceleb_trials(tmp_path / f"t{suffix}", 2, 2, suffix) for suffix in ("", ".wav"))
    embeddings = np.random.default_rng(0).normal(size=(len(devset), 3))
    found = [read_dev_trials(path, devset, manifest).cosines(embeddings) for path in (plain, suffixed)]
    np.testing.assert_array_equal(*found)
    with pytest.raises(InputError, match=r"t.wav: 'id00000/00.wav' is no utt_id of .*manifest.tsv"):
        read_dev_trials(suffixed, devset[1:], manifest)


def warned(lines, *words):
    """Assert that there is exactly one warning, of one line, with all of these words."""
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    for word in words:
        assert word in lines[0], lines[0]


def rate_warnings(steps=1000, **changes):
    return [*checks.check_learning_rates(TrainingConfig(**changes), build_model(), steps)]


RATES = [
    ({}, ()),
    ({"lr": 1e-7, "final_lr": 1e-8, "backbone_lr_ratio": 100}, ("training.lr is 1e-07", "of the head", "raise it")),
    ({"lr": 1e-6, "final_lr": 1e-7, "backbone_lr_ratio": 100, "steps": 10_000}, ()),
    ({"backbone_lr_ratio": 1e-4}, ("backbone_lr_ratio is 5e-08", "in 1000 steps", "of the backbone", "raise it")),
    ({"backbone_lr_ratio": 0}, ("backbone_lr_ratio is 0", "0.05 is usual")),
    ({"epochs": 3, "lr_warmup_epochs": 3.5}, ("lr_warmup_epochs is 3.5 and training.epochs 3", "shorten")),
    ({"epochs": 3, "lr_warmup_epochs": 3}, ()),
    ({"lr": 1e-4, "final_lr": 1e-3}, ("training.final_lr 0.001 is above training.lr 0.0001",)),
    ({"optimizer": "sgd", "lr": 0.05, "final_lr": 0.005, "backbone_lr_ratio": 1e-4}, ()),
    ({"optimizer": "sgd"}, ("training.lr is 0.0005, a rate for adamw", "0.01 to 0.1")),
    ({"lr": 1e-6, "backbone_lr_ratio": 100, "final_lr": 1e-7, "batch_size": 640, "lr_batch": 64}, ()),
    (
        {"lr": 1e-6, "backbone_lr_ratio": 100, "final_lr": 1e-7, "lr_batch": 160},
        ("scaled by training.lr_batch, is 1e-07",),
    ),
]


@pytest.mark.parametrize(("changes", "words"), RATES)
def test_learning_rates(changes, words):
    found = rate_warnings(**changes)
    if words:
        warned(found, *words)
    else:
        assert found == []


def pruning_warnings(epochs=5, steps=1000, **changes):
    asked = {"use_pruning_loss": True, "constraint_solver": "lagrangian", **changes}
    return [*checks.check_pruning(PruningConfig(**asked), epochs, steps)]


def test_pruning_that_misses_its_target():
    assert pruning_warnings() == []
    found = pruning_warnings(sparsity_warmup_epochs=10, target_sparsity=0.6, sparsity_schedule="linear")
    warned(found, "sparsity_warmup_epochs is 10 and training.epochs 5", "30.0%, not 60.0%", "shorten")
    warned(
        pruning_warnings(initial_reg_lr=1e-3), "initial_reg_lr is 0.001", "moves a gate by 1 at most", "6.2", "raise it"
    )
    assert pruning_warnings(initial_reg_lr=7e-3) == []
    assert pruning_warnings(initial_reg_lr=2e-3, drop_rate={"interm": 0.5}) == []
    assert pruning_warnings(initial_reg_lr=1e-3, target_sparsity=0.0) == []
    found = pruning_warnings(constraint_solver="exact", drop_rate=0.5, initial_reg_lr=0.1)
    warned(found, "pruning.initial_reg_lr, pruning.drop_rate: of sampled gates", "constraint_solver to lagrangian")
    assert pruning_warnings(constraint_solver="exact") == []
    warned(checks.check_sparsity(0.2, 0.5), "20.0%", "50.0%", "raise pruning.initial_reg_lr")
    warned(checks.check_sparsity(0.5, 0.2), "50.0%")
    assert checks.check_sparsity(0.49, 0.5) == []


def test_inverted_scores_and_an_accuracy_that_counts_the_larger_class():
    good, bad = np.array([2.0, 1.0, 3.0]), np.array([-1.0, 0.0, -2.0])
    assert not [*checks.check_scores(good, bad)]
    warned([*checks.check_scores(bad, good)], "EER is 100.0%", "inverted", "swapped")
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(-2.9, 1, 50), rng.normal(-3, 1, 950)
    found = [*checks.check_scores(bonafide, spoof)]
    warned(found, "95.0% of it are spoofed", "balanced accuracy is 49.9%", "balance the training data")
    warned([*checks.check_scores(-spoof, -bonafide)], "95.0% of it are bona fide")
    assert not [*checks.check_scores(bonafide + 3, spoof)]
    assert not [*checks.check_scores(bonafide + 6, spoof)]


def test_a_training_prints_and_keeps_its_warnings(recipe, tmp_path, capsys):
    config = configure(recipe, training__backbone_lr_ratio=0, training__epochs=1)
    train(config, tmp_path / "run")
    before, after = (record["warnings"] for record in read_log(tmp_path / "run") if "warnings" in record)
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert any("backbone_lr_ratio is 0" in line for line in before)
    assert any("the gates expect" in line for line in after)
    printed = capsys.readouterr().out
    for line in (*before, *after):
        assert printed.count(f"warning: {line}\n") == 1
    train(config, tmp_path / "run", resume=True)  # finished already: no warning is repeated
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


def objective_warnings(task="speaker-verification", **changes):
    tree = {"data": {"train": "a", "dev": "b"}, "backbone": {"source": "c"}, "task": task, "objective": changes}
    return [*checks.check_objective(Config.model_validate(tree))]


def test_a_loss_without_margins_and_margins_that_never_grow():
    assert objective_warnings(kind="aam") == objective_warnings("anti-spoofing") == []
    warned(objective_warnings(), "softmax", "no margin", "aam is usual")
    warned(objective_warnings(kind="am", margin_warmup_epochs=9), "objective.margin_warmup_epochs is 9", "never reach")


def test_cosines_near_chance_are_reported():
    rng = np.random.default_rng(0)
    target, nontarget = rng.normal(0.8, 0.1, 500), rng.normal(0.1, 0.1, 500)
    assert not [*checks.check_cosines(target, nontarget)]
    warned([*checks.check_cosines(nontarget, target)], "worse than chance", "column speaker")
    warned(
        objective_warnings(kind="am", margin_start_epochs=3, margin_warmup_epochs=3),
        "after margin_start_epochs 3",
        "epochs 5",
    )
    warned([*checks.check_cosines(nontarget + 0.04, rng.normal(0.1, 0.1, 500))], "close to chance")


def test_speakers_with_a_single_utterance_are_reported():
    several = [Utterance(f"{index}", Path("x.wav"), Label.BONAFIDE, f"s{index % 2}") for index in range(4)]
    assert not [*checks.check_speakers(several, "train.tsv")]
    single = Utterance("4", Path("x.wav"), Label.BONAFIDE, "s2")
    warned([*checks.check_speakers([*several, single], "train.tsv")], "train.tsv: 1 of 3 speakers", "(s2)")
