"""The few modules that a shrunk model needs and the dense one does not have."""

import torch
from torch import nn


class NarrowLayerNorm(nn.Module):
    """A layer norm over channels of which some are gone but still count, as the zeros they were while masked.

    Weight and bias are [kept], or None; the width is the dense model's number of channels, which statistics are over.
    """

    def __init__(self, weight: nn.Parameter | None, bias: nn.Parameter | None, eps: float, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.width = weight, bias, eps, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [..., kept] over its last dimension."""
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(full, dim=-1, correction=0, keepdim=True)
        share = x.shape[-1] / self.width
        # of the kept channels and (width - kept) zeros together
        variance = share * variance + share * (1 - share) * mean.square()
        y = ((full - share * mean) * torch.rsqrt(variance + self.eps)).to(x.dtype)
        if self.weight is not None:
            y = y * self.weight
        return y if self.bias is None else y + self.bias


class Closed(nn.Module):
    """A sub-layer that lost all its units: its output bias [D], or nothing where it is closed as a whole.

    It returns as many values as the sub-layer it replaces; those beyond the first are None.
    """

    def __init__(self, bias: nn.Parameter | None = None, outputs: int = 1) -> None:
        super().__init__()
        self.bias, self.outputs = bias, outputs

    def forward(self, hidden_states: torch.Tensor, **_: object) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """Return what broadcasts onto the residual stream: [D], or a zero; the argument's name is transformers'."""
        y = hidden_states.new_zeros(()) if self.bias is None else self.bias
        return y if self.outputs == 1 else (y, *[None] * (self.outputs - 1))
