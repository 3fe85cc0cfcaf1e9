"""Shapes with random weights for the project's own benchmark, and models cut from them at random."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.pruning import Budget, Constraint, Gates, attach, shrink


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a benchmark: `batch`, `crop_seconds` and `steps` of training; `seconds` and `repeats` of latency.

    `align` divides the widths of one of the models. The backbone of the transformers config has random weights.
    """

    name: str
    config: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    crop_seconds: float = 3.0
    steps: int = 8
    seconds: tuple[float, ...] = (4.0,)
    repeats: int = 12
    align: int = 16


BASE = Scale("WavLM Base", {"model_type": "wavlm"})
TINY = Scale(
    "A tiny WavLM, too small to judge by",
    {
        "model_type": "wavlm",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
    head={"heads": 4, "compression": 8, "embedding": 16},
    batch=2,
    crop_seconds=0.5,
    steps=3,
    seconds=(0.5,),
    repeats=3,
    align=4,
)


def shrunk(
    backbone: Backbone, target_sparsity: float, seed: int = 0, constraint: Constraint = "params", align: int = 1
) -> tuple[Backbone, Budget]:
    """Return a copy without a fraction of its parameters or MACs (4 s), and its exact size beside the dense one.

    The kept units are random, as after a training that pressed on channels, heads and neurons alike and closed no
    whole layer; trained gates may choose otherwise, and the time follows the MACs they keep. Widths are multiples of
    `align`.
    """
    gated = copy.deepcopy(backbone)
    gates = attach(gated, align=align)
    _scatter(gates, target_sparsity, seed, constraint)
    kept = gates.kept(target_sparsity, constraint)
    return shrink(gated, gates, kept).eval(), gates.accounting.exact_kept(kept)


@torch.no_grad()
def _scatter(gates: Gates, target_sparsity: float, seed: int, constraint: Constraint) -> None:
    """Set every log_alpha at random around the level where the expected sparsity is the target; layers stay open."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [gate for gate in gates.values() if gate.slot.size > 1]
    noise = [torch.randn(gate.slot.size, generator=generator) for gate in chosen]
    low, high = -20.0, 20.0
    for _ in range(40):
        level = (low + high) / 2
        for gate, values in zip(chosen, noise, strict=True):
            gate.log_alpha.copy_(values + level)
        low, high = (level, high) if gates.budget().removed(constraint) > target_sparsity else (low, level)
