"""The contract of every backbone, and the parts that all families share."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone.families import declare
from hybrid_pruning.models.backbone.linear import Linear
from hybrid_pruning.models.waves import NOT_FINITE, as_batch
from hybrid_pruning.pruning import Plan

NORMALIZE_EPS = 1e-7
"""Added to a waveform's variance, as transformers' preprocessor does, where a config has no `waveform_eps`."""


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
        gradient_checkpointing: whether layers are computed again in the backward pass, to save memory.
        frozen: whether hidden states have no gradient, and are those of evaluation, without dropout, in training too.
        extractor_gradient: factor of the gradient that enters the first convolutions.
    """

    encoder: Any
    pre_norm: bool

    def __init__(self, config: Any, normalize: bool = False) -> None:
        super().__init__()
        self.config: Any = config
        self.normalize = normalize
        self.origin: dict[str, str] = {}
        self.gradient_checkpointing = self.frozen = False
        self.extractor_gradient = 1.0

    def pack(self, on: bool = True) -> None:
        """Let a CPU compute linear layers through oneDNN where no gradient is asked for: equal up to rounding.

        It is faster, and takes as much memory again as the weights of these layers.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.packs = on

    @property
    def width(self) -> int:
        """D, the width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """L, the number of hidden states: one more than there are layers."""
        return len(self.encoder.layers) + 1

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that gives one frame, in samples at 16 kHz."""
        raise NotImplementedError

    def plan(self, seconds: float = 4.0) -> Plan:
        """Return all units that can be cut, with the MACs of one utterance of `seconds`, one frame at least."""
        return declare(self, seconds)

    def forward(self, wave: Any, lengths: Any = None) -> Hidden:
        """Encode a batch.

        Args:
            wave: [B, S] at 16 kHz, or [S] for a batch of one, of floats or 16 or 32-bit integers: an array, or a tensor
                on the model's device. Values beyond an utterance's length are ignored; NaN and infinity are refused,
                but not in training, where the check would wait for a GPU.
            lengths: [B] samples of each utterance, or None where all have S.
        """
        compiling, dtype = torch.compiler.is_compiling(), next(self.parameters()).dtype
        if not compiling:  # which cannot look into lengths
            wave, lengths = self._check(wave, lengths)
        if lengths is not None:  # times 0 would not do: padding may hold inf or nan, and gradients flow through it
            wave = wave.masked_fill(~mask_of(lengths, wave.shape[-1]), 0.0)
        if not (compiling or self.training or self.frozen or wave.isfinite().all()):
            raise InputError(NOT_FINITE)
        if self.normalize:
            wave = normalized(wave, lengths, getattr(self.config, "waveform_eps", NORMALIZE_EPS))
        wave = wave.to(dtype)
        if self.frozen:
            with torch.no_grad():
                return self._encode(wave, lengths)
        return self._encode(wave, lengths)

    def _check(self, wave: Any, lengths: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return wave and lengths as tensors on the model's device, the wave in single precision or better."""
        weight = next(self.parameters())
        device, precise = weight.device, torch.promote_types(weight.dtype, torch.float32)
        waits = (self.training or self.frozen) and getattr(lengths, "is_cuda", False)
        wave, lengths = as_batch(wave, lengths, self.minimum_samples, values=not waits)
        if isinstance(wave, torch.Tensor) and wave.device != device:
            raise InputError(f"wave: is on {wave.device}, the model on {device}; move one of the two")
        sizes = None if lengths is None else _as_tensor(lengths).to(device)
        return _as_tensor(wave).to(device, precise), sizes

    def train(self, mode: bool = True) -> Self:
        """Go into training or evaluation mode; a frozen backbone stays in evaluation mode."""
        return super().train(mode and not self.frozen)

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
            x = x[0] if isinstance(x, tuple) else x  # WavLM's layers hand the position bias on
            states.append(x)
        return torch.stack(states)

    def _lessen_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """Return the first convolutions' output, whose gradient is multiplied by `extractor_gradient`."""
        factor = self.extractor_gradient
        if factor != 1.0 and x.requires_grad:
            x.register_hook(lambda gradient: gradient * factor)
        return x

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
