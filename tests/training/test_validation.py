"""Validation measures the model that would be exported now, and logs it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import configure, write_corpus
from encoders import MakeBackbone, spread
from hybrid_pruning.config import Config, HeadConfig
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import eer
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Lagrangian, attach
from hybrid_pruning.scoring.scores import score_utterances
from hybrid_pruning.tasks import Label
from hybrid_pruning.training import validation
from hybrid_pruning.training.export import shrink_model
from hybrid_pruning.training.objective import Objective
from hybrid_pruning.training.validation import read_dev_trials, validate, write_scores
from speakers import write_speakers, write_voxceleb_trials

HEAD = HeadConfig(heads=3, compression=4, embedding=5)
CLASSES = Classes(("spoof", "bonafide"), (1, 1))


@pytest.fixture
def kind() -> tuple[str, str]:
    return ("wavlm", "base")


@pytest.fixture
def config(recipe: dict[str, Any]) -> Config:
    return configure(recipe)


@pytest.fixture
def objective(make_backbone: MakeBackbone) -> Objective:
    torch.manual_seed(0)
    model = SpeechModel.build(make_backbone(), HEAD, CLASSES)
    gates = attach(model.backbone, drop_rate=0.3, seconds=0.5)
    spread(gates)
    return Objective(model, gates, Lagrangian()).train()


def test_the_validated_model_is_the_exported_one(objective: Objective, config: Config):
    devset = read_manifest(config.data.dev)
    before = {name: value.clone() for name, value in objective.state_dict().items() if torch.is_tensor(value)}
    found = validate(objective, devset, 0.3, config)
    assert objective.model.training
    assert objective.gates is not None
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


def test_a_record_has_figures_and_gates(objective: Objective, config: Config):
    record = validate(objective, read_manifest(config.data.dev), 0.3, config).record()
    names = {"eer", "min_dcf", "act_dcf", "cllr", "accuracy", "sparsity", "macs_sparsity"}
    assert set(record["dev"]) == names
    assert objective.gates is not None
    units = dict.fromkeys(("conv", "head", "attlayer", "interm", "ffnlayer"), 0)
    for gate in objective.gates.values():
        units[gate.slot.unit] += gate.slot.size
    assert {unit: sum(counts) for unit, counts in record["gates"].items()} == units
    assert all(len(counts) == 20 for counts in record["gates"].values())


def test_a_dense_model_has_no_sizes_and_no_gates(make_backbone: MakeBackbone, config: Config):
    model = SpeechModel.build(make_backbone(), HEAD, CLASSES)
    record = validate(Objective(model), read_manifest(config.data.dev), 0.0, config).record()
    assert set(record) == {"dev"}
    assert set(record["dev"]) == {"eer", "min_dcf", "act_dcf", "cllr", "accuracy"}


def test_an_open_gate_lies_in_the_last_bin(objective: Objective):
    assert objective.gates is not None
    for gate in objective.gates.values():
        gate.log_alpha.data.fill_(20.0 if gate.slot.unit == "conv" else -20.0)
    found = validation.open_histograms(objective.gates)
    assert found["conv"][:-1] == [0] * 19
    assert found["conv"][-1] > 0
    assert found["head"][1:] == [0] * 19


def test_accuracy_is_at_the_threshold_zero():
    found = validation.measure(np.array([0.0, 2.0, -1.0]), np.array([-3.0, -0.1, 0.0, 5.0]))
    assert found["accuracy"] == pytest.approx(4 / 7)


def test_scores_and_labels_stand_side_by_side(tmp_path: Path):
    devset = [Utterance("a", Path("a.wav"), Label.SPOOF), Utterance("b", Path("b.wav"), Label.BONAFIDE)]
    write_scores(tmp_path / "scores.tsv", devset, np.array([-0.1, 2.5]))
    lines = ("filename\tcm-score\tcm-label", "a\t-0.1\tspoof", "b\t2.5\tbonafide")
    assert (tmp_path / "scores.tsv").read_text().splitlines() == [*lines]


def test_a_file_that_cannot_be_scored_leaves_the_gates_free(objective: Objective, config: Config, tmp_path: Path):
    devset = read_manifest(write_corpus(tmp_path / "more", clips=2))
    devset[1].path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match="cannot be decoded"):
        validate(objective, devset, 0.3, config)
    assert objective.gates is not None
    assert all(gate.pinned is None for gate in objective.gates.values())


def test_trials_name_utterances_with_a_suffix_or_without(tmp_path: Path):
    manifest = write_speakers(tmp_path, 2, 2)
    devset = read_manifest(manifest)
    plain, suffixed = (write_voxceleb_trials(tmp_path / f"t{suffix}", 2, 2, suffix) for suffix in ("", ".wav"))
    embeddings = np.random.default_rng(0).normal(size=(len(devset), 3))
    found = [read_dev_trials(path, devset, manifest).cosines(embeddings) for path in (plain, suffixed)]
    np.testing.assert_array_equal(*found)
    with pytest.raises(InputError, match=r"t.wav: 'id00000/00.wav' is no utt_id of .*manifest.tsv"):
        read_dev_trials(suffixed, devset[1:], manifest)
