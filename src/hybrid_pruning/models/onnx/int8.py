"""Layers that ONNX Runtime computes with 8-bit integers.

Weights are rounded once, by one scale for each output, which leaves processors without VNNI instructions room: they add
two products up in 16 bits, and overflow silently. Inputs of a layer are rounded to 8 bits while it runs, by one
scale for the whole batch. A convolution is the product of the frames it covers, gathered after they have become
bytes: several times faster than ONNX Runtime's own integer convolution (dev/LOG.md).

These layers can only be traced by `torch.onnx.export`, which writes the operators down; torch itself has none of them.
"""

import torch
from torch import nn
from torch.nn import functional as F

LARGEST = 127
"""The largest rounded weight, and the largest sum of two neighbours: 255 times one more still fits into 16 bits."""
FEATURES = ("feature_extractor", "conv1", "conv2")
"""Convolutions that make features of the signal stay as they are: in 8 bits they moved a detector's scores by a fifth
of their spread, where all else moved them by a hundredth (dev/LOG.md)."""
NARROWEST = 16
"""Inputs and outputs below which a layer stays as it is: rounding would cost more than it saves."""


def to_integers(model: nn.Module) -> None:
    """Put integer layers in the place of linear layers and of the positional convolution; narrow ones stay."""
    for path, parent in list(model.named_modules()):
        for name, layer in list(parent.named_children()):
            if {*path.split("."), name} & {*FEATURES}:
                continue
            if isinstance(layer, nn.Linear) and min(layer.in_features, layer.out_features) >= NARROWEST:
                setattr(parent, name, IntegerLinear(layer))
            elif (
                isinstance(layer, nn.Conv1d) and min(layer.in_channels, layer.out_channels) // layer.groups >= NARROWEST
            ):
                setattr(parent, name, IntegerConv1d(layer))


class IntegerLinear(nn.Module):
    """A linear layer in integers, with the GELU that follows where the layer has it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.gelu = bool(getattr(layer, "gelu", False))
        self.product = _Product(layer.weight.T, layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] of [..., in]."""
        y = self.product(*_bytes_of(x))
        return F.gelu(y) if self.gelu else y


class IntegerConv1d(nn.Module):
    """A convolution in integers, padded with zeros and not dilated."""

    def __init__(self, layer: nn.Conv1d) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.kernel_size, layer.stride
        self.padding = int(layer.padding[0])
        weights = layer.weight.unflatten(0, (layer.groups, -1)).permute(0, 3, 2, 1).flatten(1, 2)
        biases = [None] * layer.groups if layer.bias is None else layer.bias.chunk(layer.groups)
        self.products = nn.ModuleList(_Product(weight, bias) for weight, bias in zip(weights, biases, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, out, T] of [B, in, S]."""
        x, scale, zero = _bytes_of(F.pad(x.transpose(1, 2), (0, 0, self.padding, self.padding)))
        groups = x.chunk(len(self.products), dim=2)
        found = [
            product(self._frames(group), scale, zero) for product, group in zip(self.products, groups, strict=True)
        ]
        return torch.cat(found, dim=2).transpose(1, 2)

    def _frames(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, T, kernel x C] of [B, S, C], the frames that each output depends on."""
        count = (x.shape[1] - self.kernel) // self.stride + 1
        places = torch.arange(count).unsqueeze(1) * self.stride + torch.arange(self.kernel)
        return x.index_select(1, places.flatten()).view(x.shape[0], count, self.kernel * x.shape[2])


class _Product(nn.Module):
    """Bytes times rounded weights [in, out], plus a bias [out] or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.zero: torch.Tensor
        self.bias: torch.Tensor | None
        signs = torch.stack([weight, -weight]).clamp_min(0.0)
        sums = signs + F.pad(signs[:, 1:], (0, 0, 0, 1))  # of neighbours of the same sign
        scale = sums.amax((0, 1)).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros_like(scale, dtype=torch.int8))
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """Return float32 [..., out] of bytes [..., in], which stand for (x - zero) * scale."""
        inputs = [x, self.weight, scale, self.scale, zero, self.zero, *([] if self.bias is None else [self.bias])]
        shape = (*x.shape[:-1], self.weight.shape[1])
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat", inputs, dtype=torch.float32, shape=shape, version=1
        )


def _bytes_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a tensor rounded to bytes, their scale, and the byte that stands for zero."""
    types = torch.uint8, torch.float32, torch.uint8
    q, scale, zero = torch.onnx.ops.symbolic_multi_out(
        "::DynamicQuantizeLinear", [x], dtypes=types, shapes=(x.shape, (), ()), version=11
    )
    return q, scale, zero
