"""A recipe: YAML plus `--set a.b=c` -> one checked, complete configuration."""

from hybrid_pruning.config.recipe import (
    AugmentConfig,
    BackboneConfig,
    CodecConfig,
    CodecName,
    Config,
    CorpusConfig,
    DataConfig,
    HeadConfig,
    ObjectiveConfig,
    PruningConfig,
    RawBoostConfig,
    TrainingConfig,
)
from hybrid_pruning.config.recipe_files import check_config, expand_stages, load_config, save_config

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "CodecConfig",
    "CodecName",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "HeadConfig",
    "ObjectiveConfig",
    "PruningConfig",
    "RawBoostConfig",
    "TrainingConfig",
    "check_config",
    "expand_stages",
    "load_config",
    "save_config",
]
