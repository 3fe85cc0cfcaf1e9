"""The loss, the task's plus the Lagrangian of the size; every parameter in one group, at its learning rate."""

import pytest
import torch
from torch.nn import functional as F

from corpus import configure
from hybrid_pruning.config import HeadConfig, TrainingConfig
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.pruning import Lagrangian, attach
from hybrid_pruning.training.objective import Objective, Optimizers, build_objective, learning_rate_factor, sum_losses

CLASSES = Classes(("spoof", "bonafide"), (1, 1))
HEAD = HeadConfig(heads=3, compression=4, embedding=5)


@pytest.fixture
def kind():
    return ("wavlm", "base")


@pytest.fixture
def model(make_backbone):
    torch.manual_seed(0)
    return SpeechModel.build(make_backbone(), HEAD, CLASSES).train()


@pytest.fixture
def batch(wave, lengths):
    return Batch(wave, lengths, torch.tensor([0, 1, 1]), torch.arange(3))


def gated(model, constraint="params"):
    gates = attach(model.backbone, drop_rate=0.3, seconds=0.5)
    return Objective(model, gates, Lagrangian(), constraint).train()


def test_a_dense_model_has_the_tasks_loss_alone(model, batch):
    losses = Objective(model)(batch, 0.5)
    assert list(losses) == ["task"]
    expected = F.cross_entropy(model(batch.wave, batch.lengths), batch.target)
    assert torch.equal(losses["task"], expected)
    assert torch.equal(sum_losses(losses), expected)


@pytest.mark.parametrize("constraint", ["params", "macs"])
def test_the_lagrangian_is_the_papers(model, batch, constraint):
    objective = gated(model, constraint)
    objective.lagrangian.lambda1.data.fill_(3.0)
    objective.lagrangian.lambda2.data.fill_(-5.0)
    size = objective.gates.budget()
    left = size.params / size.dense_params if constraint == "params" else size.macs / size.dense_macs
    sparsity = float(1 - torch.as_tensor(left).detach())
    losses = objective(batch, 0.7)
    expected = 3.0 * (sparsity - 0.7) - 5.0 * (sparsity - 0.7) ** 2
    assert 0.05 < sparsity < 0.65
    assert losses["sparsity"].item() == pytest.approx(expected, rel=1e-5)
    assert sum_losses(losses).item() == pytest.approx(sum(part.item() for part in losses.values()))


def test_every_forward_draws_new_gates_that_the_task_feels(model, batch):
    objective = gated(model)
    first, second = (objective(batch, 0.5)["task"] for _ in range(2))
    assert not torch.equal(first, second)


def test_gradients_reach_network_gates_and_multipliers(model, batch):
    objective = gated(model)
    sum_losses(objective(batch, 0.9)).backward()
    without = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    lambda1, lambda2 = objective.lagrangian.lambda1.grad, objective.lagrangian.lambda2.grad
    assert lambda1 < 0, "too large a model: ascending makes lambda1 negative, which rewards sparsity"
    assert lambda2.item() == pytest.approx(lambda1.item() ** 2, rel=1e-5)


def test_only_the_network_is_rounded_under_autocast(model, batch):
    objective = gated(model)
    precise = objective(batch, 0.5)
    objective.gates.draws = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = objective(batch, 0.5)
    assert torch.equal(rounded["sparsity"], precise["sparsity"])
    assert not torch.equal(rounded["task"], precise["task"])
    assert all(gate.sampled is not None and gate.sampled.dtype == torch.float32 for gate in objective.gates.values())
    sum_losses(rounded).backward()
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def build_optimizers(recipe, **changes):
    config = configure(recipe, **changes)
    classes = Classes(("spoof", "bonafide"), (1, 1))
    model = SpeechModel.build(load_backbone(config.backbone.source), config.head, classes)
    objective = build_objective(config, model).train()
    return objective, Optimizers(objective, config.training, config.pruning.initial_reg_lr)


def test_learning_rates_warm_up_and_decay():
    training = TrainingConfig(lr=1e-3, final_lr=1e-4)
    found = [learning_rate_factor(training, step, total_steps=11, warmup_steps=4) for step in (0, 1, 3, 10)]
    assert found == pytest.approx([0.25, 0.5 * 0.1 ** (1 / 10), 0.1 ** (3 / 10), 0.1])


def test_every_parameter_has_one_group_and_weight_decay_is_for_matrices(recipe):
    objective, optimizers = build_optimizers(recipe, training__weight_decay=0.5)
    groups = optimizers.describe_groups()
    matrices = {"backbone": 0.5, "head": 0.5}
    expected = {**matrices, "backbone.no_decay": 0, "head.no_decay": 0, "gates": 0, "multipliers": 0}
    assert {group["name"]: group["weight_decay"] for group in groups} == expected
    asked_for = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert sum(group["parameters"] for group in groups) == sum(parameter.numel() for parameter in asked_for)

    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that decay alone moves anything
    optimizers.step()
    training = configure(recipe).training
    for name, parameter in objective.named_parameters():
        lr = training.lr * (training.backbone_lr_ratio if "backbone" in name else 1)
        decayed = parameter.requires_grad and parameter.dim() > 1
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - lr * 0.5 if decayed else 1), msg=name)
        assert parameter.grad is None or not parameter.requires_grad, name


def test_gradient_norms_are_those_before_clipping(recipe):
    objective, optimizers = build_optimizers(recipe, training__clip_norm=0.5)
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    sizes = {group["name"]: group["parameters"] for group in optimizers.describe_groups()}
    parts = {part: sizes[part] + sizes[f"{part}.no_decay"] for part in ("backbone", "head")}
    expected = {"network": sum(parts.values()), **parts, "gates": sizes["gates"], "multipliers": 2}
    norms = {name: float(norm) for name, norm in (optimizers.clip() | optimizers.pruning_norms()).items()}
    assert norms == pytest.approx({name: size**0.5 for name, size in expected.items()})
    assert float(optimizers.clip()["network"]) == pytest.approx(0.5, rel=1e-4)
    assert float(optimizers.pruning_norms()["multipliers"]) == pytest.approx(2**0.5), "pruning is not clipped"


def test_gates_are_clipped_with_the_network_where_asked(recipe):
    found = {}
    for clip_gates, clip_norm in ((True, 0.5), (False, None)):
        objective, optimizers = build_optimizers(recipe, training__clip_norm=clip_norm, training__clip_gates=clip_gates)
        for parameter in objective.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimizers.clip()
        found[clip_gates, clip_norm] = [
            float(norm) for norm in (optimizers.clip()["network"], *optimizers.pruning_norms().values())
        ]
    network, gates, multipliers = found[True, 0.5]
    assert (network**2 + gates**2) ** 0.5 == pytest.approx(0.5, rel=1e-4)
    assert multipliers == pytest.approx(2**0.5)
    assert gates / network == pytest.approx(found[False, None][1] / found[False, None][0], rel=1e-4)
    assert found[False, None][1] > 1, "nothing is clipped without a norm"


@pytest.mark.parametrize("processes", [1, 8])
def test_rates_for_a_batch_scale_with_the_utterances_of_a_step(recipe, processes, monkeypatch):
    monkeypatch.setattr("hybrid_pruning.distributed.count", lambda: processes)
    changes = {"training__lr": 1e-3, "training__final_lr": 1e-5, "training__backbone_lr_ratio": 0.5}
    _, optimizers = build_optimizers(recipe, training__lr_batch=64, **changes)
    scale = processes * 8 / 64  # eight in a batch
    optimizers.set_learning_rates(learning_rate_factor(configure(recipe, **changes).training, 10, 11, 1))
    rates = optimizers.learning_rates()
    assert (rates["backbone"], rates["head"]) == pytest.approx((0.5e-5 * scale, 1e-5 * scale))
    assert rates["gates"] == configure(recipe).pruning.initial_reg_lr


def test_fresh_gates_differ_by_the_noise_asked_for(recipe):
    drop = {"conv": 0.01, "interm": 0.5}
    plain, noisy, again = (
        build_optimizers(recipe, pruning__drop_rate=drop, pruning__start_noise=std)[0].gates
        for std in (0.0, 0.01, 0.01)
    )
    assert plain is not None
    assert noisy is not None
    assert again is not None
    noise = noisy.log_alpha() - plain.log_alpha()
    assert noise.std().item() == pytest.approx(0.01, rel=0.15)
    assert abs(noise.mean().item()) < 0.003
    assert torch.equal(noisy.log_alpha(), again.log_alpha()), "a function of the seed"


def test_only_the_networks_learning_rates_follow_the_schedule(recipe):
    _, optimizers = build_optimizers(
        recipe, training__lr=1e-3, training__backbone_lr_ratio=0.1, pruning__initial_reg_lr=0.2
    )
    optimizers.set_learning_rates(0.5)
    expected = {"backbone": 5e-5, "head": 5e-4, "gates": 0.2, "multipliers": 0.2}
    rates = optimizers.learning_rates()
    assert {name: rates[name] for name in expected} == pytest.approx(expected)


def test_dense_training_has_no_pruning_optimizer(recipe):
    _, optimizers = build_optimizers(recipe, pruning__use_pruning_loss=False)
    assert list(optimizers.state_dict()) == ["network"]
    assert optimizers.pruning_norms() == {}


def test_sgd_has_the_momentum_it_is_given(recipe):
    for momentum, nesterov in ((0.8, True), (0.0, False)):
        _, optimizers = build_optimizers(recipe, training__optimizer="sgd", training__momentum=momentum)
        assert isinstance(optimizers.network, torch.optim.SGD)
        group = optimizers.network.param_groups[0]
        assert (group["momentum"], group["nesterov"]) == (momentum, nesterov)
        assert isinstance(optimizers.pruning, torch.optim.AdamW)


def test_class_weights_have_a_group_and_a_norm_of_their_own(recipe):
    config = configure(recipe, task="speaker-verification", data__trials={"dev": "t"}, objective__kind="sphereface2")
    model = SpeechModel.build(load_backbone(config.backbone.source), config.head, None)
    objective = build_objective(config, model, classes=5).train()
    optimizers = Optimizers(objective, config.training, 0.1)
    groups = {group["name"]: group for group in optimizers.describe_groups()}
    assert groups["objective"]["parameters"] == 5 * config.head.embedding
    assert groups["objective.no_decay"]["parameters"] == 1
    assert groups["objective"]["peak_learning_rate"] == config.training.lr
    objective.margin.weight.grad = torch.ones_like(objective.margin.weight)
    assert float(optimizers.clip()["objective"]) == pytest.approx((5 * config.head.embedding) ** 0.5)
