"""Checkpoints of other programs: WeDefense, DPHuBERT and DiariZen files, pruned or still gated, read strictly.

Nothing in a file is executed, and every tensor in it is accounted for.
"""

from .encoder import read_backbone
from .places import find_backbone, find_model, locate_model
from .recipe import RecipeModel, read_model

__all__ = ["RecipeModel", "find_backbone", "find_model", "locate_model", "read_backbone", "read_model"]
