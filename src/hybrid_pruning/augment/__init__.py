"""Augmentation of training examples: noise, reverberation, RawBoost, codecs, speed and volume; seedable, on CPUs."""

from hybrid_pruning.augment.augmentation import Augmentation, Kind, build_augmentation

__all__ = ["Augmentation", "Kind", "build_augmentation"]
