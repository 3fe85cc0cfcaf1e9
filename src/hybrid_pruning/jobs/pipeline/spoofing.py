"""Anti-spoofing in a job: every utterance has a score, and speakers with their spoofs are resampled."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_pruning.config import Config
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.score_files import read_trials
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.data.tracks import TRACK1
from hybrid_pruning.evaluation import Evaluation, Request, evaluate
from hybrid_pruning.evaluation.fitting import fit_calibration
from hybrid_pruning.jobs.pipeline.judge import DEV, ROUNDS
from hybrid_pruning.jobs.stages import Stage
from hybrid_pruning.models.calibration import Fit
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.embedder import choose_device
from hybrid_pruning.scoring.scores import score_file
from hybrid_pruning.tasks import Label

GROUPS = ("attack", "codec", "codec_quality", "gender", "source")
"""Columns an evaluation is broken down by, where they have more than one value."""


class DetectionJudge:
    """The `Judge` of anti-spoofing.

    Args:
        config: the job's recipe.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sets: Mapping[str, tuple[Path, ...]] = {
            name: (manifest,) for name, manifest in {DEV: config.data.dev, **config.data.eval}.items()
        }
        self.trained: tuple[Path, ...] = ()

    def complete(self, *_: object) -> tuple[Stage, ...]:
        """Nothing: a detector scores as it is."""
        return ()

    def score(self, name: str, model: Path, out: Path, _: str) -> object:
        """Score the utterances of a set."""
        network = SpeechModel.from_pretrained(model).to(choose_device())
        return score_file(network, self._manifest(name), out, self.config.training.batch_size, self.config.data.workers)

    def fit(self, scores: Path) -> Fit:
        """Return scale and offset of the dev set's scores."""
        keys = self._manifest(DEV)
        return fit_calibration(read_trials(scores, keys, TRACK1), TRACK1, scores, keys)

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return the figures of ASVspoof 5's track 1, broken down by what is known of the spoofs."""
        manifest = self._manifest(name)
        return evaluate(TRACK1, scores, manifest, Request(rounds=ROUNDS, by=_known_groups(manifest)))

    def join(self, name: str, scores: Path) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """Return scores with labels, speakers and groups."""
        found = {row["filename"]: row["cm-score"] for _, row in read_rows(scores, ("filename", "cm-score"))}
        columns = ("filename", "cm-score", "cm-label", "speaker", *GROUPS)
        utterances = read_manifest(self._manifest(name))
        return columns, [
            (u.utt_id, found[u.utt_id], u.label, u.speaker, *(getattr(u, group) for group in GROUPS))
            for u in utterances
        ]

    def _manifest(self, name: str) -> Path:
        return self.sets[name][0]


def _known_groups(manifest: Path) -> list[tuple[str, ...]]:
    """The columns in which spoofs differ: bona fide speech has no attack, and that is no group."""
    spoofs = [utterance for utterance in read_manifest(manifest) if utterance.label == Label.SPOOF]
    return [(column,) for column in GROUPS if len({getattr(utterance, column) for utterance in spoofs}) > 1]
