"""wav2vec 2.0 (XLS-R), HuBERT and WavLM: a stack of convolutions on the waveform, then transformer layers."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.models.backbone.base import Backbone, Hidden, mask_of, replace_linears
from hybrid_pruning.models.backbone.configs import frame_samples
from hybrid_pruning.pruning.attach import scale_gradient


class Wav2Vec2Backbone(Backbone):
    """One of the three families that wav2vec 2.0 began, from transformers' model; see `wrap`."""

    def __init__(self, model: Any, normalize: bool = False) -> None:
        super().__init__(model.config, normalize)
        self.minimum_samples = frame_samples(self.config)
        self.feature_extractor: Any = model.feature_extractor
        self.feature_projection: Any = model.feature_projection
        self.encoder = encoder = model.encoder
        if hasattr(model, "masked_spec_embed"):
            self.masked_spec_embed = model.masked_spec_embed
        if getattr(self.config, "channel_scale", False):  # of models that were pruned by other programs
            self.channel_scale = nn.Parameter(torch.ones(self.config.conv_dim[-1]))
        self.pre_norm = bool(getattr(self.config, "do_stable_layer_norm", False))
        if self.config.model_type == "wavlm":  # the position bias belongs to the encoder, not to its first layer
            distances = encoder.layers[0].attention.rel_attn_embed
            encoder.position_bias = RelativePositionBias(distances, self.config.max_bucket_distance)
            for layer in encoder.layers:
                layer.attention = GatedRelativeAttention(layer.attention)
        for part in (self.feature_projection, encoder):
            replace_linears(part, "intermediate_dense", "intermediate_act_fn")
        self._freeze("masked_spec_embed", *(["encoder.layer_norm."] if self.pre_norm else []))

    def _encode(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> Hidden:
        x, lengths = self._convolve(wave.unsqueeze(1), lengths)
        x = scale_gradient(x, self.extractor_gradient).transpose(1, 2)
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

    def _positions(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the positional convolution of x [B, T, D], which is 0 outside the mask [B, T].

        HuBERT's batch norm in front of it shifts that 0, so that it is masked again; the norm keeps the statistics it
        was trained with, in training too, so that no utterance depends on others.
        """
        embed: Any = self.encoder.pos_conv_embed
        x, norm = x.transpose(1, 2), getattr(embed, "batch_norm", None)
        if norm is not None:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            if mask is not None:
                x = x.masked_fill(~mask.unsqueeze(1), 0.0)
        convolved = convolve_in_float32(embed.conv, x) if x.is_cuda else embed.conv(x)
        return embed.activation(embed.padding(convolved)).transpose(1, 2)


def convolve_in_float32(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """Return a convolution of x [B, C, T] in x's type, computed in float32 whatever that and the autocast are.

    cuDNN takes 16-bit convolutions of many groups one group after another, without tensor cores: on an H200 the
    positional convolution was a third of the computing in a bfloat16 step (docs/speed.md).
    """
    with torch.autocast(x.device.type, enabled=False):
        bias = None if conv.bias is None else conv.bias.float()
        place: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return F.conv1d(x.float(), conv.weight.float(), bias, *place).to(x.dtype)


def group_norm(x: torch.Tensor, norm: nn.GroupNorm, lengths: torch.Tensor) -> torch.Tensor:
    """Normalise [B, C, T] channel by channel over each utterance's own frames, so that padding changes nothing."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # sums over an utterance overflow under autocast
    mask = mask_of(lengths, x.shape[-1]).unsqueeze(1)
    count = lengths[:, None, None].to(x.dtype)
    mean = (x * mask).sum(-1, keepdim=True) / count
    x = x - mean
    variance = (x.square() * mask).sum(-1, keepdim=True) / count
    return x * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


class RelativePositionBias(nn.Module):
    """WavLM's learnt bias for each distance between two frames, computed once for all layers.

    Source: Chen et al., "WavLM", IEEE JSTSP 2022, section III-B (buckets of T5). The embedding [buckets, heads] is the
    first layer's; all distances beyond `max_distance` frames share a bucket.
    """

    def __init__(self, embedding: nn.Embedding, max_distance: int) -> None:
        super().__init__()
        self.embedding, self.max_distance = embedding, max_distance

    def forward(self, frames: int) -> torch.Tensor:
        """Return the [heads, frames, frames] bias, queries first."""
        place = torch.arange(frames, device=self.embedding.weight.device)
        distance = torch.arange(1 - frames, frames, device=place.device)
        half = self.embedding.num_embeddings // 2
        exact = half // 2  # buckets of one distance; beyond, they grow with its logarithm
        far = torch.log(distance.abs().clamp_min(1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + far * (half - exact)).long().clamp_max(half - 1)
        bucket = torch.where(distance.abs() < exact, distance.abs(), far) + half * (distance > 0)
        return self.embedding(bucket).T[:, place[None, :] - place[:, None] + frames - 1]


class GatedRelativeAttention(nn.Module):
    """WavLM's self-attention: scaled dot products plus a relative position bias, gated by the layer's own input.

    Source: Chen et al., "WavLM", IEEE JSTSP 2022, section III-B, with the published models' simplification that the
    gate is computed from the layer's input, head by head. Parameters are taken over from transformers' WavLMAttention.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.gru_rel_pos_const = attention.gru_rel_pos_const
        self.gru_rel_pos_linear = attention.gru_rel_pos_linear
        self.head_dim, self.dropout = int(attention.head_dim), float(attention.dropout)
        self.heads = tuple(range(attention.num_heads))
        self.dense_heads = len(self.heads)
        self._places: torch.Tensor | None = None

    def keep_heads(self, heads: tuple[int, ...]) -> None:
        """Note which of the dense model's heads are kept; each reads its own slice of input and bias."""
        self.heads = tuple(self.heads[head] for head in heads)
        self._places = None

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """[B, T, D], bool [B, 1, 1, T] (True: attended to), [dense heads, T, T] -> [B, T, D], no weights, the bias."""
        if position_bias is None:
            raise ValueError("position_bias is needed: the backbone computes it once for all layers")
        batch, frames, _width = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, frames, len(self.heads), self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = self._gate(hidden_states) * self._of_kept_heads(position_bias, 0)
        if attention_mask is not None:
            bias = bias + bias.new_zeros(()).masked_fill(~attention_mask, float("-inf"))  # T choices, not T x T
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2)), None, position_bias

    def _gate(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, heads, T, 1]; eight outputs summed by fours are two outputs of summed weights."""
        batch, frames, _ = hidden_states.shape
        x = self._of_kept_heads(hidden_states.view(batch, frames, self.dense_heads, self.head_dim), 2)
        linear = self.gru_rel_pos_linear
        weight, bias = linear.weight.view(2, 4, -1).sum(1), linear.bias.view(2, 4).sum(1)
        a, b = torch.sigmoid(F.linear(x, weight, bias)).transpose(1, 2).chunk(2, dim=-1)
        return a * (b * self.gru_rel_pos_const - 1.0) + 2.0

    def _of_kept_heads(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        if len(self.heads) == self.dense_heads:
            return x
        if torch.compiler.is_compiling():
            return x.index_select(dim, torch.tensor(self.heads, device=x.device))
        if self._places is None or self._places.device != x.device:  # copied to a GPU once
            with torch.inference_mode(False):  # or no gradient could pass it later
                self._places = torch.tensor(self.heads, device=x.device)
        return x.index_select(dim, self._places)
