"""The steps of a job that differ between anti-spoofing and speaker verification.

Anti-spoofing: every utterance has a score; speakers with their spoofs are resampled.

Speaker verification: a model gets its cohort first, the mean and speaker means of its training data, of which the
`TOP_N` closest count in AS-norm, or all where there are fewer. The recordings of every manifest that has lists of
trials are then embedded, once for all lists over one manifest. A score is the cosine less the mean, AS-norm, and the
calibration. Calibration is a scale and an offset alone, so that EER and minDCF are those of cosine and AS-norm, which
the paper reports; the trials' quality measures stand in the uncalibrated dev scores for `calibrate`.

Source: Peng et al., "Hybrid Pruning", ICASSP 2026: the mean is subtracted, AS-norm takes the 300 closest speakers. The
public code embeds random 3 s crops of the cohort and averages them raw; here whole recordings of unit length.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config
from hybrid_pruning.data.manifest import UNKNOWN, read_manifest, write_manifest
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.data.trainset import read_trainset
from hybrid_pruning.data.trials import read_pairs, read_trials
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, evaluate
from hybrid_pruning.jobs.steps import Step
from hybrid_pruning.models.cohort import FILE as COHORT
from hybrid_pruning.models.cohort import TOP_N
from hybrid_pruning.scoring.embeddings import embed_utterances
from hybrid_pruning.scoring.engine import Engine, load_embedder
from hybrid_pruning.scoring.scores import score
from hybrid_pruning.scoring.trial_scores import add_cohort, plan_trials, score_trials
from hybrid_pruning.tasks import Label

DEV = "dev"
ROUNDS = 1000
"""Of resampling for intervals."""
GROUPS = ("attack", "codec", "codec_quality", "gender", "source")
"""Columns by which anti-spoofing is broken down, where spoofs have more than one value."""

Rows = tuple[Sequence[str], Sequence[Sequence[object]]]
"""The columns of a table, and its rows."""


class TaskSteps(Protocol):
    """The part of a job that depends on its task.

    Attributes:
        sets: name of each evaluation set, `dev` the first -> the files that decide its scores beside the model: its
            manifest, then its trials. The last one holds the keys.
        trained: lists beside the manifests that a training depends on.
    """

    sets: Mapping[str, tuple[Path, ...]]
    trained: tuple[Path, ...]

    def complete(self, model: Path, exported: Step, snapshot: str, /) -> tuple[Step, ...]:
        """Return the steps between the export of a model and its first score; `snapshot` is empty for the last one."""

    def score(self, name: str, model: Path, out: Path, snapshot: str, /) -> object:
        """Write the scores of a set by a model, on all processes of the job."""

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return the metrics of a set's scores, with intervals."""

    def join(self, name: str, scores: Path) -> Rows:
        """Return a set's scores with their keys."""


class AntiSpoofing:
    """The `TaskSteps` of anti-spoofing."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.trained: tuple[Path, ...] = ()
        manifests = {DEV: config.data.dev, **config.data.eval}
        self.sets: Mapping[str, tuple[Path, ...]] = {name: (manifest,) for name, manifest in manifests.items()}

    def complete(self, *_: object) -> tuple[Step, ...]:
        """Return none: a detector scores as it is."""
        return ()

    def score(self, name: str, model: Path, out: Path, _: str) -> object:
        """Score the utterances of a set."""
        return score(model, self.sets[name][0], out, self.config.training.batch_size, self.config.data.workers)

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return the metrics of ASVspoof 5's track 1, by the columns in which the spoofs differ."""
        manifest = self.sets[name][0]
        spoofs = [utterance for utterance in read_manifest(manifest) if utterance.label is Label.SPOOF]
        by = [column for column in GROUPS if len({getattr(spoof, column) for spoof in spoofs}) > 1]
        return evaluate(scores, manifest, TRACK1, rounds=ROUNDS, by=by)

    def join(self, name: str, scores: Path) -> Rows:
        """Return scores with labels, speakers and groups."""
        found = {row["filename"]: row["cm-score"] for _, row in read_rows(scores, ("filename", "cm-score"))}
        return ("filename", "cm-score", "cm-label", "speaker", *GROUPS), [
            (u.utt_id, found[u.utt_id], u.label, u.speaker, *(getattr(u, group) for group in GROUPS))
            for u in read_manifest(self.sets[name][0])
        ]


class SpeakerVerification:
    """The `TaskSteps` of speaker verification; embeddings and the cohort's manifest go into the job's folder."""

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out = config, out
        manifests, trials = {DEV: config.data.dev, **config.data.eval}, config.data.trials
        for name, manifest in manifests.items():
            if name not in trials:
                raise InputError(f"data.trials.{name} is missing: give the trials over {manifest}, or drop that set")
        if strangers := [name for name in trials if name not in manifests]:
            raise InputError(
                f"data.trials.{strangers[0]}: there is no data.eval.{strangers[0]}, the manifest they are of"
            )
        self.sets: Mapping[str, tuple[Path, ...]] = {name: (manifests[name], trials[name]) for name in manifests}
        self.trained: tuple[Path, ...] = (trials[DEV],)

    def complete(self, model: Path, exported: Step, snapshot: str) -> tuple[Step, ...]:
        """Return the steps of the model's cohort and of the embeddings of each manifest."""
        by, data = f" by {snapshot}" if snapshot else "", self.config.data
        drawn = {"top_n": TOP_N, "fraction": data.fraction, "fraction_of": data.fraction_of, "seed": self.config.seed}
        add, cohort = partial(self._add_cohort, model), (model / COHORT,)
        steps = [Step(f"cohort{by}", add, cohort, drawn, (data.train,), (exported,), shared=True)]
        for manifest in dict.fromkeys(manifest for manifest, _ in self.sets.values()):
            names = [name for name, files in self.sets.items() if files[0] == manifest]
            inputs, cache = (manifest, *(self.sets[name][1] for name in names)), self._cache(names[0], snapshot)
            embed = partial(self._embed, model, *inputs, cache=cache)
            steps.append(Step(f"embed {', '.join(names)}{by}", embed, (cache,), {}, inputs, (exported,), shared=True))
        return tuple(steps)

    def score(self, name: str, model: Path, out: Path, snapshot: str) -> object:
        """Score the trials of a set, with their quality measures as long as nothing is calibrated."""
        engine, (manifest, trials) = self._engine(model), self.sets[name]
        raw = engine.model.calibration is None
        return score_trials(engine, manifest, trials, out, cache=self._cache(name, snapshot), qualities=raw)

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return EER and minDCF; speakers are resampled where the manifest names them all."""
        manifest, trials = self.sets[name]
        named = all(utterance.speaker not in (UNKNOWN, "") for utterance in read_manifest(manifest))
        return evaluate(scores, trials, SV, rounds=ROUNDS, speakers=manifest if named else None)

    def join(self, name: str, scores: Path) -> Rows:
        """Return scores with the labels of the trials."""
        found = read_trials(scores, self.sets[name][1], SV)
        values, labels = map(repr, found.scores[SV.scores].tolist()), found.classes.tolist()
        return (*SV.trial, SV.scores, "label"), list(zip(*found.names, values, labels, strict=True))

    def _cache(self, name: str, snapshot: str) -> Path:
        """Return the embeddings of a set's manifest, named after the first set that has it."""
        first = next(other for other, files in self.sets.items() if files[0] == self.sets[name][0])
        return self.out / "embeddings" / snapshot / f"{first}.safetensors"

    def _embed(self, model: Path, manifest: Path, *lists: Path, cache: Path) -> None:
        """Embed the recordings of a manifest that any of the lists needs; older embeddings are of another model."""
        processes.from_main(lambda: cache.unlink(missing_ok=True))
        utterances = read_manifest(manifest)
        needed = {u.utt_id: u for path in lists for u in plan_trials(read_pairs(path), manifest, utterances).utterances}
        embed_utterances(self._engine(model), list(needed.values()), cache, cache)

    def _add_cohort(self, folder: Path) -> None:
        """Add the cohort of the training data that were used to a model."""
        manifest, speakers = processes.from_main(self._trained_on)
        batch_size, workers = self.config.training.batch_size, self.config.data.workers
        add_cohort(folder, manifest, None, min(TOP_N, speakers), batch_size, workers)

    def _engine(self, model: Path) -> Engine:
        return Engine(load_embedder(model), self.config.training.batch_size, self.config.data.workers)

    def _trained_on(self) -> tuple[Path, int]:
        """Return the manifest of the training data that were used, and its number of speakers."""
        utterances, manifest = read_trainset(self.config), self.config.data.train
        if self.config.data.fraction < 1:
            manifest = self.out / "cohort.tsv"
            write_manifest(manifest, utterances)
        return manifest, len({utterance.speaker for utterance in utterances})
