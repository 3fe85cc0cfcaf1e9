"""What is known of a trial beside its score, and what calibration makes use of: quality measures.

Each is symmetric: the smaller and the larger value of the two sides. Of a speaker enrolled with several recordings the
durations are summed and the lengths of the embeddings averaged.

Source: Thienpondt et al., "The IDLAB VoxSRC-20 Submission: Large Margin Fine-Tuning and Quality-Aware Score Calibration
in DNN Based Speaker Verification", 2021: durations, magnitudes of the embeddings, and the mean of the closest
impostors' scores.
"""

from dataclasses import dataclass

import numpy as np

from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.calibration import QUALITIES
from hybrid_pruning.scoring.verification.cosine import Voices
from hybrid_pruning.scoring.verification.embeddings import Embeddings
from hybrid_pruning.scoring.verification.normalisation import Impostors

SHORTEST_SECONDS = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class VoiceQualities:
    """Quality measures of voices.

    Args:
        log_seconds: [V] natural logarithm of their durations in seconds.
        length: [V] of their embeddings, before centring.
        impostors: what they score with the cohort; None without one.
    """

    log_seconds: FloatArray
    length: FloatArray
    impostors: Impostors | None

    def of_trials(self, pairs: IntArray) -> dict[str, FloatArray]:
        """Return name -> [T] the smaller and the larger of both sides, in the order of `calibration.QUALITIES`."""
        known = {"log-seconds": self.log_seconds, "embedding-length": self.length}
        if self.impostors is not None:
            known["impostor-mean"] = self.impostors.mean
        sides = {name: values[pairs] for name, values in known.items()}
        ends = {"min": np.min, "max": np.max}
        found = {f"{name}-{end}": take(both, axis=1) for name, both in sides.items() for end, take in ends.items()}
        return {name: found[name] for name in QUALITIES if name in found}


def measure_voices(embeddings: Embeddings, voices: Voices, impostors: Impostors | None) -> VoiceQualities:
    """Measure voices.

    Args:
        embeddings: of recordings.
        voices: which recordings make each of them.
        impostors: what the voices score with the cohort.
    """
    lengths = np.linalg.norm(embeddings.vectors, axis=1).astype(np.float64)
    seconds = np.maximum(voices.total(embeddings.seconds), SHORTEST_SECONDS)
    return VoiceQualities(np.log(seconds), voices.average(lengths), impostors)
