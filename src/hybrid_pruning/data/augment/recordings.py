"""A folder of recordings to augment with: listed once, in an order of its own, read piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import audio_samples, read_audio
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.augment.transform import Wave
from hybrid_pruning.data.names import hidden_line, list_recordings
from hybrid_pruning.errors import InputError


@dataclass(frozen=True, eq=False)
class AudioFolder:
    """Every recording below a folder.

    Args:
        folder: where they lie.
        names: their paths below it, sorted, so that the order is not the file system's.
        samples: [N] their lengths in samples at 16 kHz.
    """

    folder: Path
    names: tuple[str, ...]
    samples: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Return where a recording lies."""
        return self.folder / self.names[index]

    def piece(self, index: int, samples: int, rng: np.random.Generator) -> Wave:
        """Return [samples] of a recording from a place drawn by lot; what is too short is repeated from its start."""
        spare = max(int(self.samples[index]) - samples, 0)
        start = int(rng.integers(spare + 1))
        return np.resize(read_audio(self.path(index), start, samples), samples)


def list_folder(folder: Path, key: str) -> AudioFolder:
    """List the recordings below a folder by their headers; what cannot be read is left out and told in one line.

    Args:
        folder: searched at any depth for files with the suffixes of sound files.
        key: of the recipe, for messages, e.g. ``augment.noise.folder``.
    """
    if not folder.is_dir():
        raise InputError(f"{key}: {folder} is not a folder; name one with recordings in it")
    hidden: list[str] = []
    found = sorted(list_recordings(folder, hidden))
    lengths = dict(_readable(folder, found, key))
    if not lengths:
        raise InputError(f"{key}: {folder} holds no recording that can be read")
    if hidden and processes.is_main():
        say(f"{key}: {hidden_line(hidden)[0]}")
    if len(lengths) < len(found) and processes.is_main():
        first = next(name for name in found if name not in lengths)
        left_out = f"{len(found) - len(lengths)} of {len(found)} files left out, no audio"
        say(f"{key}: {left_out}, e.g. {first}")
    return AudioFolder(folder, tuple(lengths), np.array(list(lengths.values()), dtype=np.int64))


def _readable(folder: Path, names: list[str], key: str) -> Iterator[tuple[str, int]]:
    with progress_bar() as bar:
        for name in bar.track(names, description=f"listing {key}"):
            try:
                samples = audio_samples(folder / name)
            except InputError:
                continue
            if samples > 0:
                yield name, samples
