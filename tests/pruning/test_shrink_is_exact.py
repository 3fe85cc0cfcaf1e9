"""Invariant 1: in evaluation the gated model and the shrunk model give the same hidden states."""

import copy
from functools import partial

import pytest
import torch

from encoders import KINDS, REPRESENTATIVE, WHISPER, close, relative_error, shuffle, spread
from hybrid_pruning import pruning
from hybrid_pruning.pruning import PlanError
from hybrid_pruning.pruning.shrink import Closed

TOLERANCE = 1e-5

# name -> (slots closed for good, slots half closed); all others keep soft values of their own
CASES = {
    "all open, soft values": ((), ()),
    "all heads of a layer": (("head.1",), ()),
    "all heads of the first layer": (("head.0",), ()),
    "all neurons of a layer": (("interm.1",), ()),
    "an attention layer": (("attlayer.1",), ()),
    "the first attention layer": (("attlayer.0",), ()),
    "the last attention layer": (("attlayer.2",), ()),
    "a feed-forward layer": (("ffnlayer.1",), ()),
    "a layer and its units": (("attlayer.1", "head.1", "ffnlayer.1", "interm.1"), ()),
    "both sub-layers of a layer": (("attlayer.1", "ffnlayer.1"), ()),
    "both sub-layers of all layers": (("attlayer.*", "ffnlayer.*"), ()),
    "all heads and neurons of all layers": (("head.*", "interm.*"), ()),
    "first conv half": ((), ("conv.0",)),
    "inner conv half": ((), ("conv.1",)),
    "last conv half": ((), ("conv.3",)),
    "last conv down to one channel": (("conv.3",), ()),
    "all convs half": ((), ("conv.*",)),
    "all convs down to one channel": (("conv.*",), ()),
    "half of everything": ((), ("conv.*", "head.*", "interm.*")),
    "everything closed": (("*",), ()),
}

EXTREMES = ("the first attention layer", "both sub-layers of all layers", "last conv down to one channel")
EVERYWHERE = {name: CASES[name] for name in (*EXTREMES, "half of everything", "everything closed")}
representative_kinds = pytest.mark.parametrize("kind", REPRESENTATIVE, ids="-".join)

# name -> (kinds whose own config has it otherwise, the difference)
BASE, LARGE = ([(family, style) for family in ("wav2vec2", "hubert", "wavlm")] for style in ("base", "large"))
HUBERT = [("hubert", style) for style in ("base", "large")]
VARIANTS = {
    "conv bias": (BASE, {"conv_bias": True}),
    "no conv bias": (LARGE, {"conv_bias": False}),
    "pre-norm": (BASE, {"do_stable_layer_norm": True}),
    "post-norm": (LARGE, {"do_stable_layer_norm": False}),
    "no projection norm": (HUBERT, {"feat_proj_layer_norm": False}),
    "batch norm of positions": (HUBERT, {"conv_pos_batch_norm": True}),
    "windows": ([WHISPER], {"max_source_positions": 5}),
    "128 mel bins": ([WHISPER], {"num_mel_bins": 128}),
}
VARIANT_TABLE = [
    pytest.param(kind, changes, id="-".join((*kind, name)))
    for name, (kinds, changes) in VARIANTS.items()
    for kind in kinds
]


@pytest.fixture
def assert_exact(wave, lengths, record):

    @torch.no_grad()
    def compare(backbone, gates, case="", measure="masked = shrunk", most=TOLERANCE):
        batch = wave.to(next(backbone.parameters()).dtype)
        masked, small = backbone(batch, lengths), pruning.shrink(backbone, gates)(batch, lengths)
        assert torch.equal(masked.lengths, small.lengths)
        assert record(measure, relative_error(masked.frames, small.frames, masked.lengths)) <= most, case

    return compare


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_cases(kind, backbone, assert_exact):
    gates = pruning.attach(backbone)
    for name, (closed, halved) in (CASES if kind in REPRESENTATIVE else EVERYWHERE).items():
        spread(gates)
        close(gates, *closed)
        close(gates, *halved, share=0.5)
        sizes = {slot: (len(units), gates[slot].slot) for slot, units in gates.kept().items()}
        assert all(kept == slot.at_least for kept, slot in sizes.values()) == (closed == ("*",)), name
        if not closed and not halved:
            assert all(kept == slot.size for kept, slot in sizes.values())
        assert_exact(backbone, gates, name)


def test_unit_alone(backbone, assert_exact):
    for unit in pruning.UNITS:
        gates = pruning.attach(backbone, units=(unit,))
        shuffle(gates, seed=0)
        assert_exact(backbone, gates, unit)
        pruning.detach(backbone)


@pytest.mark.parametrize("align", [1, 4, 32])
def test_random_masks(align, backbone, assert_exact):
    gates = pruning.attach(backbone, align=align)
    for seed in range(3 if align == 1 else 1):
        shuffle(gates, seed)
        assert_exact(backbone, gates, seed)


@pytest.mark.parametrize(("kind", "changes"), VARIANT_TABLE)
def test_variant(changes, make_backbone, assert_exact):
    backbone = make_backbone(**changes)
    gates = pruning.attach(backbone)
    for closed in ((), ("attlayer.0", "interm.1"), ("*",)):
        shuffle(gates, seed=0)
        close(gates, *closed)
        assert_exact(backbone, gates, closed)


@pytest.mark.parametrize("target", [0.1, 0.75])
def test_pinned_units(target, backbone, assert_exact):
    gates = pruning.attach(backbone)
    shuffle(gates, seed=1)
    last_conv = [name for name in gates if name.startswith("conv.")][-1]
    gates[last_conv].log_alpha.data.add_(4).clamp_(min=-2)  # see test_nothing_is_approximated
    own = gates.kept()
    kept = gates.kept(target=target)
    gates.pin(kept)
    assert gates.kept() == kept
    assert_exact(backbone, gates)
    gates.pin(None)
    assert gates.kept() == own != kept


def test_nothing_is_approximated(backbone, assert_exact):
    """In double precision, where even the worst conditioned model agrees.

    A large model left with one channel at its last conv has two norms in a row over a single number, which turn
    into its sign: the dense model itself then magnifies rounding ten thousand times.
    """
    backbone.double()
    gates = pruning.attach(backbone).double()
    shuffle(gates, seed=1)
    for target in (0.3, 0.8):
        gates.pin(gates.kept(target=target))
        assert_exact(backbone, gates, target, "masked = shrunk, float64", 1e-11)


@representative_kinds
def test_units_given_to_shrink_are_those_it_keeps(backbone, wave):
    gates = pruning.attach(backbone)
    shuffle(gates, seed=2)
    kept = {**gates.plan.all_units(), "interm.1": (3, 17), "conv.0": (5,)}
    small = pruning.shrink(backbone, gates, kept)
    gates.pin(kept)
    with torch.no_grad():
        assert relative_error(backbone(wave).frames, small(wave).frames) <= TOLERANCE
    assert sum(p.numel() for p in small.parameters()) == pruning.budget(backbone, gates, kept).params


@representative_kinds
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_gated_model_is_left_as_it_was(training, backbone, wave, lengths):
    gates = pruning.attach(backbone)
    shuffle(gates, seed=3)
    backbone.train(training)
    gates.sample()
    before, state = backbone(wave, lengths).frames, copy.deepcopy(backbone.state_dict())
    draws, samples = gates.draws, {name: gate.sampled for name, gate in gates.items()}

    first, second = pruning.shrink(backbone, gates), pruning.shrink(backbone, gates)

    assert torch.equal(before, backbone(wave, lengths).frames)
    assert list(state) == list(backbone.state_dict())
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in state.items())
    assert gates.draws == draws
    assert all(gate.sampled is samples[name] for name, gate in gates.items())
    assert backbone.training is first.training is training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    owned = {id(parameter) for parameter in backbone.parameters()}
    assert not any(id(parameter) in owned for parameter in first.parameters())


def test_detach_restores_the_plain_model(backbone, wave, lengths):
    before, keys = backbone(wave, lengths).frames, list(backbone.state_dict())
    parameters, classes = dict(backbone.named_parameters()), [type(module) for module in backbone.modules()]
    gates = pruning.attach(backbone)
    shuffle(gates, seed=4)
    assert not torch.equal(before, backbone(wave, lengths).frames)
    pruning.detach(backbone)
    assert torch.equal(before, backbone(wave, lengths).frames)
    assert list(backbone.state_dict()) == keys, "an optimiser resumes by the order of parameters"
    assert all(parameter is parameters[name] for name, parameter in backbone.named_parameters())
    assert [type(module) for module in backbone.modules()] == classes
    pruning.attach(backbone)


@representative_kinds
def test_shrunk_model_is_a_plain_one(backbone):
    """With the names of a dense model, and with modules whose sizes are those of their tensors."""
    plain = list(backbone.state_dict())
    gates = pruning.attach(backbone)
    spread(gates)
    close(gates, "conv.*", "head.*", "interm.*", share=0.5)
    small = pruning.shrink(backbone, gates)
    assert list(small.state_dict()) == plain
    for module in small.modules():
        if isinstance(module, torch.nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
        elif isinstance(module, torch.nn.Conv1d):
            assert module.out_channels == module.weight.shape[0]
            assert module.in_channels == module.weight.shape[1] * module.groups
        elif isinstance(module, torch.nn.GroupNorm):
            assert module.num_groups == module.num_channels == len(module.weight)

    shuffle(gates, seed=5)
    small = pruning.shrink(backbone, gates)
    assert set(small.state_dict()) <= set(plain)
    assert not any("gate" in name or "Mask" in type(module).__name__ for name, module in small.named_modules())


def test_copies_of_the_shrunk_model_train(backbone, wave, lengths):
    gates = pruning.attach(backbone).train()
    backbone.train()
    gates.sample()
    backbone(wave, lengths).frames.square().sum().backward()
    shuffle(gates, seed=6)
    close(gates, "attlayer.1", "interm.2")
    gates["attlayer.0"].log_alpha.data.fill_(5)
    small = copy.deepcopy(pruning.shrink(backbone, gates)).train()
    assert all(parameter.grad is None for parameter in small.parameters()), "gradients of the gated model"

    hidden = small(wave, lengths)
    hidden.frames[:, 0, : int(hidden.lengths[0])].square().sum().backward()
    assert {name for name, p in small.named_parameters() if p.requires_grad and p.grad is None} == set()
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    also = norms_before_what_is_closed(small) if small.pre_norm else set()
    assert {name for name, p in small.named_parameters() if not p.requires_grad} == frozen | also
    torch.optim.SGD([p for p in small.parameters() if p.requires_grad], lr=1e-3).step()
    assert torch.isfinite(small(wave, lengths).frames).all()


def norms_before_what_is_closed(small):
    """What no output depends on: in pre-norm models, the norm whose sub-layer ignores its input."""
    found = set()
    for index, layer in enumerate(small.encoder.layers):
        for parts, norms in (
            (("attention", "self_attn"), ("layer_norm", "self_attn_layer_norm")),
            (("feed_forward", "fc2"), ("final_layer_norm", "final_layer_norm")),
        ):
            for part, norm in zip(parts, norms, strict=True):
                if isinstance(getattr(layer, part, None), Closed):
                    found |= {f"encoder.layers.{index}.{norm}.{name}" for name in ("weight", "bias")}
    return found


def test_every_trained_parameter_that_is_left_gets_a_gradient(backbone, wave):
    """So that DDP needs no search for parameters that were not used."""
    gates = pruning.attach(backbone)
    for closed in ((), ("head.*",), ("attlayer.*",), ("attlayer.1", "interm.2"), ("ffnlayer.*",), ("*",)):
        spread(gates)
        close(gates, *closed)
        small = pruning.shrink(backbone, gates).train()
        small(wave[:1, :1000]).frames.square().sum().backward()
        assert {name for name, p in small.named_parameters() if p.requires_grad != (p.grad is not None)} == set()


@representative_kinds
def test_a_closed_layer_is_its_norms(backbone):
    gates = pruning.attach(backbone)
    for closed, left in ((("attlayer.1", "ffnlayer.1"), 0), (("*.1",), 0), (("head.1", "interm.1"), 2)):
        spread(gates)
        close(gates, *closed)
        layer = pruning.shrink(backbone, gates).encoder.layers[1]
        assert not any(isinstance(module, torch.nn.Linear) for module in layer.modules())
        biases = {name for name, _ in layer.named_parameters() if "norm" not in name}
        assert len(biases) == left
        assert biases <= {"attention.bias", "feed_forward.bias", "self_attn.bias", "fc2.bias"}


AGAIN = {
    "half of everything": ((), ("conv.*", "head.*", "interm.*")),
    "a layer's heads and another's neurons": (("head.0", "interm.1"), ()),
    "layers": (("attlayer.0", "ffnlayer.1"), ("head.1",)),
    "last conv": ((), ("conv.3",)),
    "everything closed": (("*",), ()),
}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_shrunk_model_can_be_shrunk_again(kind, backbone, assert_exact):
    gates = pruning.attach(backbone)
    for name in AGAIN if kind in REPRESENTATIVE else ("half of everything",):
        closed, halved = AGAIN[name]
        spread(gates)
        close(gates, *closed)
        close(gates, *halved, share=0.5)
        small = pruning.shrink(backbone, gates)
        again = pruning.attach(small)
        shuffle(again, seed=1)
        assert_exact(small, again, name, "shrunk again")


@representative_kinds
def test_two_cuts_are_one(make_backbone):
    """The shape left by two cuts, made at once on a fresh skeleton, holds the weights of the twice-shrunk model."""
    small = make_backbone()
    for seed, units in enumerate((("head", "attlayer", "interm", "ffnlayer"), pruning.UNITS)):
        gates = pruning.attach(small, units=units)
        shuffle(gates, seed)
        small = pruning.shrink(small, gates)
    shape, fresh = pruning.shape_of(small), make_backbone()
    pruning.narrow(fresh, pruning.plan_for(fresh).only(shape.units), shape.kept)
    assert pruning.shape_of(fresh) == shape
    assert {name: p.shape for name, p in fresh.state_dict().items()} == {
        name: p.shape for name, p in small.state_dict().items()
    }
    fresh.load_state_dict(small.state_dict(), strict=True)
    wave = torch.randn(2, 3000)
    assert torch.equal(fresh(wave).frames, small(wave).frames)


@pytest.mark.parametrize("kind", REPRESENTATIVE[:1], ids="-".join)
def test_units_that_do_not_fit_are_refused(backbone):
    gates = pruning.attach(backbone)
    unfit = {"ascending": {"head.0": (1, 0)}, "below 4": {"head.0": (0, 4)}, "at least 1": {"conv.0": ()}}
    for message, change in {**unfit, "head.9": {"head.9": (0,)}}.items():
        kept = {**gates.plan.all_units(), **change}
        for use in (partial(pruning.shrink, backbone, gates), gates.pin):
            with pytest.raises(PlanError, match=message):
                use(kept)
