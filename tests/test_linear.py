"""Linear layers through oneDNN: the same figures as torch's, never stale, and out of the way of training."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from conftest import MakeBackbone
from hybrid_pruning.models.backbone.linear import Linear, take_over
from hybrid_pruning.pruning import attach, shrink

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


class Calls:
    """Counts what oneDNN is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, packed = 0, Linear._packed

        def counted(layer: Linear) -> torch.Tensor:
            self.count += 1
            return packed(layer)

        monkeypatch.setattr(Linear, "_packed", counted)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def make_layer(gelu: bool = False) -> Linear:
    torch.manual_seed(0)
    layer = Linear(24, 16)
    layer.gelu, layer.packs = gelu, True
    return layer


def plain(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    y = F.linear(x, layer.weight, layer.bias)
    return F.gelu(y) if layer.gelu else y


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24), (0, 24)])
def test_it_is_torchs_layer(gelu: bool, shape: tuple[int, ...], calls: Calls):
    layer, x = make_layer(gelu), torch.randn(shape)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-6)
    assert calls.count == 2


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


def test_training_is_left_alone(calls: Calls):
    layer, x = make_layer(gelu=True), torch.randn(3, 24)
    assert torch.equal(layer(x), plain(layer, x))
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu"):
        assert layer(x).dtype == torch.bfloat16
    assert calls.count == 0


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
    take_over(ffn, "first", "act")
    assert isinstance(ffn.first, Linear)
    assert not ffn.first.gelu
    assert isinstance(ffn.act, nn.ReLU)


def test_a_backbone_gives_the_same_packed(make_backbone: MakeBackbone, calls: Calls):
    backbone = make_backbone()
    wave, lengths = torch.randn(2, 4000), torch.tensor([4000, 3100])
    with torch.no_grad():
        expected = backbone(wave, lengths)
        assert calls.count == 0
        backbone.pack()
        found = backbone(wave, lengths)
        assert calls.count > 0
        for row, size in enumerate(expected.lengths.tolist()):
            one, other = found.frames[:, row, :size], expected.frames[:, row, :size]
            assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_a_packed_backbone_can_be_pruned(make_backbone: MakeBackbone):
    backbone, wave = make_backbone(), torch.randn(1, 4000)
    backbone.pack()
    with torch.no_grad():
        backbone(wave)
        gates = attach(backbone)
        for gate in gates.values():
            gate.log_alpha[: gate.slot.size // 2] = -8.0
        masked = backbone(wave).frames
        small = shrink(backbone, gates)(wave).frames
    assert (masked - small).abs().max() <= 1e-5 * masked.abs().max()


def test_packed_products_are_counted(make_backbone: MakeBackbone):
    backbone, wave = make_backbone(), torch.randn(2, 4000)
    counts = []
    for on in (False, True):
        backbone.pack(on)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(wave)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
