"""Self-supervised encoders behind one call: a padded batch of waveforms in, all hidden states out.

Wraps transformers' wav2vec 2.0 (XLS-R), HuBERT and WavLM; the only file that knows model types and ids.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from hybrid_pruning.errors import InputError
from hybrid_pruning.pruning.narrow import GatedRelativeAttention, RelativePositionBias

FAMILIES = ("wav2vec2", "hubert", "wavlm")
UNUSED = ("masked_spec_embed", "encoder.layer_norm.")
NORMALIZE_EPS = 1e-7


@dataclass(frozen=True, slots=True)
class Hidden:
    """All hidden states of a batch.

    Args:
        frames: [L, B, T, D], one every 20 ms; first the encoder's input, last the last layer's output (without the
            final norm of pre-norm models). What lies beyond an utterance's length is undefined.
        lengths: [B] frames of each utterance, or None where all have T.
    """

    frames: torch.Tensor
    lengths: torch.Tensor | None


class Backbone(nn.Module):
    """An SSL encoder whose padded batches give every utterance what it gets alone.

    Args:
        model: transformers' Wav2Vec2Model, HubertModel or WavLMModel; its modules are taken over under their names.
        normalize: whether to bring each waveform to zero mean and unit variance first, as the checkpoint was trained.

    Raises:
        InputError: a model type of another family.
    """

    def __init__(self, model: Any, normalize: bool = False) -> None:
        super().__init__()
        self.config: Any = model.config
        if self.config.model_type not in FAMILIES:
            raise InputError(f"model type '{self.config.model_type}' is not supported; known are {', '.join(FAMILIES)}")
        self.normalize = normalize
        self.gradient_checkpointing = False
        self.feature_extractor: Any = model.feature_extractor
        self.feature_projection: Any = model.feature_projection
        self.encoder: Any = model.encoder
        if hasattr(model, "masked_spec_embed"):
            self.masked_spec_embed = model.masked_spec_embed
        self.pre_norm = bool(getattr(self.config, "do_stable_layer_norm", False))
        if self.config.model_type == "wavlm":
            _replace_wavlm_attention(self.encoder, self.config.max_bucket_distance)
        self._freeze_unused()

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
        samples = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def forward(self, wave: torch.Tensor, lengths: torch.Tensor | None = None) -> Hidden:
        """Encode a batch.

        Args:
            wave: [B, S] float32 at 16 kHz; whatever stands beyond an utterance's length is ignored.
            lengths: [B] samples of each utterance, or None where all have S.

        Raises:
            ValueError: an utterance too short for one frame.
        """
        if not torch.compiler.is_compiling():  # which cannot look into lengths
            shortest = wave.shape[-1] if lengths is None else min(wave.shape[-1], int(lengths.min()))
            if shortest < self.minimum_samples:
                raise ValueError(f"a wave of {shortest} samples; one frame needs {self.minimum_samples}: pad it")
        if lengths is not None:  # times 0 would not do: padding may hold inf or nan, and gradients flow through it
            wave = wave.masked_fill(~_mask(lengths, wave.shape[-1]), 0.0)
        if self.normalize:
            wave = _normalized(wave, lengths)
        x, lengths = self._convolve(wave.unsqueeze(1), lengths)
        projected: Any = self.feature_projection(x.transpose(1, 2))
        x = projected[0] if isinstance(projected, tuple) else projected  # HuBERT returns the tensor alone
        mask = None if lengths is None else _mask(lengths, x.shape[1])
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)  # the positional convolution looks across the end
        return Hidden(torch.stack(self._encode(x, mask)), lengths)

    def _convolve(self, x: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        for layer, kernel, stride in zip(
            self.feature_extractor.conv_layers, self.config.conv_kernel, self.config.conv_stride, strict=True
        ):
            if lengths is not None:
                lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm) and lengths is not None:
                x = layer.activation(_group_norm(layer.conv(x), layer.layer_norm, lengths))
            else:
                x = layer(x)
        return x, lengths

    def _encode(self, x: Any, mask: torch.Tensor | None) -> list[torch.Tensor]:
        x = x + self.encoder.pos_conv_embed(x)
        if not self.pre_norm:
            x = self.encoder.layer_norm(x)
        x = self.encoder.dropout(x)
        context: dict[str, Any] = {"attention_mask": None if mask is None else mask[:, None, None, :]}
        if hasattr(self.encoder, "position_bias"):
            context["position_bias"] = self.encoder.position_bias(x.shape[1])
        states: list[Any] = [x]
        for layer in self.encoder.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, use_reentrant=False, **context)
            else:
                x = layer(x, **context)
            x = x[0] if isinstance(x, tuple) else x  # WavLM's layers hand the position bias on
            states.append(x)
        return states

    def _freeze_unused(self) -> None:
        """Freeze what no hidden state depends on, so that optimisers and DDP do not wait for its gradient."""
        for name, parameter in self.named_parameters():
            final_norm = name.startswith(UNUSED[1]) and self.pre_norm
            if name == UNUSED[0] or final_norm:
                parameter.requires_grad_(False)


def load_transformers(name_or_path: str | Path, random: bool = False) -> Backbone:
    """Load an encoder from a hub id or a local transformers folder.

    Args:
        name_or_path: e.g. ``microsoft/wavlm-base`` or a folder with config.json and its weights.
        random: take the architecture alone, with fresh weights.

    Raises:
        InputError: it cannot be found or read, is of another family, or lacks weights.
    """
    config = load_config(name_or_path)
    if random:
        return skeleton(config, _do_normalize(name_or_path))
    try:
        model, info = AutoModel.from_pretrained(
            name_or_path,
            attn_implementation=_attention(config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise InputError(f"{name_or_path}: the weights cannot be loaded ({_first_line(error)})") from error
    missing = sorted(set(info["missing_keys"]) - {"masked_spec_embed"})
    if missing or info.get("mismatched_keys"):
        raise InputError(
            f"{name_or_path}: {len(missing)} weights are missing from the checkpoint or of the wrong size, first "
            f"'{(missing or sorted(map(str, info['mismatched_keys'])))[0]}'; they would be random"
        )
    return Backbone(model, _do_normalize(name_or_path))


def load_config(name_or_path: str | Path) -> Any:
    """Read an encoder's transformers config.

    Raises:
        InputError: there is none, or it is of a family without a plan.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{name_or_path}: no transformers model there ({_first_line(error)}); "
            "give a hub id or a folder with config.json and weights"
        ) from error
    if config.model_type not in FAMILIES:
        raise InputError(f"{name_or_path}: model type '{config.model_type}'; supported are {', '.join(FAMILIES)}")
    return config


def skeleton(config: Any, normalize: bool) -> Backbone:
    """Build a dense backbone with fresh weights from a transformers config or its dictionary."""
    if isinstance(config, dict):
        config = AutoConfig.for_model(**config)
    return Backbone(AutoModel.from_config(config, attn_implementation=_attention(config)), normalize)


def _attention(config: Any) -> str:
    return "eager" if config.model_type == "wavlm" else "sdpa"  # WavLM's is replaced by ours


def _do_normalize(name_or_path: str | Path) -> bool:
    """Whether the checkpoint's preprocessor normalises waveforms; False where there is none."""
    file = cached_file(
        str(name_or_path),
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return False
    try:
        return bool(json.loads(Path(file).read_text(encoding="utf-8")).get("do_normalize", False))
    except (ValueError, AttributeError) as error:
        raise InputError(f"{file}: is not a preprocessor's JSON ({_first_line(error)})") from error


def _replace_wavlm_attention(encoder: Any, max_distance: int) -> None:
    """Give every layer our attention, and the encoder the position bias that layer 0 used to compute."""
    encoder.position_bias = RelativePositionBias(encoder.layers[0].attention.rel_attn_embed, max_distance)
    for layer in encoder.layers:
        layer.attention = GatedRelativeAttention(layer.attention)


def _mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """[B] lengths -> [B, size] bool, True within."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def _group_norm(x: torch.Tensor, norm: nn.GroupNorm, lengths: torch.Tensor) -> torch.Tensor:
    """Normalise [B, C, T] channel by channel over each utterance's own frames, so that padding changes nothing."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # sums over an utterance overflow under autocast
    mask = _mask(lengths, x.shape[-1]).unsqueeze(1)
    count = lengths[:, None, None].to(x.dtype)
    mean = (x * mask).sum(-1, keepdim=True) / count
    x = x - mean
    variance = (x.square() * mask).sum(-1, keepdim=True) / count
    return x * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


def _normalized(wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Bring each [S] waveform to zero mean and unit variance over its own samples."""
    if lengths is None:
        lengths = torch.full((len(wave),), wave.shape[-1], device=wave.device)
    mask, count = _mask(lengths, wave.shape[-1]), lengths.unsqueeze(1)
    wave = (wave - (wave * mask).sum(-1, keepdim=True) / count) * mask
    return wave * torch.rsqrt(wave.square().sum(-1, keepdim=True) / count + NORMALIZE_EPS)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


hub_logging.set_verbosity_error()  # an unreachable hub is one line of ours, not one for every retry
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()  # its report of unused keys fills the screen; missing ones are an error here
