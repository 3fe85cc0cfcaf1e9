"""Every parameter has one optimiser, one group and the learning rate it was promised."""

from typing import Any

import pytest
import torch

from corpus import configure
from hybrid_pruning.config import TrainingConfig
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.training.objective import Objective, Optimizers, build_objective, learning_rate_factor

Recipe = dict[str, Any]


def build(recipe: Recipe, **changes: Any) -> tuple[Objective, Optimizers]:
    config = configure(recipe, **changes)
    classes = Classes(("spoof", "bonafide"), (1, 1))
    model = SpeechModel.build(load_backbone(config.backbone.source), config.head, classes)
    objective = build_objective(config, model).train()
    return objective, Optimizers(objective, config.training, config.pruning.initial_reg_lr)


def test_learning_rates_warm_up_and_decay():
    training = TrainingConfig(lr=1e-3, final_lr=1e-4)
    found = [learning_rate_factor(training, step, total_steps=11, warmup_steps=4) for step in (0, 1, 3, 10)]
    assert found == pytest.approx([0.25, 0.5 * 0.1 ** (1 / 10), 0.1 ** (3 / 10), 0.1])


def test_every_parameter_has_one_group_and_weight_decay_is_for_matrices(recipe: Recipe):
    objective, optimizers = build(recipe, training__weight_decay=0.5)
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


def test_gradient_norms_are_those_before_clipping(recipe: Recipe):
    objective, optimizers = build(recipe, training__clip_norm=0.5)
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    sizes = {group["name"]: group["parameters"] for group in optimizers.describe_groups()}
    parts = {part: sizes[part] + sizes[f"{part}.no_decay"] for part in ("backbone", "head")}
    expected = {"network": sum(parts.values()), **parts, "gates": sizes["gates"], "multipliers": 2}
    norms = {name: float(norm) for name, norm in (optimizers.clip() | optimizers.pruning_norms()).items()}
    assert norms == pytest.approx({name: size**0.5 for name, size in expected.items()})
    assert float(optimizers.clip()["network"]) == pytest.approx(0.5, rel=1e-4)
    assert float(optimizers.pruning_norms()["multipliers"]) == pytest.approx(2**0.5), "pruning is not clipped"


def test_gates_are_clipped_with_the_network_where_asked(recipe: Recipe):
    found = {}
    for clip_gates, clip_norm in ((True, 0.5), (True, None), (False, None)):
        objective, optimizers = build(recipe, training__clip_norm=clip_norm, training__clip_gates=clip_gates)
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
    assert found[True, None] == found[False, None], "nothing is clipped without a norm"


@pytest.mark.parametrize("processes", [1, 8])
def test_rates_for_a_batch_scale_with_the_utterances_of_a_step(
    recipe: Recipe, processes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hybrid_pruning.distributed.count", lambda: processes)
    changes = {"training__lr": 1e-3, "training__final_lr": 1e-5, "training__backbone_lr_ratio": 0.5}
    _, optimizers = build(recipe, training__lr_batch=64, **changes)
    scale = processes * 8 / 64  # eight in a batch
    optimizers.set_learning_rates(learning_rate_factor(configure(recipe, **changes).training, 10, 11, 1))
    rates = optimizers.learning_rates()
    assert (rates["backbone"], rates["head"]) == pytest.approx((0.5e-5 * scale, 1e-5 * scale))
    assert rates["gates"] == configure(recipe).pruning.initial_reg_lr


def test_fresh_gates_differ_by_the_noise_asked_for(recipe: Recipe):
    drop = {"conv": 0.01, "interm": 0.5}
    plain, noisy, again = (
        build(recipe, pruning__drop_rate=drop, pruning__start_noise=std)[0].gates for std in (0.0, 0.01, 0.01)
    )
    assert plain is not None
    assert noisy is not None
    assert again is not None
    noise = noisy.log_alpha() - plain.log_alpha()
    assert noise.std().item() == pytest.approx(0.01, rel=0.15)
    assert abs(noise.mean().item()) < 0.003
    assert torch.equal(noisy.log_alpha(), again.log_alpha()), "a function of the seed"


def test_only_the_networks_learning_rates_follow_the_schedule(recipe: Recipe):
    _, optimizers = build(recipe, training__lr=1e-3, training__backbone_lr_ratio=0.1, pruning__initial_reg_lr=0.2)
    optimizers.set_learning_rates(0.5)
    expected = {"backbone": 5e-5, "head": 5e-4, "gates": 0.2, "multipliers": 0.2}
    rates = optimizers.learning_rates()
    assert {name: rates[name] for name in expected} == pytest.approx(expected)


def test_dense_training_has_no_pruning_optimizer(recipe: Recipe):
    _, optimizers = build(recipe, pruning__use_pruning_loss=False)
    assert list(optimizers.state_dict()) == ["network"]
    assert optimizers.pruning_norms() == {}


def test_sgd_has_the_momentum_it_is_given(recipe: Recipe):
    for momentum, nesterov in ((0.8, True), (0.0, False)):
        _, optimizers = build(recipe, training__optimizer="sgd", training__momentum=momentum)
        assert isinstance(optimizers.network, torch.optim.SGD)
        group = optimizers.network.param_groups[0]
        assert (group["momentum"], group["nesterov"]) == (momentum, nesterov)
        assert isinstance(optimizers.pruning, torch.optim.AdamW)


def test_class_weights_have_a_group_and_a_norm_of_their_own(recipe: Recipe):
    config = configure(recipe, task="speaker-verification", data__trials={"dev": "t"}, objective__kind="sphereface2")
    model = SpeechModel.build(load_backbone(config.backbone.source), config.head, None)
    objective = build_objective(config, model, classes=5).train()
    optimizers = Optimizers(objective, config.training, 0.1)
    groups = {group["name"]: group for group in optimizers.describe_groups()}
    assert groups["objective"]["parameters"] == 5 * config.head.embedding
    assert groups["objective.no_decay"]["parameters"] == 1
    assert groups["objective"]["peak_learning_rate"] == config.training.lr
    assert objective.margin is not None
    objective.margin.weight.grad = torch.ones_like(objective.margin.weight)
    assert float(optimizers.clip()["objective"]) == pytest.approx((5 * config.head.embedding) ** 0.5)
