"""Folders of recordings, listed once and read piece by piece, and their addition as noise, music or babble.

Source: Snyder, Chen, Povey, "MUSAN: A Music, Speech, and Noise Corpus", arXiv 1510.08484. The ranges are those of
common VoxCeleb recipes (e.g. TaoRuijie/ECAPA-TDNN): noise 0-15 dB, music 5-15 dB, babble of 3 to 8 voices at 13-20 dB
each. Kaldi's draws from values within them (noise 0, 5, 10, 15; music 5, 8, 10, 15; 3 to 7 voices at 13, 15, 17, 20).
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import audio_samples, read_audio
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.augment.transform import Wave, at_snr
from hybrid_pruning.data.names import hidden_line, list_recordings
from hybrid_pruning.errors import InputError


@dataclass(frozen=True, eq=False)
class AudioFolder:
    """Every recording below a folder: their paths, sorted, and lengths [N] in samples at 16 kHz."""

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
        start = int(rng.integers(max(int(self.samples[index]) - samples, 0) + 1))
        return np.resize(read_audio(self.path(index), start, samples), samples)


def list_folder(folder: Path, key: str) -> AudioFolder:
    """List the recordings below a folder by their headers; those that cannot be read are left out, with one line."""
    if not folder.is_dir():
        raise InputError(f"{key}: {folder} is not a folder; name one with recordings in it")
    hidden: list[str] = []
    found = sorted(list_recordings(folder, hidden))
    lengths: dict[str, int] = {}
    with progress_bar() as bar:
        for name in bar.track(found, description=f"listing {key}"):
            with suppress(InputError):
                if samples := audio_samples(folder / name):
                    lengths[name] = samples
    if not lengths:
        raise InputError(f"{key}: {folder} holds no recording that can be read")
    if hidden and processes.is_main():
        say(f"{key}: {hidden_line(hidden)[0]}")
    left_out = [name for name in found if name not in lengths]
    if left_out and processes.is_main():
        say(f"{key}: {len(left_out)} of {len(found)} files left out, no audio, e.g. {left_out[0]}")
    return AudioFolder(folder, tuple(lengths), np.array(list(lengths.values()), dtype=np.int64))


@dataclass(frozen=True)
class Noise:
    """Adds recordings, none twice at a time while there are enough; the wave keeps its own level.

    Args:
        snr_db: range of the signal-to-noise ratio of each recording, of mean powers over the whole example.
        voices: range of how many are added at a time.
    """

    recordings: AudioFolder
    snr_db: tuple[float, float]
    voices: tuple[int, int] = (1, 1)

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] with the recordings added."""
        count = int(rng.integers(self.voices[0], self.voices[1] + 1))
        total = wave.copy()
        for index in rng.choice(len(self.recordings), count, replace=count > len(self.recordings)):
            piece = self.recordings.piece(int(index), len(wave), rng)
            total += at_snr(piece, wave, rng.uniform(*self.snr_db))
        return total
