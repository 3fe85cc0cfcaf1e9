"""The classes of an anti-spoofing model, its classifier, and its logits' log-likelihood ratio of bona fide speech."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import nn

from hybrid_pruning.tasks import Label


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of the training data.

    Args:
        labels: their names, in the order of the logits.
        counts: utterances of each in the training data; their shares are the priors that scores are freed from.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def check(self) -> None:
        """Raise ValueError unless there are bona fide speech, another class, and a count for each."""
        if len(set(self.labels)) < 2 or Label.BONAFIDE not in self.labels:
            raise ValueError(
                f"the labels are {', '.join(map(str, self.labels))}: expected '{Label.BONAFIDE}' and others"
            )
        if len(self.counts) != len(self.labels) or min(self.counts) <= 0:
            raise ValueError(f"training counts {self.counts}: expected one above 0 for each label")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the artifact."""
        return {"labels": list(self.labels), "training_counts": list(self.counts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of `to_json` back; others raise ValueError, KeyError or TypeError."""
        classes = cls(tuple(values["labels"]), tuple(values["training_counts"]))
        classes.check()
        return classes

    def log_priors(self) -> torch.Tensor:
        """Return the [classes] logarithms of the training priors."""
        counts = torch.tensor(self.counts, dtype=torch.float64)
        return (counts / counts.sum()).log().float()


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

    A layer norm takes the place of the recipe's batch norm: it gives the same on any number of processes. A model that
    was trained with the recipe keeps its batch norm as a scale and a shift.
    """

    def __init__(self, embedding: int, classes: int, norm: Literal["layer", "affine"] = "layer") -> None:
        first = nn.LayerNorm(embedding) if norm == "layer" else Affine(embedding)
        super().__init__(first, nn.ReLU(), nn.Linear(embedding, classes))


def log_likelihood_ratio(logits: torch.Tensor, classes: Classes) -> torch.Tensor:
    """Return log p(x | bona fide) - log p(x | spoof) from logits [B, classes] -> [B]."""
    free = logits - classes.log_priors().to(logits)
    bonafide = [place for place, label in enumerate(classes.labels) if label == Label.BONAFIDE]
    spoof = [place for place, label in enumerate(classes.labels) if label != Label.BONAFIDE]
    return free[:, bonafide].logsumexp(1) - free[:, spoof].logsumexp(1)
