"""Linear layers that a CPU computes through oneDNN where no gradient is asked for.

torch's general BLAS reorders the weights at every call and leaves the activation to a pass of its own. oneDNN lays the
weights out once for the processor and applies the activation while the product is in its cache (gains: dev/LOG.md).
"""

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import register_flop_formula
from transformers.activations import GELUActivation

AFTER: dict[bool, tuple[str, list[float], str]] = {False: ("none", [], ""), True: ("gelu", [], "none")}
"""oneDNN's arguments, without and with a GELU after the layer."""
_packed: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Any]] = WeakKeyDictionary()
"""Layer -> (address and version of its weight, the laid-out weight), which cannot be copied or pickled with it."""


class Linear(nn.Linear):
    """torch's linear layer with the parameters of another one, optionally followed by a GELU (the exact one).

    Where it `packs`, weights are laid out for oneDNN where no gradient is asked for; the originals stay, so that the
    layer can be saved, moved and trained as ever. It takes as much memory again as the weights do.
    """

    def __init__(self, layer: nn.Linear, gelu: bool = False) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.training, self.gelu, self.packs = layer.training, gelu, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] of [..., in]."""
        if self.packs and self._can_pack(x):
            return torch.ops.mkldnn._linear_pointwise(x, self._pack(), self.bias, *AFTER[self.gelu])
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y

    def _can_pack(self, x: torch.Tensor) -> bool:
        """Return whether oneDNN takes the layer now: plain weights, no gradient, no other precision than theirs."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
            return False
        if parametrize.is_parametrized(self) or self.weight.is_inference() or not self.weight.numel():
            return False
        plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in (x, self.weight))
        return plain and torch.backends.mkldnn.is_available()

    def _pack(self) -> torch.Tensor:
        """Return the weight in oneDNN's layout, laid out anew where it has changed."""
        state = (self.weight.data_ptr(), self.weight._version)
        if self not in _packed or _packed[self][0] != state:
            _packed[self] = (state, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach()))
        weight: torch.Tensor = _packed[self][1]
        return weight


def take_over(model: nn.Module, first: str, activation: str) -> None:
    """Replace torch's linear layers by ours; of an FFN, a GELU becomes part of the first layer (both given by name)."""
    for parent in list(model.modules()):
        gelu = isinstance(getattr(parent, activation, None), GELUActivation)
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear:
                setattr(parent, name, Linear(layer, gelu and name == first))
        if gelu and isinstance(getattr(parent, first, None), Linear):
            setattr(parent, activation, nn.Identity())


def _count(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """Return the floating-point operations of a product by oneDNN, which torch's FlopCounterMode does not know."""
    return 2 * math.prod(out_shape) * x[-1]


if torch.backends.mkldnn.is_available():
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count)
