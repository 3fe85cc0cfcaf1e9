"""The kept units of a backbone: counted as the weights are, for every set of units that could be cut."""

import pytest
import torch

from encoders import KINDS, make_config, shuffle
from hybrid_pruning import pruning
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.models.size import count_kept, count_parameters


def pruned(dense: Backbone, *units: str) -> Backbone:
    gates = pruning.attach(dense, units)
    shuffle(gates, seed=0)
    return pruning.shrink(dense, gates, gates.kept())


@pytest.mark.parametrize(
    ("kind", "units"),
    [*((kind, pruning.UNITS) for kind in KINDS), (("wavlm", "base"), ("head",)), (("hubert", "large"), ("conv",))],
)
def test_counts_are_those_of_the_weights(kind: tuple[str, str], units: tuple[str, ...]) -> None:
    dense = skeleton(make_config(*kind), False).eval()
    dense_params = count_parameters(dense)
    small = pruned(dense, *units)
    found = count_kept(small)
    assert found.budget.params == sum(parameter.numel() for parameter in small.parameters()) < dense_params
    assert found.budget.dense_params == dense_params
    first = next(module for module in small.modules() if isinstance(module, torch.nn.Conv1d))
    assert found.kept["conv.0"] == first.weight.shape[0]
    assert set(found.kept) == set(found.sizes)
    small.shape = None
    with pytest.raises(RuntimeError, match="parameters counted"):
        count_kept(small)
