"""Hidden states -> one embedding per utterance -> logits of the classes and, of spoofing, a log-likelihood ratio."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone import Hidden
from hybrid_pruning.models.backbone.base import mask_of
from hybrid_pruning.pruning.attach import scale_gradient
from hybrid_pruning.tasks import Label

MIXTURES = {"key_mix": "keys", "value_mix": "values", "mix": "mixture"}
"""Parameter of a head -> the name of the mixture of hidden states that it weighs."""


class Head(nn.Module):
    """The contract of a head: hidden states [L, B, T, D] with lengths [B] -> embedding [B, E].

    Attributes:
        gradient: factor of the gradient that the hidden states get.
    """

    embedding_width: int
    gradient: float = 1.0

    def forward(self, hidden: Hidden) -> torch.Tensor:
        """Return [B, E]; frames beyond an utterance's length have no influence."""
        raise NotImplementedError

    def mixtures(self) -> dict[str, list[float]]:
        """Return the learnt weight of each hidden state, which sum to 1, in every mixture by name."""
        own = ((name, weights) for name, weights in self.named_parameters(recurse=False) if name in MIXTURES)
        return {MIXTURES[name]: F.softmax(weights.detach().double(), dim=0).tolist() for name, weights in own}


class MHFA(Head):
    """Multi-head factorised attentive pooling.

    Two learnt mixtures of the hidden states serve as keys and values; each head attends over time by its own query.
    Source: Peng et al., "An attention-based backend allowing efficient fine-tuning of transformer models for speaker
    verification", SLT 2022, equations 4-7.

    Args:
        depth: L, the number of hidden states; `width` is D and `embedding` E.
        compression: width that keys and values are compressed to.
        feature_mean: subtract each frame's mean over its features first, as the recipe does.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int = 32,
        compression: int = 128,
        embedding: int = 256,
        feature_mean: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_width, self.feature_mean = embedding, feature_mean
        self.key_mix = nn.Parameter(torch.zeros(depth))
        self.value_mix = nn.Parameter(torch.zeros(depth))
        self.key = nn.Linear(width, compression)
        self.value = nn.Linear(width, compression)
        self.query = nn.Linear(compression, heads)
        self.out = nn.Linear(heads * compression, embedding)

    def forward(self, hidden: Hidden) -> torch.Tensor:
        """Return [B, E]."""
        frames = scale_gradient(hidden.frames, self.gradient)
        key = self.key(_mix(self.key_mix, frames, self.feature_mean))
        value = self.value(_mix(self.value_mix, frames, self.feature_mean))
        attention = self.query(key)  # [B, T, heads]
        if hidden.lengths is not None:
            within = mask_of(hidden.lengths, key.shape[1]).unsqueeze(-1)
            attention = attention.masked_fill(~within, float("-inf"))
            value = value.masked_fill(~within, 0.0)
        pooled = attention.softmax(dim=1).transpose(1, 2) @ value  # [B, heads, compression]
        return self.out(pooled.flatten(1))


class Statistics(Head):
    """The baseline: mean and standard deviation over time of one learnt mixture of the hidden states.

    Source: Snyder et al., "X-vectors", ICASSP 2018, section 2.1. Its arguments are those of `MHFA`.
    """

    def __init__(self, depth: int, width: int, embedding: int = 256, feature_mean: bool = False) -> None:
        super().__init__()
        self.embedding_width, self.feature_mean = embedding, feature_mean
        self.mix = nn.Parameter(torch.zeros(depth))
        self.out = nn.Linear(2 * width, embedding)

    def forward(self, hidden: Hidden) -> torch.Tensor:
        """Return [B, E]."""
        x = _mix(self.mix, scale_gradient(hidden.frames, self.gradient), self.feature_mean)
        return self.out(take_statistics(x, hidden.lengths))


def take_statistics(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """[..., B, T, D] with lengths [B] -> mean and standard deviation over time [..., B, 2D]."""
    size = x.shape[-2]
    lengths = x.new_full((x.shape[-3],), size) if lengths is None else lengths
    within, count = mask_of(lengths, size).unsqueeze(-1), lengths.unsqueeze(1).to(x.dtype)
    x = x.masked_fill(~within, 0.0)
    mean = x.sum(-2) / count
    variance = ((x - mean.unsqueeze(-2)).square() * within).sum(-2) / count
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1)


def build_head(config: HeadConfig, depth: int, width: int) -> Head:
    """Return the head a recipe asks for, on `depth` hidden states of `width`."""
    if config.kind == "statistics":
        return Statistics(depth, width, config.embedding, config.feature_mean)
    return MHFA(depth, width, config.heads, config.compression, config.embedding, config.feature_mean)


def _mix(weights: torch.Tensor, frames: torch.Tensor, feature_mean: bool) -> torch.Tensor:
    """[L] and [L, B, T, D] -> the softmax-weighted sum [B, T, D], where asked for without its mean over D.

    The weights sum to 1, so that subtracting the sum's mean subtracts that of each hidden state.
    """
    x = torch.einsum("l,lbtd->btd", F.softmax(weights, dim=0).to(frames.dtype), frames)
    return x - x.mean(-1, keepdim=True) if feature_mean else x


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of the training data.

    Args:
        labels: their names, in the order of the logits.
        counts: utterances of each in an epoch of the training; their shares are the priors that scores are freed from.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the artifact."""
        return {"labels": list(self.labels), "training_counts": list(self.counts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of `to_json` back; others raise ValueError, KeyError or TypeError."""
        labels, counts = tuple(values["labels"]), tuple(values["training_counts"])
        if len(set(labels)) < 2 or Label.BONAFIDE not in labels:
            raise ValueError(f"the labels are {', '.join(map(str, labels))}: expected '{Label.BONAFIDE}' and others")
        if len(counts) != len(labels) or min(counts) <= 0:
            raise ValueError(f"training counts {counts}: expected one above 0 for each label")
        return cls(labels, counts)


class Affine(nn.Module):
    """[B, E] times a scale plus a shift: a batch norm after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, E]."""
        return x * self.weight + self.bias


class Classifier(nn.Sequential):
    """Embedding [B, E] -> logits [B, classes].

    A layer norm gives the same on any number of processes; the public recipe has a batch norm, of each process's own
    micro-batch. A model converted from that recipe keeps it as a scale and a shift.
    """

    def __init__(self, embedding: int, classes: int, norm: Literal["layer", "batch", "affine"] = "layer") -> None:
        first = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "affine": Affine}[norm](embedding)
        super().__init__(first, nn.ReLU(), nn.Linear(embedding, classes))


def log_likelihood_ratio(logits: torch.Tensor, classes: Classes) -> torch.Tensor:
    """Return log p(x | bona fide) - log p(x | spoof) from logits [B, classes] -> [B]."""
    counts = torch.tensor(classes.counts, dtype=torch.float64)
    free = logits - (counts / counts.sum()).log().float().to(logits)  # of the training's priors
    bonafide = [place for place, label in enumerate(classes.labels) if label == Label.BONAFIDE]
    spoof = [place for place, label in enumerate(classes.labels) if label != Label.BONAFIDE]
    return free[:, bonafide].logsumexp(1) - free[:, spoof].logsumexp(1)
