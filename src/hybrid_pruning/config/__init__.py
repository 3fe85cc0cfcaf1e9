"""A recipe: YAML plus `--set a.b=c` -> one checked, complete configuration."""

from hybrid_pruning.config.augmentation import AugmentConfig, CodecConfig, CodecName, RawBoostConfig
from hybrid_pruning.config.loading import check_config, expand_stages, load_config, save_config
from hybrid_pruning.config.recipe import (
    BackboneConfig,
    Config,
    CorpusConfig,
    DataConfig,
    HeadConfig,
    ObjectiveConfig,
    PruningConfig,
    TaskName,
    TrainingConfig,
)

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
    "TaskName",
    "TrainingConfig",
    "check_config",
    "expand_stages",
    "load_config",
    "save_config",
]
