"""No gate is without effect: closing any slot, or any one unit, moves the output; opening all moves it back."""

import pytest
import torch

from encoders import ON_WAVEFORMS, REPRESENTATIVE, WHISPER, MakeBackbone, shuffle
from hybrid_pruning import pruning
from hybrid_pruning.models.backbone import Backbone

MOVED = 1e-4


def moved(backbone: Backbone, wave: torch.Tensor, before: torch.Tensor) -> float:
    return float((backbone(wave).frames - before).abs().max())


VARIANTS = [
    *(
        (*kind, changes)
        for kind in ON_WAVEFORMS
        for changes in ([{}] if kind[1] == "large" else [{}, {"conv_bias": True, "do_stable_layer_norm": True}])
    ),
    (*WHISPER, {}),
    (*WHISPER, {"max_source_positions": 2}),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "style", "changes"), VARIANTS)
def test_slots_and_units(changes: dict[str, object], make_backbone: MakeBackbone, wave: torch.Tensor) -> None:
    backbone, wave = make_backbone(**changes), wave[:1, :800]
    gates = pruning.attach(backbone)
    every = gates.plan.all_units()
    gates.pin(every)
    before = backbone(wave).frames
    for slot in gates.plan.slots:
        units = every[slot.name]
        for closed, kept in {"all": units[: slot.at_least], "first": units[1:], "last": units[:-1]}.items():
            gates.pin({**every, slot.name: kept})
            assert moved(backbone, wave, before) > MOVED, f"{slot.name}: closing {closed} changes nothing"
    gates.pin(every)
    assert moved(backbone, wave, before) == 0


@torch.no_grad()
def test_training_computes_with_the_sample(backbone: Backbone, wave: torch.Tensor) -> None:
    backbone.train()
    gates = pruning.attach(backbone)
    gates.sample()
    for gate in gates.values():
        gate.sampled = torch.ones(gate.slot.size)
    before = backbone(wave[:, :1000]).frames
    for name, gate in gates.items():
        gate.sampled = torch.cat([torch.zeros(1), gate.sampled[1:]])
        assert moved(backbone, wave[:, :1000], before) > MOVED, f"{name}: a sampled 0 changes nothing"
        gate.sampled = torch.ones(gate.slot.size)
    assert moved(backbone, wave[:, :1000], before) == 0


@torch.no_grad()
def test_a_closed_unit_is_silent_in_training_too(backbone: Backbone, wave: torch.Tensor) -> None:
    """A sampled 0 gives the shrunk model's output, so that the model in training is the exported one."""
    gates = pruning.attach(backbone)
    shuffle(gates, seed=0)
    kept = gates.kept()
    backbone.train()
    soft = gates.soft_values()
    for name, gate in gates.items():
        mask = torch.zeros(gate.slot.size)
        mask[list(kept[name])] = 1
        gate.sampled = mask * soft[name]
    small = pruning.shrink(backbone, gates, kept)
    expected = backbone(wave).frames
    assert float((small(wave).frames - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("kind", REPRESENTATIVE, ids="-".join)
def test_training_reaches_every_gate(backbone: Backbone, wave: torch.Tensor) -> None:
    backbone.train()
    gates = pruning.attach(backbone, drop_rate=0.5)
    for _ in range(12):  # a sample of exactly 0 or 1 has no gradient; twelve leave none without
        gates.sample()
        backbone(wave[:1, :1000]).frames.square().mean().backward()
    for name, gate in gates.items():
        assert (gate.log_alpha.grad != 0).all(), f"{name}: units without gradient"
        assert torch.isfinite(gate.log_alpha.grad).all()
