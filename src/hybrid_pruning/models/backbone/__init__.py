"""Pretrained encoders, transformers' own, behind one call: a padded batch of waveforms in, all hidden states out."""

from hybrid_pruning.models.backbone.base import Backbone, Hidden
from hybrid_pruning.models.backbone.configs import FAMILIES, build, read_config
from hybrid_pruning.models.backbone.loading import load_config, load_transformers, skeleton, wrap

__all__ = ["FAMILIES", "Backbone", "Hidden", "build", "load_config", "load_transformers"]
__all__ += ["read_config", "skeleton", "wrap"]
