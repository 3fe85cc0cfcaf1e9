"""What is left of a backbone: counted as the weights are, whatever could be cut."""

import pytest
import torch

from conftest import make_config, shuffle
from hybrid_pruning import pruning
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.models.size import count_parameters, count_survivors


def tiny(family: str = "wavlm", style: str = "base") -> Backbone:
    torch.manual_seed(0)
    return skeleton(make_config(family, style), False).eval()


def pruned(backbone: Backbone, units: tuple[str, ...] = pruning.UNITS) -> Backbone:
    gates = pruning.attach(backbone, units)
    shuffle(gates, seed=0)
    return pruning.shrink(backbone, gates, gates.kept())


@pytest.mark.parametrize("units", [pruning.UNITS, ("head",), ("conv", "interm")], ids="+".join)
def test_counts_are_those_of_the_weights(family: str, style: str, units: tuple[str, ...]) -> None:
    small = pruned(tiny(family, style), units)
    left = count_survivors(small)
    assert left.budget.params == sum(parameter.numel() for parameter in small.parameters())
    assert left.budget.dense_params == count_parameters(tiny(family, style))
    first = next(module for module in small.modules() if isinstance(module, torch.nn.Conv1d))
    assert left.kept["conv.0"] == first.weight.shape[0]
    assert set(left.kept) == set(left.sizes)


def test_weights_that_disagree_with_the_shape_are_a_fault() -> None:
    small = pruned(tiny())
    small.shape = None
    with pytest.raises(RuntimeError, match="parameters counted"):
        count_survivors(small)
