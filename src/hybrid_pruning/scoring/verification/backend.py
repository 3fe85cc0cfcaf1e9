"""Embeddings -> scores of trials: centre, compare, normalise, calibrate, in this order.

cosine      of embeddings less the cohort's mean, or of the embeddings themselves where there is no cohort
AS-norm     against the cohort (`normalisation.py`), unless it is declined
calibration a log-likelihood ratio of the score and of the trial's quality measures (`qualities.py`): last, as it
            is fitted on normalised scores and two of the measures are by-products of AS-norm
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.calibration import Calibration
from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.verification.cosine import Voices, average_directions, score_cosines, to_directions
from hybrid_pruning.scoring.verification.embeddings import Embeddings
from hybrid_pruning.scoring.verification.normalisation import find_impostors
from hybrid_pruning.scoring.verification.qualities import measure_voices


@dataclass(frozen=True, slots=True)
class Backend:
    """What stands between a model's embeddings and the scores of trials.

    Args:
        cohort: of the model, or another; None for plain cosines.
        normalise: whether scores are normalised against it, and not only centred with its mean.
        calibration: of scores that were made with this very cohort; None for scores as they are.
    """

    cohort: Cohort | None = None
    normalise: bool = True
    calibration: Calibration | None = None

    @classmethod
    def of(cls, model: Embedder) -> Self:
        """Return a model's own.

        Raises:
            InputError: it is calibrated by quality measures of a cohort that it does not have.
        """
        backend = cls(model.cohort, model.cohort is not None, model.calibration)
        if model.calibration is not None and model.cohort is None and _needs_cohort(model.calibration):
            raise InputError(
                "the model is calibrated by how close its cohort comes, but has none; give it the cohort it had"
            )
        return backend

    def score(
        self, embeddings: Embeddings, voices: Voices, pairs: IntArray
    ) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return [T] scores of trials, and their quality measures by name, [T] each.

        Args:
            embeddings: of recordings.
            voices: made of them.
            pairs: [T, 2] the voices that each trial compares.

        Raises:
            InputError: an embedding is the mean itself, or all closest speakers of the cohort are one to a voice.
        """
        mean = None if self.cohort is None else self.cohort.mean
        directions = average_directions(to_directions(embeddings.vectors, embeddings.ids, mean), voices)
        scores, impostors = score_cosines(directions, pairs), None
        if self.cohort is not None and self.normalise:
            impostors = find_impostors(directions, voices.names, self.cohort)
            scores = impostors.normalise(scores, pairs)
        qualities = measure_voices(embeddings, voices, impostors).of_trials(pairs)
        if self.calibration is not None:
            scores = self.calibration.apply(scores, qualities)
        return np.asarray(scores, dtype=np.float64), qualities

    def __str__(self) -> str:
        parts = ["cosine"]
        if self.cohort is not None:
            parts.append(f"less the mean of {self.cohort.source}")
        if self.cohort is not None and self.normalise:
            parts.append(f"AS-norm with the {self.cohort.top_n} closest of its {len(self.cohort.speakers):,} speakers")
        parts.append("not calibrated" if self.calibration is None else "calibrated")
        return ", ".join(parts)


def _needs_cohort(calibration: Calibration) -> bool:
    return any(name.startswith("impostor-mean") for name in calibration.qualities)
