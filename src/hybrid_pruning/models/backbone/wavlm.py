"""WavLM's attention with a gated relative position bias, dense or with some of its heads."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class RelativePositionBias(nn.Module):
    """WavLM's learnt bias for each distance between two frames, computed once for all layers.

    Source: Chen et al., "WavLM", IEEE JSTSP 2022, section III-B (buckets of T5).

    Args:
        embedding: [buckets, heads], taken over from the first layer.
        max_distance: frames beyond which all distances share a bucket.
    """

    def __init__(self, embedding: nn.Embedding, max_distance: int) -> None:
        super().__init__()
        self.embedding, self.max_distance = embedding, max_distance

    def forward(self, frames: int) -> torch.Tensor:
        """Return the [heads, frames, frames] bias, queries first."""
        place = torch.arange(frames, device=self.embedding.weight.device)
        distances = torch.arange(1 - frames, frames, device=place.device)
        values = self.embedding(self._bucket(distances)).T
        return values[:, place[None, :] - place[:, None] + frames - 1]

    def _bucket(self, distance: torch.Tensor) -> torch.Tensor:
        half = self.embedding.num_embeddings // 2
        exact = half // 2
        far = torch.log(distance.abs().clamp_min(1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + far * (half - exact)).long().clamp_max(half - 1)
        return torch.where(distance.abs() < exact, distance.abs(), far) + half * (distance > 0)


class GatedRelativeAttention(nn.Module):
    """WavLM's self-attention: scaled dot products plus a relative position bias, gated by the layer's own input.

    Source: Chen et al., "WavLM", IEEE JSTSP 2022, section III-B, with the published models' simplification that the
    gate is computed from the layer's input, head by head.

    Args:
        attention: transformers' WavLMAttention, whose parameters are taken over under their names.
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

    def keep_heads(self, heads: tuple[int, ...]) -> None:
        """Remember which of the dense model's heads are left; each reads its own slice of input and bias."""
        self.heads = tuple(self.heads[head] for head in heads)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """Attend.

        Args:
            hidden_states: [B, T, D].
            attention_mask: [B, 1, 1, T] bool, True where a frame may be attended to; None for all.
            position_bias: [dense heads, T, T].

        Returns:
            [B, T, D], None in place of the attention weights, and the position bias for the next layer.
        """
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
        return x.index_select(dim, torch.tensor(self.heads, device=x.device))
