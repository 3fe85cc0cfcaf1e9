"""What each kind of augmentation costs, over what decoding the clip from flac costs: ratios from one run."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import soundfile

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.data.augment.transform import Transform, Wave

ROUNDS = 9


def measure_costs(wave: Wave, transforms: Mapping[str, Transform], folder: Path) -> dict[str, float]:
    """Return the median processor time of each transform on a wave [S], by title, over that of decoding it from flac.

    Kinds take turns, round after round, so that whatever else the machine does meets all of them.

    Args:
        wave: what is augmented.
        transforms: by title.
        folder: where the wave is written as flac.
    """
    path = folder / "clip.flac"
    soundfile.write(path, wave, SAMPLE_RATE_HZ)
    rng = np.random.default_rng(0)
    tasks: dict[str, Callable[[], object]] = {"decoding": lambda: read_audio(path)}
    tasks |= {title: _task(transform, wave, rng) for title, transform in transforms.items()}
    seconds: dict[str, list[float]] = {title: [] for title in tasks}
    for title, task in [*tasks.items()] * ROUNDS:
        started = _processor_seconds()
        task()
        seconds[title].append(_processor_seconds() - started)
    decoding = float(np.median(seconds.pop("decoding")))
    return {title: float(np.median(times)) / decoding for title, times in seconds.items()}


def _processor_seconds() -> float:
    """What this process and those it waited for have used."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _task(transform: Transform, wave: Wave, rng: np.random.Generator) -> Callable[[], object]:
    return lambda: transform(wave, rng)
