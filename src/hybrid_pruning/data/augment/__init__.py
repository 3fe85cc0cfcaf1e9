"""Augmentation of training examples: noise, reverberation, RawBoost, codecs, speed and volume; seedable, on CPUs."""

from hybrid_pruning.data.augment.chain import Augmentation, Kind, build_augmentation

__all__ = ["Augmentation", "Kind", "build_augmentation"]
