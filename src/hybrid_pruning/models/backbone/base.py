"""The contract of every backbone, and the parts that all families share: masks, normalisation, linear layers."""

import math
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula
from transformers.activations import GELUActivation

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone.families import declare
from hybrid_pruning.models.waves import NOT_FINITE, as_batch
from hybrid_pruning.pruning import Plan

NORMALIZE_EPS = 1e-7
"""Added to a waveform's variance, as transformers' preprocessor does, where a config has no `waveform_eps`."""
AFTER: dict[bool, tuple[str, list[float], str]] = {False: ("none", [], ""), True: ("gelu", [], "none")}
"""oneDNN's arguments, without and with a GELU after the layer."""
_packed: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Any]] = WeakKeyDictionary()
"""Layer -> (address and version of its weight, the laid-out weight), which cannot be copied or pickled with it."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """All hidden states of a batch.

    Args:
        frames: [L, B, T, D], one every 20 ms; first the encoder's input, last the last layer's output (without the
            final norm of pre-norm models). Frames beyond an utterance's length are undefined.
        lengths: [B] frames of each utterance, or None where all have T.
    """

    frames: torch.Tensor
    lengths: torch.Tensor | None


class Backbone(nn.Module):
    """An encoder whose padded batches give every utterance the hidden states it gets alone; `wrap` makes one.

    Attributes:
        config: transformers'.
        normalize: whether to bring each waveform to zero mean and unit variance first, as the checkpoint was trained.
        origin: `normalize` names the file that decided on normalisation, or the assumption; a hub's backbone has
            `hub_id` and `commit` too.
        encoder: transformers', whose layers are run one by one; `pre_norm`: their norms are in front of sub-layers.
        minimum_samples: the shortest waveform that gives one frame, at 16 kHz.
        gradient_checkpointing: whether layers are computed again in the backward pass, to save memory.
        frozen: whether hidden states have no gradient, and are those of evaluation, without dropout, in training too.
        frozen_dropout: whether a frozen one has dropout in training all the same.
        extractor_gradient: factor of the gradient that enters the first convolutions.
    """

    encoder: Any
    pre_norm: bool
    minimum_samples: int

    def __init__(self, config: Any, normalize: bool = False) -> None:
        super().__init__()
        self.config: Any = config
        self.normalize = normalize
        self.origin: dict[str, str] = {}
        self.gradient_checkpointing = self.frozen = self.frozen_dropout = False
        self.extractor_gradient = 1.0

    def pack(self) -> None:
        """Let a CPU compute linear layers through oneDNN where no gradient is asked for, see `Linear`."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.packs = True

    @property
    def width(self) -> int:
        """D, the width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """L, the number of hidden states: one more than there are layers."""
        return len(self.encoder.layers) + 1

    def plan(self, seconds: float = 4.0) -> Plan:
        """Return all units that can be cut, with the MACs of one utterance of `seconds`, one frame at least."""
        return declare(self, seconds)

    def forward(self, wave: Any, lengths: Any = None) -> Hidden:
        """Encode a batch.

        Args:
            wave: [B, S] at 16 kHz, or [S] for a batch of one, of floats or 16 or 32-bit integers: an array, or a tensor
                on the model's device. Values beyond an utterance's length are ignored; NaN and infinity are refused,
                but not in training, where the check would wait for a GPU, nor in a CUDA graph, which cannot wait.
            lengths: [B] samples of each utterance, or None where all have S.
        """
        captured = isinstance(wave, torch.Tensor) and wave.is_cuda and torch.cuda.is_current_stream_capturing()
        compiling, dtype = torch.compiler.is_compiling() or captured, next(self.parameters()).dtype
        if not compiling:  # which cannot look into lengths
            wave, lengths = self._check(wave, lengths)
        if lengths is not None:  # times 0 would not do: padding may hold inf or nan, and gradients flow through it
            wave = wave.masked_fill(~mask_of(lengths, wave.shape[-1]), 0.0)
        if not (compiling or self.training or self.frozen or wave.isfinite().all()):
            raise InputError(NOT_FINITE)
        if self.normalize:
            wave = normalized(wave, lengths, getattr(self.config, "waveform_eps", NORMALIZE_EPS))
        if self.frozen:
            with torch.no_grad():
                return self._encode(wave.to(dtype), lengths)
        return self._encode(wave.to(dtype), lengths)

    def _check(self, wave: Any, lengths: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return wave and lengths as tensors on the model's device, the wave in single precision or better."""
        weight = next(self.parameters())
        device, precise = weight.device, torch.promote_types(weight.dtype, torch.float32)
        waits = (self.training or self.frozen) and getattr(lengths, "is_cuda", False)
        wave, lengths = as_batch(wave, lengths, self.minimum_samples, values=not waits)
        if isinstance(wave, torch.Tensor) and wave.device != device:
            raise InputError(f"wave: is on {wave.device}, the model on {device}; move one of the two")
        return _as_tensor(wave).to(device, precise), None if lengths is None else _as_tensor(lengths).to(device)

    def train(self, mode: bool = True) -> Self:
        """Go into training or evaluation mode; a frozen backbone without dropout stays in evaluation mode."""
        return super().train(mode and (not self.frozen or self.frozen_dropout))

    def _encode(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> Hidden:
        """Return the hidden states of wave [B, S], which is 0 beyond each of lengths [B]."""
        raise NotImplementedError

    def _run_layers(self, x: Any, **context: Any) -> torch.Tensor:
        """Return the encoder's input [B, T, D] and the output of every layer, which gets `context`: [L, B, T, D]."""
        states: list[Any] = [x]
        for layer in self.encoder.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, use_reentrant=False, **context)
            else:
                x = layer(x, **context)
            x = x[0] if isinstance(x, tuple) else x  # WavLM's layers return the position bias too
            states.append(x)
        return torch.stack(states)

    def _freeze(self, *prefixes: str) -> None:
        """Freeze parameters that no hidden state depends on: optimisers and DDP would wait for their gradient."""
        for name, parameter in self.named_parameters():
            if name.startswith(prefixes):
                parameter.requires_grad_(False)


def _as_tensor(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array, order="C"))


def mask_of(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """[B] lengths -> [B, size] bool, True within."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def normalized(wave: torch.Tensor, lengths: torch.Tensor | None, eps: float = NORMALIZE_EPS) -> torch.Tensor:
    """Bring each [S] waveform to zero mean and unit variance over its own samples."""
    if lengths is None:
        lengths = torch.full((len(wave),), wave.shape[-1], device=wave.device)
    mask, count = mask_of(lengths, wave.shape[-1]), lengths.unsqueeze(1)
    wave = (wave - (wave * mask).sum(-1, keepdim=True) / count) * mask
    return wave * torch.rsqrt(wave.square().sum(-1, keepdim=True) / count + eps)


class Linear(nn.Linear):
    """torch's linear layer with the parameters of another one, optionally followed by a GELU (the exact one).

    Where it `packs`, a CPU computes it through oneDNN while no gradient is asked for: equal up to rounding. torch's
    general BLAS reorders the weights at every call and leaves the activation to a pass of its own; oneDNN lays the
    weights out once and applies the activation while the product is in the cache (gains: dev/LOG.md). The originals
    stay, so that the layer can be saved, moved and trained as ever: it takes as much memory again as its weights do.
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


def replace_linears(model: nn.Module, first: str, activation: str) -> None:
    """Replace torch's linear layers by ours; of an FFN, a GELU becomes part of the first layer (both given by name)."""
    for parent in list(model.modules()):
        gelu = isinstance(getattr(parent, activation, None), GELUActivation)
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear:
                setattr(parent, name, Linear(layer, gelu and name == first))
        if gelu and isinstance(getattr(parent, first, None), Linear):
            setattr(parent, activation, nn.Identity())


if torch.backends.mkldnn.is_available():  # which torch's FlopCounterMode lacks
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(
        lambda x, *_, out_shape, **__: 2 * math.prod(out_shape) * x[-1]
    )
