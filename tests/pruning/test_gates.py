"""Gates: their distribution, their deterministic mask, and noise that a resumed run and every rank can draw again."""

import copy

import pytest
import torch
from torch import nn

from encoders import close, shuffle, spread
from hybrid_pruning import pruning
from hybrid_pruning.pruning import Gate, PlanError, Slot
from hybrid_pruning.pruning.gate import hard_concrete, open_probability, soft_value

ANY_FAMILY = pytest.mark.parametrize(("family", "style"), [("wavlm", "large")])


def gate_of(log_alpha, at_least=0):
    gate = Gate(Slot("s", "u", len(log_alpha), (), at_least=at_least))
    gate.log_alpha.data = torch.tensor(log_alpha)
    return gate


def samples(gates):
    gates.sample()
    return torch.cat([gate.sampled for gate in gates.values()]).detach()


@pytest.mark.parametrize("log_alpha", [-20.0, -3.0, -1.0, 0.0, 1.0, 3.0, 20.0])
def test_distribution(log_alpha):
    alpha, uniform = torch.tensor(log_alpha), torch.linspace(0, 1, 200_001)
    values = hard_concrete(alpha.expand_as(uniform), uniform)
    assert ((values >= 0) & (values <= 1)).all()
    assert (values.diff() >= 0).all()
    assert (values > 0).double().mean().item() == pytest.approx(open_probability(alpha).item(), abs=2e-5)
    assert torch.isfinite(values).all(), "at noise of exactly 0 and 1 too"
    inner = uniform[100:-100]
    expected = (1.2 * torch.sigmoid(1.5 * (inner.logit() + alpha)) - 0.1).clamp(0, 1)
    torch.testing.assert_close(values[100:-100], expected, rtol=0, atol=1e-5)


def test_the_more_open_the_larger():
    log_alpha = torch.linspace(-40, 40, 1001)
    for values in (open_probability(log_alpha), soft_value(log_alpha)):
        assert (values.diff() >= 0).all()
        assert values.min() > 0
        assert values.max() <= 1
    factor = 0.8 / (2 / 3)  # of the public recipe's soft mask, at its temperature
    assert torch.allclose(soft_value(torch.tensor([1.0, -2.0])), torch.sigmoid(torch.tensor([factor, -2 * factor])))


@pytest.mark.parametrize("drop_rate", [0.01, 0.3, 0.5, 0.9])
def test_drop_rate(drop_rate):
    gate = Gate(Slot("s", "u", 3, ()), drop_rate)
    assert torch.sigmoid(gate.log_alpha).tolist() == pytest.approx([1 - drop_rate] * 3)
    assert gate.log_alpha.dtype == torch.float32


@pytest.mark.parametrize(
    ("log_alpha", "at_least", "kept"),
    [
        ([9.0, 9.0, 9.0, 9.0], 0, (0, 1, 2, 3)),
        ([-9.0, -9.0, -9.0, -9.0], 0, ()),
        ([-9.0, -8.0, -9.0, -9.0], 1, (1,)),
        ([9.0, -9.0, 9.0, -9.0], 0, (0, 2)),
        ([-1.6, -1.6, -1.6, -1.6], 0, (0, 1)),  # each open with probability 1/2: two of four, the first ones
        ([0.0], 0, (0,)),
        ([-5.0], 0, ()),
    ],
)
def test_mask_rule(log_alpha, at_least, kept):
    gate = gate_of(log_alpha, at_least)
    assert gate.kept() == kept
    values = gate.value(training=False)
    assert tuple(values.nonzero().flatten().tolist()) == kept
    assert torch.equal(values[list(kept)], soft_value(gate.log_alpha.detach())[list(kept)])


@pytest.mark.parametrize("seed", range(5))
def test_mask_keeps_the_expected_number(seed):
    gate = gate_of(torch.randn(101, generator=torch.Generator().manual_seed(seed)).mul(3).tolist())
    assert len(gate.kept()) == pytest.approx(open_probability(gate.log_alpha).sum().item(), abs=0.5)
    closed = sorted(set(range(101)) - set(gate.kept()))
    assert gate.log_alpha[list(gate.kept())].min() > gate.log_alpha[closed].max()


def test_pinned_units_are_kept_with_any_gates():
    gate = gate_of([-90.0, 90.0])
    gate.pinned = (0,)
    assert gate.value(training=False).gt(0).tolist() == [True, False]


def test_conv_always_keeps_a_channel(backbone):
    gates = pruning.attach(backbone)
    close(gates, "*")
    smallest = gates.kept(target=gates.accounting.maximum("params"))
    for kept in (gates.kept(), smallest):
        left = {name: len(units) for name, units in kept.items() if units}
        assert left == {name: 1 for name in gates if name.startswith("conv.")}


@ANY_FAMILY
def test_mapping(backbone):
    gates = pruning.attach(backbone)
    assert list(gates) == list(gates.keys()) == [slot.name for slot in gates.plan.slots]
    assert [name for name, _ in gates.items()] == list(gates)
    assert len(gates) == len(gates.values()) == 16
    assert "head.2" in gates
    assert "head.3" not in gates
    assert gates["attlayer.0"].log_alpha.shape == (1,)
    with pytest.raises(KeyError, match=r"head\.3.*conv\.0"):
        gates["head.3"]
    assert {name for name, _ in gates.named_parameters()} == {f"{name}.log_alpha" for name in gates}
    assert not {id(p) for p in gates.parameters()} & {id(p) for p in backbone.parameters()}


@ANY_FAMILY
def test_units_and_drop_rates(backbone):
    for drop_rate in (0.0, 1.0, -0.1, {"conv": 1.0}):
        with pytest.raises(PlanError, match=r"conv\.0.*between 0 and 1"):
            pruning.attach(backbone, drop_rate=drop_rate)
    gates = pruning.attach(backbone, units=("interm", "head"), drop_rate={"interm": 0.5})
    assert {gate.slot.unit for gate in gates.values()} == {"interm", "head"}
    assert gates["interm.0"].log_alpha.unique().tolist() == pytest.approx([0.0])
    assert gates["head.0"].log_alpha[0] > 4


@ANY_FAMILY
def test_open_probability_is_how_often_samples_are_open(backbone):
    gates = pruning.attach(backbone)
    shuffle(gates, seed=0)
    draws = 2000
    with torch.no_grad():
        frequency = sum((samples(gates) > 0).double() for _ in range(draws)) / draws
        expected = open_probability(gates.log_alpha()).double()
    deviation = (expected * (1 - expected) / draws).sqrt().clamp_min(1 / draws)
    assert ((frequency - expected).abs() <= 5 * deviation).all()


@ANY_FAMILY
def test_noise_is_a_function_of_seed_and_draws(make_backbone):
    def gates(seed):
        return pruning.attach(make_backbone(), drop_rate=0.5, seed=seed)

    one, same, other = gates(7), gates(7), gates(8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = samples(one), samples(one)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    torch.manual_seed(2)
    assert torch.equal(samples(same), first)
    assert torch.equal(samples(same), second)
    assert not torch.equal(first, second)
    drawn = [first, second, *(samples(other) for _ in range(20)), *(samples(gates(seed)) for seed in (0, 1, -1, 2**31))]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


@ANY_FAMILY
def test_a_resumed_run_draws_the_same(make_backbone):
    gates = pruning.attach(make_backbone(), drop_rate=0.5, seed=3)
    for _ in range(5):
        gates.sample()
    shuffle(gates, seed=1)
    state = copy.deepcopy(gates.state_dict())
    expected = [samples(gates) for _ in range(2)]
    resumed = pruning.attach(make_backbone())
    resumed.load_state_dict(state, strict=True)
    assert (resumed.seed, resumed.draws) == (3, 5)
    assert all(torch.equal(samples(resumed), values) for values in expected)


def test_two_steps_with_a_sample_each(backbone, wave, lengths):
    backbone.train()
    gates = pruning.attach(backbone, drop_rate=0.3)
    network = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1e-3)
    pruner = torch.optim.SGD(gates.parameters(), lr=1.0)
    frames = []
    for _ in range(2):
        before = {name: p.detach().clone() for name, p in gates.named_parameters()}
        gates.sample()
        hidden = backbone(wave, lengths)
        frames.append(hidden.frames.detach())
        loss = hidden.frames[:, 0, : int(hidden.lengths[0])].square().mean() + gates.budget().sparsity
        for optimizer in (network, pruner):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (network, pruner):
            optimizer.step()
        assert not any(torch.equal(before[name], p) for name, p in gates.named_parameters())
        assert [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not torch.equal(*frames)


@ANY_FAMILY
@torch.no_grad()
def test_training_needs_a_sample_and_evaluation_none(backbone, wave):
    gates = pruning.attach(backbone, drop_rate=0.5)
    shuffle(gates, seed=0)
    first = backbone(wave).frames
    with pytest.raises(RuntimeError, match=r"no sample; call gates\.sample\(\)"):
        backbone.train()(wave)
    for _ in range(2):
        gates.sample()
        backbone.train()(wave)
        assert torch.equal(backbone.eval()(wave).frames, first), "evaluation does not depend on the sample"


@ANY_FAMILY
def test_gates_are_no_part_of_the_model(backbone):
    count = sum(p.numel() for p in backbone.parameters())
    gates = pruning.attach(backbone)
    assert sum(p.numel() for p in backbone.parameters()) == count == pruning.budget(backbone, gates).dense_params
    assert not any("log_alpha" in name for name in backbone.state_dict())
    with pytest.raises(PlanError, match="attached to this model already"):
        pruning.attach(backbone)


@ANY_FAMILY
@pytest.mark.parametrize(
    "parametrise", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_foreign_parametrisations_are_refused(parametrise, backbone):
    parametrise(backbone.encoder.layers[2].attention.out_proj)
    keys = list(backbone.state_dict())
    with pytest.raises(PlanError, match=r"layers\.2\.attention\.out_proj\.weight"):
        pruning.attach(backbone)
    assert list(backbone.state_dict()) == keys, "a refused model is left alone"


@ANY_FAMILY
@pytest.mark.parametrize("sampled", [False, True])
def test_a_gated_model_is_copied_at_any_time(make_backbone, wave, sampled):
    """For an average of weights or the best model so far: equal outputs, gates of its own, noise that goes on alike."""
    backbone = make_backbone()
    gates = pruning.attach(backbone)
    spread(gates)
    assert gates.kept() == gates.plan.all_units(), "the other tests rely on it"
    assert all(soft_value(gate.log_alpha).min().item() < 0.99 for gate in gates.values())
    if sampled:
        gates.sample()
        backbone.train()(wave).frames.sum().backward()
    twin, own = copy.deepcopy((backbone, gates))
    average = torch.optim.swa_utils.AveragedModel(backbone)
    for mode in (False, True) if sampled else (False,):
        expected = backbone.train(mode)(wave).frames
        torch.testing.assert_close(twin.train(mode)(wave).frames, expected, rtol=0, atol=0)
        torch.testing.assert_close(average.train(mode)(wave).frames, expected, rtol=0, atol=0)
    for one, its in ((backbone, gates), (twin, own)):
        one.zero_grad()
        its.zero_grad()
        its.sample()
        one.train()(wave).frames.sum().backward()
    for name, gate in gates.items():
        assert torch.equal(own[name].log_alpha.grad, gate.log_alpha.grad), "the copy's masks read the copy's gates"
    close(own, "*", share=0.5)
    assert own.kept() != gates.kept()
