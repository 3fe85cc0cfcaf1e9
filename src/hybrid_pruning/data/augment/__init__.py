"""The augmentation of a recipe: a random choice of its kinds for each example, in the order a sound takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import AugmentConfig
from hybrid_pruning.console import say
from hybrid_pruning.data.augment.codec import Codec
from hybrid_pruning.data.augment.effects import Noise, Reverberation, Speed, Transform, Volume, Wave, limit, list_folder
from hybrid_pruning.data.augment.rawboost import RawBoost
from hybrid_pruning.errors import InputError


@dataclass(frozen=True)
class Kind:
    """A transform, and how likely it is."""

    name: str
    probability: float
    transform: Transform


class Augmentation:
    """Augments one training example.

    Levels are the transforms' own (noise is added to an untouched wave, reverberation keeps the energy); a result that
    would exceed full scale is scaled down as a whole, never clipped.

    Args:
        probability: of an example to be augmented at all.
        choose: `one` of the kinds, in proportion to their probabilities, or `each` by its own, in their order.
    """

    def __init__(self, kinds: Sequence[Kind], probability: float, choose: Literal["one", "each"]) -> None:
        self.kinds, self.probability, self.choose = tuple(kinds), probability, choose

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] float32 at 16 kHz augmented, as long as it was; silence stays finite."""
        if rng.random() >= self.probability:
            return wave
        probabilities = np.array([kind.probability for kind in self.kinds])
        if self.choose == "one":
            kinds = [self.kinds[int(rng.choice(len(self.kinds), p=probabilities / probabilities.sum()))]]
        else:
            kinds = [self.kinds[place] for place in np.flatnonzero(rng.random(len(self.kinds)) < probabilities)]
        for kind in kinds:
            wave = limit(kind.transform(wave, rng))
        return wave

    def __str__(self) -> str:
        """A line for the log, e.g. ``80% of the examples by one of noise 50%, reverberation 50%``."""
        total = sum(kind.probability for kind in self.kinds) if self.choose == "one" else 1.0
        kinds = ", ".join(f"{kind.name} {kind.probability / total:.0%}" for kind in self.kinds)
        return f"{self.probability:.0%} of the examples by {'one of' if self.choose == 'one' else 'each of'} {kinds}"


def build_augmentation(config: AugmentConfig) -> Augmentation | None:
    """Build a recipe's augmentation, with every folder listed and every codec tried; None where it has none."""
    sections = {name: getattr(config, name) for name in BUILDERS}
    asked = {name: section for name, section in sections.items() if section is not None and section.probability > 0}
    if not asked and 0 < config.probability < 1:
        raise InputError(
            f"augment.probability: {config.probability} of the examples should be augmented, but no kind is there; "
            f"add one of {', '.join(BUILDERS)}"
        )
    if not asked or config.probability == 0:
        return None
    kinds = [Kind(name, section.probability, BUILDERS[name](section)) for name, section in asked.items()]
    augmentation = Augmentation(kinds, config.probability, config.choose)
    if processes.is_main():
        say(f"augmenting {augmentation}")
    return augmentation


# In the order a sound takes: the speaker, the room, others in it, the microphone, the line, the listener.
BUILDERS: Mapping[str, Callable[[Any], Transform]] = {
    "speed": lambda section: Speed(section.factors),
    "reverberation": lambda section: Reverberation(list_folder(section.folder, "augment.reverberation.folder")),
    "noise": lambda section: Noise(list_folder(section.folder, "augment.noise.folder"), section.snr_db),
    "music": lambda section: Noise(list_folder(section.folder, "augment.music.folder"), section.snr_db),
    "babble": lambda one: Noise(list_folder(one.folder, "augment.babble.folder"), one.snr_db, one.speakers),
    "rawboost": RawBoost,
    "codec": lambda section: Codec(section.codecs),
    "volume": lambda section: Volume(section.gain_db),
}
