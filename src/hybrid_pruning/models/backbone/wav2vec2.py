"""wav2vec 2.0 (XLS-R), HuBERT and WavLM: a stack of convolutions on the waveform, then transformer layers."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.models.backbone.base import Backbone, Hidden, mask_of
from hybrid_pruning.models.backbone.linear import take_over
from hybrid_pruning.models.backbone.wavlm import GatedRelativeAttention, RelativePositionBias


class Wav2Vec2Backbone(Backbone):
    """One of the three families that wav2vec 2.0 began.

    Args:
        model: transformers' Wav2Vec2Model, HubertModel or WavLMModel; its modules are taken over under their names.
        normalize: whether to bring each waveform to zero mean and unit variance first, as the checkpoint was trained.
    """

    def __init__(self, model: Any, normalize: bool = False) -> None:
        super().__init__(model.config, normalize)
        self.feature_extractor: Any = model.feature_extractor
        self.feature_projection: Any = model.feature_projection
        self.encoder = model.encoder
        if hasattr(model, "masked_spec_embed"):
            self.masked_spec_embed = model.masked_spec_embed
        if getattr(self.config, "channel_scale", False):  # of models that were pruned by other programs
            self.channel_scale = nn.Parameter(torch.ones(self.config.conv_dim[-1]))
        self.pre_norm = bool(getattr(self.config, "do_stable_layer_norm", False))
        if self.config.model_type == "wavlm":
            _replace_wavlm_attention(self.encoder, self.config.max_bucket_distance)
        for part in (self.feature_projection, self.encoder):
            take_over(part, "intermediate_dense", "intermediate_act_fn")
        self._freeze("masked_spec_embed", *(["encoder.layer_norm."] if self.pre_norm else []))

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that gives one frame, in samples at 16 kHz."""
        samples = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def _encode(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> Hidden:
        x, lengths = self._convolve(wave.unsqueeze(1), lengths)
        x = self._lessen_gradient(x).transpose(1, 2)
        projected: Any = self.feature_projection(x * self.channel_scale if hasattr(self, "channel_scale") else x)
        x = projected[0] if isinstance(projected, tuple) else projected  # HuBERT returns the tensor alone
        mask = None if lengths is None else mask_of(lengths, x.shape[1])
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)  # the positional convolution looks across the end
        x = x + self._positions(x, mask)
        if not self.pre_norm:
            x = self.encoder.layer_norm(x)
        x = self.encoder.dropout(x)
        context: dict[str, Any] = {"attention_mask": None if mask is None else mask[:, None, None, :]}
        if hasattr(self.encoder, "position_bias"):
            context["position_bias"] = self.encoder.position_bias(x.shape[1])
        return Hidden(self._run_layers(x, **context), lengths)

    def _positions(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the positional convolution of x [B, T, D], which is 0 outside the mask [B, T].

        HuBERT's batch norm in front of it makes something of that 0, which goes again; it keeps the statistics that it
        was trained with, in training too, so that no utterance depends on others.
        """
        embed = self.encoder.pos_conv_embed
        norm = getattr(embed, "batch_norm", None)
        if norm is None:
            y: torch.Tensor = embed(x)
            return y
        statistics = (norm.running_mean, norm.running_var)
        x = F.batch_norm(x.transpose(1, 2), *statistics, norm.weight, norm.bias, eps=norm.eps)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(1), 0.0)
        y = embed.activation(embed.padding(embed.conv(x)))
        return y.transpose(1, 2)

    def _convolve(self, x: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        for layer, kernel, stride in zip(
            self.feature_extractor.conv_layers, self.config.conv_kernel, self.config.conv_stride, strict=True
        ):
            if lengths is not None:
                lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm) and lengths is not None:
                x = layer.activation(group_norm(layer.conv(x), layer.layer_norm, lengths))
            else:
                x = layer(x)
        return x, lengths


def group_norm(x: torch.Tensor, norm: nn.GroupNorm, lengths: torch.Tensor) -> torch.Tensor:
    """Normalise [B, C, T] channel by channel over each utterance's own frames, so that padding changes nothing."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # sums over an utterance overflow under autocast
    mask = mask_of(lengths, x.shape[-1]).unsqueeze(1)
    count = lengths[:, None, None].to(x.dtype)
    mean = (x * mask).sum(-1, keepdim=True) / count
    x = x - mean
    variance = (x.square() * mask).sum(-1, keepdim=True) / count
    return x * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


def _replace_wavlm_attention(encoder: Any, max_distance: int) -> None:
    """Give every layer our attention, and the encoder the position bias that layer 0 used to compute."""
    encoder.position_bias = RelativePositionBias(encoder.layers[0].attention.rel_attn_embed, max_distance)
    for layer in encoder.layers:
        layer.attention = GatedRelativeAttention(layer.attention)
