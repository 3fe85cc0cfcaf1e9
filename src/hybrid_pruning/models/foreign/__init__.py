"""Checkpoints of other programs: WeDefense, DPHuBERT and DiariZen files, pruned or still gated, read strictly.

Nothing in a file is executed, and every tensor in it is accounted for.
"""

from hybrid_pruning.models.foreign.checkpoint import (
    Checkpoint,
    find_backbone,
    find_model,
    locate_model,
    read_checkpoint,
)
from hybrid_pruning.models.foreign.encoder import build_backbone
from hybrid_pruning.models.foreign.wedefense import LABELS, RecipeModel, build_model, provenance_of

__all__ = [
    "LABELS",
    "Checkpoint",
    "RecipeModel",
    "build_backbone",
    "build_model",
    "find_backbone",
    "find_model",
    "locate_model",
    "provenance_of",
    "read_checkpoint",
]
