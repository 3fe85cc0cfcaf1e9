"""Linear layers through oneDNN: the same values as torch's, never stale, and not used in training."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from encoders import REPRESENTATIVE, MakeBackbone, relative_error
from hybrid_pruning.models.backbone.base import Linear, replace_linears
from hybrid_pruning.pruning import attach, shrink

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Linear]:
    """The layers that oneDNN was asked for, call by call."""
    found, pack = [], Linear._pack
    monkeypatch.setattr(Linear, "_pack", lambda layer: found.append(layer) or pack(layer))
    return found


def make_layer(gelu: bool = False) -> Linear:
    torch.manual_seed(0)
    layer = Linear(nn.Linear(24, 16), gelu)
    layer.packs = True
    return layer


def plain(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    y = F.linear(x, layer.weight, layer.bias)
    return F.gelu(y) if layer.gelu else y


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24), (0, 24)])
def test_it_is_torchs_layer(gelu: bool, shape: tuple[int, ...], calls: list[Linear]):
    layer, x = make_layer(gelu), torch.randn(shape)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-6)
    assert calls == [layer, layer]


def test_a_weight_that_changed_is_laid_out_anew():
    layer, x = make_layer(), torch.randn(3, 24)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.weight.data = torch.randn(16, 24)
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.load_state_dict(make_layer().state_dict())
        torch.testing.assert_close(layer(x), plain(make_layer(), x))


def test_training_is_left_alone(calls: list[Linear]):
    layer, x = make_layer(gelu=True), torch.randn(3, 24)
    assert torch.equal(layer(x), plain(layer, x))
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu"):
        assert layer(x).dtype == torch.bfloat16
    assert not calls


def test_a_copy_and_a_pickle_lay_out_their_own():
    layer, x = make_layer(), torch.randn(3, 24)
    with torch.no_grad():
        expected = layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(other(x), expected)
            other.weight.zero_()
            torch.testing.assert_close(layer(x), expected)


def test_only_a_gelu_of_the_exact_kind_is_taken_in():
    ffn = nn.Module()
    ffn.first, ffn.act = nn.Linear(4, 8), nn.ReLU()
    replace_linears(ffn, "first", "act")
    assert isinstance(ffn.first, Linear)
    assert not ffn.first.gelu
    assert isinstance(ffn.act, nn.ReLU)


@pytest.mark.parametrize("kind", REPRESENTATIVE)
@torch.no_grad()
def test_a_packed_backbone(make_backbone: MakeBackbone, calls: list[Linear]):
    """It gives the same, its products are counted, and it can be pruned."""
    backbone = make_backbone()
    wave, lengths = torch.randn(2, 4000), torch.tensor([4000, 3100])
    with FlopCounterMode(display=False) as expected_count:
        expected = backbone(wave, lengths)
    assert not calls
    backbone.pack()
    with FlopCounterMode(display=False) as count:
        found = backbone(wave, lengths)
    assert calls
    assert relative_error(expected.frames, found.frames, found.lengths) <= 1e-5
    assert count.get_total_flops() == expected_count.get_total_flops() > 0
    gates = attach(backbone)
    for gate in gates.values():
        gate.log_alpha[: gate.slot.size // 2] = -8.0
    assert relative_error(backbone(wave).frames, shrink(backbone, gates)(wave).frames) <= 1e-5
