"""Checkpoints of other programs: WeDefense, DPHuBERT and DiariZen files, pruned or still gated, read strictly.

Nothing in a file is executed, and every tensor in it is accounted for.
"""

from .encoder import build_backbone, read_backbone
from .places import find_backbone, find_model, locate_model
from .reading import Checkpoint, read_checkpoint
from .recipe import RecipeModel, build_model, provenance_of, read_model

__all__ = [
    "Checkpoint",
    "RecipeModel",
    "build_backbone",
    "build_model",
    "find_backbone",
    "find_model",
    "locate_model",
    "provenance_of",
    "read_backbone",
    "read_checkpoint",
    "read_model",
]
