"""Linear layers that a CPU computes through oneDNN once they are used and no longer trained.

torch computes them by a general BLAS, which knows neither that the same weights come again nor what follows. oneDNN
lays the weights out once for the processor at hand and applies the activation while the product is in its cache:
`dev/LOG.md` has what that gains.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import register_flop_formula
from transformers.activations import GELUActivation

AFTER: dict[bool, tuple[str, list[float], str]] = {False: ("none", [], ""), True: ("gelu", [], "none")}
"""Whether a GELU follows -> how oneDNN is told."""


class Linear(nn.Linear):
    """torch's linear layer, followed by a GELU where it is told so.

    Attributes:
        gelu: whether a GELU (the exact one) follows.
        packs: whether weights are laid out for oneDNN where no gradient is asked for; the originals stay, so that the
            layer can be saved, moved and trained as ever. It takes as much memory again as the weights do.
    """

    gelu = False
    packs = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] of [..., in]."""
        if self.packs and _can_pack(self, x):
            return torch.ops.mkldnn._linear_pointwise(x, self._packed(), self.bias, *AFTER[self.gelu])
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y

    def _packed(self) -> torch.Tensor:
        """Return the weight as oneDNN wants it, laid out anew where it has changed."""
        state = (self.weight.data_ptr(), self.weight._version)
        kept = self.__dict__.get("_kept")
        if kept is None or kept.state != state:
            kept = self.__dict__["_kept"] = _Packed(
                state, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            )
        return kept.weight


def take_over(model: nn.Module, first: str, activation: str) -> None:
    """Put our linear layers in the place of torch's, with the parameters they have.

    Args:
        model: transformers' encoder.
        first: the FFN's first layer, by its name in its module.
        activation: what follows it there; a GELU becomes that layer's own.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
        layer = getattr(module, first, None)
        if isinstance(layer, nn.Linear) and isinstance(getattr(module, activation), GELUActivation):
            layer.__class__ = Linear
            layer.gelu = True  # type: ignore[assignment]
            setattr(module, activation, nn.Identity())


class _Packed:
    """A laid-out weight, which no copy of the layer takes along: oneDNN's tensors cannot be copied or pickled."""

    def __init__(self, state: tuple[int, int] | None = None, weight: Any = None) -> None:
        self.state, self.weight = state, weight

    def __deepcopy__(self, _: Any) -> "_Packed":
        return _Packed()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Packed, ()


def _can_pack(layer: Linear, x: torch.Tensor) -> bool:
    """Whether oneDNN takes the layer as it is now: plain weights, no gradient, no other precision than theirs."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
        return False
    if parametrize.is_parametrized(layer) or layer.weight.is_inference() or not layer.weight.numel():
        return False
    plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in (x, layer.weight))
    return plain and torch.backends.mkldnn.is_available()


def _count(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """Return the floating-point operations of a product by oneDNN, which torch's FlopCounterMode does not know."""
    return 2 * math.prod(out_shape) * x[-1]


if torch.backends.mkldnn.is_available():
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count)
