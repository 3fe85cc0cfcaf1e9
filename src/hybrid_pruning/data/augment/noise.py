"""Noise, music and babble from recordings, added at a signal-to-noise ratio drawn by lot.

Source: Snyder, Chen, Povey, "MUSAN: A Music, Speech, and Noise Corpus", arXiv 1510.08484. The ranges are those of
common VoxCeleb recipes (e.g. TaoRuijie/ECAPA-TDNN): noise 0-15 dB, music 5-15 dB, babble of 3 to 8 voices at 13-20 dB
each. Kaldi's draws from values within them (noise 0, 5, 10, 15; music 5, 8, 10, 15; 3 to 7 voices at 13, 15, 17, 20).
"""

from dataclasses import dataclass

import numpy as np

from hybrid_pruning.data.augment.recordings import AudioFolder
from hybrid_pruning.data.augment.transform import Wave, at_snr


@dataclass(frozen=True)
class Noise:
    """Adds recordings; the wave keeps its own level.

    Args:
        recordings: what is drawn from; no recording twice at a time, while there are enough.
        snr_db: range of the signal-to-noise ratio of each recording, of mean powers over the whole example.
        voices: range of how many are added at a time.
    """

    recordings: AudioFolder
    snr_db: tuple[float, float]
    voices: tuple[int, int] = (1, 1)

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] with the recordings added."""
        count = int(rng.integers(self.voices[0], self.voices[1] + 1))
        chosen = rng.choice(len(self.recordings), count, replace=count > len(self.recordings))
        total = wave.copy()
        for index in chosen:
            piece = self.recordings.piece(int(index), len(wave), rng)
            total += at_snr(piece, wave, rng.uniform(*self.snr_db))
        return total
