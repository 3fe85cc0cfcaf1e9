"""Zero-padding: a dense model with zeros where units were cut computes what the narrow one does."""

import pytest
import torch

from encoders import MakeBackbone, close, relative_error, shuffle
from hybrid_pruning import pruning
from hybrid_pruning.pruning import PlanError

SHAPES = [("attlayer.0", "ffnlayer.1"), ("head.*", "interm.*"), ("*",)]


@torch.no_grad()
def test_every_shape(make_backbone: MakeBackbone, wave: torch.Tensor, lengths: torch.Tensor) -> None:
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
def test_a_dense_model_is_copied(make_backbone: MakeBackbone) -> None:
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
def test_models_of_two_configs(other: dict[str, object], message: str, make_backbone: MakeBackbone) -> None:
    with pytest.raises(PlanError, match=f"{message}.* of one config"):
        pruning.widen(make_backbone(), make_backbone(**other))
