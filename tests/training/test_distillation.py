"""Distillation: its losses by their formulas, teachers of every kind, stages from dense to healed, and refusals."""

import shutil

import pytest
import torch
import yaml

from corpus import configure, settings, tiny_detector, write_speaker_world
from encoders import shuffle
from hybrid_pruning.config import DistillationConfig, HeadConfig, ObjectiveConfig
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Hidden
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Lagrangian, attach
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.losses import build_loss
from hybrid_pruning.training.objective import Objective, Teacher, class_divergence, embedding_distance, hidden_loss
from hybrid_pruning.training.runs import Run
from runs import assert_same_run, read_steps

CLASSES = Classes(("bonafide", "spoof"), (3, 5))
DENSE = {"pruning__use_pruning_loss": False}


@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_hidden_states_are_compared_over_valid_frames(layers):
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 3, 2, 5, 4, generator=generator)
    lengths = torch.tensor([5, 3])
    found = hidden_loss(Hidden(s, lengths), Hidden(t, lengths), layers)
    expected = []
    for layer in layers or range(3):
        frames = [(s[layer, b, i], t[layer, b, i]) for b in range(2) for i in range(lengths[b])]
        distance = sum((x - y).abs().sum() for x, y in frames) / sum(y.abs().sum() for _, y in frames)
        cosine = sum(x @ y / x.norm() / y.norm() for x, y in frames) / len(frames)
        expected.append(distance + 1 - cosine)
    assert float(found) == pytest.approx(float(sum(expected)) / len(expected), rel=1e-5)
    assert float(hidden_loss(Hidden(t, None), Hidden(t, None))) == pytest.approx(0, abs=1e-6)


def test_outputs_are_compared_by_divergence_and_by_angle():
    s, t = torch.tensor([[1.0, -1.0], [0.0, 2.0]]), torch.tensor([[0.5, 0.0], [1.0, 1.0]])
    p, q = t.softmax(-1), s.softmax(-1)
    assert float(class_divergence(s, t)) == pytest.approx(float((p * (p / q).log()).sum()) / 2, rel=1e-5)
    assert float(embedding_distance(s, t)) == pytest.approx(1 - 0.5**0.5, rel=1e-5)


@pytest.mark.parametrize("kind", [("wavlm", "base"), ("whisper", "only")], ids="-".join)
@pytest.mark.parametrize("classes", [CLASSES, None], ids=["classes", "embeddings"])
def test_a_teacher_holds_its_copy_to_nothing_and_a_gated_one_to_itself(make_backbone, wave, lengths, classes):
    model, teacher = (SpeechModel.build(make_backbone(), HeadConfig(heads=2), classes) for _ in range(2))
    teacher.load_state_dict(model.state_dict())
    target = torch.tensor([0, 1, 1])
    batch = Batch(wave, lengths, target, torch.arange(3))
    margin = None if classes else build_loss(ObjectiveConfig(kind="aam"), model.embedding_width, 2)
    objective = Objective(model, margin=margin)
    objective.teacher = Teacher(teacher, DistillationConfig(teacher="given"))
    before = set(objective.state_dict())
    losses = objective(batch, 0.0)
    assert before == {name for name in before if "teacher" not in name}
    assert {name: losses[name].item() for name in ("hidden", "output")} == pytest.approx(
        {"hidden": 0, "output": 0}, abs=1e-5
    )
    objective.gates, objective.lagrangian = attach(model.backbone), Lagrangian()
    shuffle(objective.gates, seed=1)
    losses = objective.train()(batch, 0.5)
    assert losses["hidden"] > 0.1
    losses["hidden"].backward()
    assert all(gate.log_alpha.grad is not None for name, gate in objective.gates.items() if "conv" not in name)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def losses_of(run):
    return set(read_steps(run)[-1]["loss"])


def test_teachers_of_every_kind(recipe, dense, tmp_path):
    export(dense, tmp_path / "model")
    encoder = configure(recipe).backbone.source
    for number, (source, asked) in enumerate(
        [(dense, {}), (tmp_path / "model", {"hidden": 0.0}), (encoder, {"output": 0.0, "layers": [1, 3]})]
    ):
        config = configure(recipe, distillation={"teacher": str(source), **asked}, training__epochs=1)
        found = losses_of(train(config, tmp_path / str(number)))
        wanted = {name for name in ("hidden", "output") if asked.get(name) != 0.0}
        assert found == {"task", "sparsity", *wanted}


def test_stages_from_a_dense_network_to_a_healed_one(recipe, tmp_path):
    teacher = {"distillation": {"teacher": "dense", "hidden": 5.0}}
    stages = {
        "dense": {"pruning": {"use_pruning_loss": False}},
        "joint": teacher,
        "heal": {"pruning": {"use_pruning_loss": False}, **teacher},
    }
    config = configure(recipe, stages=stages, training__epochs=2)
    whole = train(config, tmp_path / "whole")
    assert [losses_of(whole / stage) for stage in stages] == [
        {"task"}, {"task", "sparsity", "hidden", "output"}, {"task", "hidden", "output"}
    ]  # fmt: skip
    steps = read_steps(whole / "heal")
    assert steps[-1]["loss"]["hidden"] < steps[0]["loss"]["hidden"]
    alone = configure(recipe, training__epochs=2, **DENSE)
    assert_same_run(whole / "dense", train(alone, tmp_path / "alone"))
    last = Run(whole / "heal").list_checkpoints()[-1]
    state = torch.load(last, weights_only=True)["objective"]
    last.unlink()
    again = train(config, whole, resume=True)
    for name, value in torch.load(last, weights_only=True)["objective"].items():
        assert torch.equal(value, state[name]), name
    assert export(again, tmp_path / "small").backbone.shape is not None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"teacher": "nowhere", "output": 1.0}, "nowhere: neither a folder here nor a model"),
        ({"teacher": "dense", "layers": [9]}, "distillation.layers 9: the last hidden state is 3; 0 is the input"),
        ({"teacher": "wide"}, "distillation.teacher wide: hidden width: it has 16, the model has 32"),
        ({"teacher": "speakers"}, "distillation.teacher speakers: is for speaker-verification, the recipe for anti-"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(recipe, dense, tmp_path, monkeypatch, asked, message):
    monkeypatch.chdir(tmp_path)
    export(dense, tmp_path / "dense")
    if asked["teacher"] == "wide":
        tiny_detector(tmp_path / "encoder", hidden_size=16).save_pretrained("wide")
    if asked["teacher"] == "speakers":
        given = SpeechModel.from_pretrained("dense")
        SpeechModel.build(given.backbone, HeadConfig(heads=2), None).save_pretrained("speakers")
    with pytest.raises(InputError, match=message):
        train(configure(recipe, distillation=asked), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_embeddings_are_distilled_for_verification(tmp_path):
    world = write_speaker_world(tmp_path)
    dense = train(configure(world, **DENSE, training__epochs=1), tmp_path / "dense")
    config = configure(world, distillation={"teacher": str(dense)}, training__epochs=1)
    assert losses_of(train(config, tmp_path / "run")) == {"task", "sparsity", "hidden", "output"}
    wider = configure(world, distillation={"teacher": str(dense)}, head__embedding=24)
    with pytest.raises(InputError, match=r"has embeddings of .*; set head.embedding, or distillation.output=0"):
        train(wider, tmp_path / "wider")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": {"teacher": "x", "hidden": 0, "output": 0}}, "distillation.hidden and .* are both 0"),
        ({"distillation": {"teacher": "x"}, "backbone.frozen": True}, "backbone.frozen: hidden states do not"),
        ({"distillation": {}}, "key 'distillation.teacher' is missing"),
        ({"distillation": {"teacher": "x", "layers": []}}, "distillation.layers: "),
        ({"pruning.freeze_epochs": 1}, "pruning.freeze_epochs goes with pruning.constraint_solver exact"),
        (
            {"pruning.constraint_solver": "exact", "pruning.start_noise": 0.1},
            "pruning.start_noise and .* sampled gates",
        ),
        (
            {"stages": {"one": {"distillation": {"teacher": "one"}}}},
            "stages.one.distillation.teacher one: .* known: none",
        ),
    ],
)
def test_weights_that_do_nothing_are_refused(recipe, tmp_path, changes, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(recipe, {"pruning.use_pruning_loss": False, **changes})))
    with pytest.raises(InputError, match=message):
        train(path, tmp_path / "run")


def test_another_teacher_is_not_resumed_with(recipe, dense, tmp_path):
    model = export(dense, tmp_path / "model")
    config = configure(recipe, distillation={"teacher": str(tmp_path / "model")}, training__epochs=1)
    run = train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "model")
    model.head.key_mix.data += 1
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"model: distillation\.teacher has changed since .* was begun"):
        train(config, run, resume=True)
