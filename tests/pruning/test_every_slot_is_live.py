"""No gate is without effect: closing any slot, or any one unit, moves the output; opening all moves it back."""

import pytest
import torch

from encoders import ON_WAVEFORMS, REPRESENTATIVE, WHISPER, close, relative_error, shuffle
from hybrid_pruning import pruning
from hybrid_pruning.pruning import PlanError

MOVED = 1e-4


def moved(backbone, wave, before):
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
def test_slots_and_units(changes, make_backbone, wave):
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
def test_training_computes_with_the_sample(backbone, wave):
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
def test_a_closed_unit_is_silent_in_training_too(backbone, wave):
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
def test_training_reaches_every_gate(backbone, wave):
    backbone.train()
    gates = pruning.attach(backbone, drop_rate=0.5)
    for _ in range(12):  # a sample of exactly 0 or 1 has no gradient; twelve leave none without
        gates.sample()
        backbone(wave[:1, :1000]).frames.square().mean().backward()
    for name, gate in gates.items():
        assert (gate.log_alpha.grad != 0).all(), f"{name}: units without gradient"
        assert torch.isfinite(gate.log_alpha.grad).all()


SHAPES = [("attlayer.0", "ffnlayer.1"), ("head.*", "interm.*"), ("*",)]


@torch.no_grad()
def test_every_shape(make_backbone, wave, lengths):
    backbone = make_backbone()
    gates = pruning.attach(backbone)
    for closed in SHAPES:
        shuffle(gates, seed=1)
        close(gates, *closed)
        small = pruning.shrink(backbone, gates)
        dense = pruning.widen(small, make_backbone(initializer_range=0.1))
        expected, found = small(wave, lengths), dense(wave, lengths)
        assert pruning.shape_of(dense) is None
        assert relative_error(expected.frames, found.frames, expected.lengths) < 1e-5, closed


@pytest.mark.parametrize(("family", "style"), [("wavlm", "base")])
def test_a_dense_model_is_copied(make_backbone):
    backbone, dense = make_backbone(), make_backbone()
    for parameter in dense.parameters():
        parameter.data.fill_(1)
    pruning.widen(backbone, dense)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(dense.state_dict()[name], tensor), name


@pytest.mark.parametrize(("family", "style"), [("wavlm", "base")])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"intermediate_size": 64}, "intermediate_dense"),
        ({"conv_bias": True}, "conv.bias"),
        ({"num_hidden_layers": 4}, ""),
    ],
)
def test_models_of_two_configs(other, message, make_backbone):
    with pytest.raises(PlanError, match=f"{message}.* of one config"):
        pruning.widen(make_backbone(), make_backbone(**other))
