"""What a job does otherwise for one task than for another: how a model comes to its scores, and what they are worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hybrid_pruning.evaluation import Evaluation
from hybrid_pruning.jobs.stages import Stage
from hybrid_pruning.models.calibration import Fit

DEV = "dev"
ROUNDS = 1000
"""Of resampling for the intervals of an evaluation."""


class Judge(Protocol):
    """What makes scores of a model, and figures of scores, on the evaluation sets of a job.

    Attributes:
        sets: name of each set, `dev` the first -> what decides its scores beside the model: its manifest, then lists.
        trained: lists beside the manifests that a training depends on.
    """

    sets: Mapping[str, tuple[Path, ...]]
    trained: tuple[Path, ...]

    def complete(self, model: Path, exported: Stage, member: str, /) -> tuple[Stage, ...]:
        """Return what has to be done with an exported model before it can score.

        Args:
            model: its folder.
            exported: the stage that wrote it.
            member: its name where it is a snapshot of the run, otherwise nothing.
        """

    def score(self, name: str, model: Path, out: Path, member: str, /) -> object:
        """Write the scores of a set by a model, on all processes of the job."""

    def fit(self, scores: Path) -> Fit:
        """Return the calibration of the dev set's scores."""

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return what the scores of a set are worth, with intervals."""

    def join(self, name: str, scores: Path) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """Return columns and rows of a set's scores with their keys."""
