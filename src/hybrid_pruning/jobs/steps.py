"""The steps of a job, each done once and again when its inputs change; those in which the tasks differ.

Anti-spoofing: every utterance has a score; speakers with their spoofs are resampled.

Speaker verification: a model gets its cohort first, of which the `TOP_N` closest speakers count in AS-norm. The
recordings of every manifest with lists of trials are then embedded once. Calibration is a scale and an offset alone, so
that EER and minDCF are those of cosine and AS-norm, which the paper reports.

Source: Peng et al., "Hybrid Pruning", ICASSP 2026: the mean is subtracted, AS-norm takes the 300 closest speakers. The
public code embeds random 3 s crops of the cohort and averages them raw; here whole recordings of unit length, unless
the recipe's section `cohort` asks for the former.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config, by_name
from hybrid_pruning.console import say
from hybrid_pruning.data.manifest import CORPUS, UNKNOWN, qualify, read_manifest, write_manifest
from hybrid_pruning.data.tables import read_rows, write_table
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.data.trainset import read_trainset
from hybrid_pruning.data.trials import read_keys, read_pairs, read_trials
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, evaluate
from hybrid_pruning.files import digest_file, write_json
from hybrid_pruning.models.cohort import FILE as COHORT
from hybrid_pruning.models.cohort import TOP_N
from hybrid_pruning.scoring.embeddings import embed_utterances
from hybrid_pruning.scoring.engine import Engine, load_embedder
from hybrid_pruning.scoring.scores import score
from hybrid_pruning.scoring.trial_scores import add_cohort, plan_trials, score_trials
from hybrid_pruning.tasks import Label
from hybrid_pruning.trees import read_json

DEV = "dev"
ROUNDS = 1000
"""Of resampling for intervals."""
GROUPS = ("attack", "codec", "codec_quality", "gender", "source", CORPUS)
"""Columns by which anti-spoofing is broken down, where spoofs have more than one value."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job, of a unique name.

    Args:
        settings: plain values that decide the result.
        inputs: files from outside the job that decide the result; their content counts, not their date.
        needs: steps whose results it is made from.
        shared: done by all processes of the job together; otherwise by the main one alone.
    """

    name: str
    action: Callable[[], object]
    outputs: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    needs: tuple["Step", ...] = ()
    shared: bool = False

    def fingerprint(self) -> str:
        """Return a digest of all that the result depends on: settings, inputs, and the steps it needs."""
        parts = [json.dumps(dict(self.settings), sort_keys=True), *map(digest_file, self.inputs)]
        parts += [step.fingerprint() for step in self.needs]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def last_fingerprint(self, out: Path) -> str | None:
        """Return the fingerprint of the last result in a job's folder; None where there is no intact record."""
        try:
            return str(read_json(self.record(out))["fingerprint"])
        except (InputError, KeyError):
            return None

    def record(self, out: Path) -> Path:
        """Return the file that keeps the fingerprint of the last result, in stages/ since the first version."""
        return out / "stages" / f"{self.name.replace(' ', '-')}.json"


def bring_up_to_date(steps: Sequence[Step], out: Path) -> None:
    """Do the steps of the job `out` that are missing or stale, in order; those before a failure stay done."""
    for step in steps:
        processes.wait()  # until the main process has written the results this one depends on
        fingerprint = step.fingerprint()
        current = step.last_fingerprint(out) == fingerprint and all(path.exists() for path in step.outputs)
        processes.wait()  # until all have compared, so that none changes a result before
        if processes.is_main():
            say(f"{step.name}: {'up to date' if current else 'working'}", style="dim" if current else "bold")
        if current:
            continue
        if step.shared or processes.is_main():
            step.action()
        if processes.is_main():
            write_json(step.record(out), {"fingerprint": fingerprint})
    processes.wait()


class AntiSpoofing:
    """The steps of anti-spoofing.

    Attributes:
        track: the kind of evaluation.
        sets: name of each evaluation set, `dev` the first -> the files that decide its scores beside the model: its
            manifest, then its trials. The last one holds the keys.
        trained: lists beside the manifests that a training depends on.
    """

    track = TRACK1

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out, dev = config, out, config.data.dev
        self.manifests = {DEV: dev if isinstance(dev, Path) else out / "dev.tsv", **config.data.eval}
        self.sets: dict[str, tuple[Path, ...]] = {name: (manifest,) for name, manifest in self.manifests.items()}
        self.trained: tuple[Path, ...] = ()

    @property
    def joined(self) -> tuple[Step, ...]:
        """The step that makes one dev set, and one list of trials, of several by name."""
        dev, trials = by_name(self.config.data.dev), self.trained
        if "" in dev:
            return ()
        return (Step("join dev", self._join_dev, self.sets[DEV], {"names": [*dev]}, (*dev.values(), *trials)),)

    def _join_dev(self) -> None:
        sets = ((name, read_manifest(path)) for name, path in by_name(self.config.data.dev).items())
        write_manifest(self.manifests[DEV], (qualify(one, name) for name, utterances in sets for one in utterances))

    def complete(self, model: Path, exported: Step, snapshot: str) -> tuple[Step, ...]:  # noqa: ARG002
        """Return the steps between a model's export and its first score; `snapshot` is empty for the last model."""
        return ()

    def score(self, name: str, model: Path, out: Path, snapshot: str) -> object:  # noqa: ARG002
        """Write the scores of a set by a model, on all processes of the job."""
        return score(model, self.sets[name][0], out, self.config.training.batch_size, self.config.data.workers)

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return the metrics of a set's scores, with intervals, and by the columns in which its spoofs differ."""
        manifest = self.sets[name][0]
        spoofs = [utterance for utterance in read_manifest(manifest) if utterance.label is Label.SPOOF]
        by = [column for column in GROUPS if len({getattr(spoof, column) for spoof in spoofs}) > 1]
        return evaluate(scores, manifest, self.track, rounds=ROUNDS, by=by)

    def join(self, name: str, scores: Path, out: Path) -> None:
        """Write a set's scores with their labels, speakers and groups, for the report and for a look at single ones."""
        found = {row["filename"]: row["cm-score"] for _, row in read_rows(scores, ("filename", "cm-score"))}
        rows = (
            (u.utt_id, found[u.utt_id], u.label, u.speaker, *(getattr(u, group) for group in GROUPS))
            for u in read_manifest(self.sets[name][0])
        )
        write_table(out, ("filename", "cm-score", "cm-label", "speaker", *GROUPS), rows)


class SpeakerVerification(AntiSpoofing):
    """The same steps for speaker verification; embeddings and the cohort's manifest go into the job's folder."""

    track = SV

    def __init__(self, config: Config, out: Path) -> None:
        super().__init__(config, out)
        trials = config.data.trials
        for name, manifest in self.manifests.items():
            if name not in trials:
                raise InputError(f"data.trials.{name} is missing: give the trials over {manifest}, or drop that set")
            its = trials[name]
            self.sets[name] = (manifest, its if isinstance(its, Path) else self.out / "dev.trials")
        if strangers := [name for name in trials if name not in self.sets]:
            raise InputError(
                f"data.trials.{strangers[0]}: there is no data.eval.{strangers[0]}, the manifest they are of"
            )
        self.trained = tuple(by_name(trials[DEV]).values())

    def _join_dev(self) -> None:
        super()._join_dev()
        rows = []
        for name, path in by_name(self.config.data.trials[DEV]).items():
            keys = read_keys(path, SV)
            sides = ([f"{name}/{one}" for one in side] for side in keys.names)
            rows += [(*row, name) for row in zip(*sides, keys.classes.tolist(), strict=True)]
        write_table(self.sets[DEV][1], (*SV.trial, "label", CORPUS), rows)

    def complete(self, model: Path, exported: Step, snapshot: str) -> tuple[Step, ...]:
        """Return the steps of the model's cohort and of the embeddings of each manifest."""
        by, data = f" by {snapshot}" if snapshot else "", self.config.data
        drawn = {"top_n": TOP_N, "fraction": data.fraction, "fraction_of": data.fraction_of, "seed": self.config.seed}
        drawn |= self.config.cohort.model_dump(exclude_defaults=True)
        add, cohort = partial(self._add_cohort, model), (model / COHORT,)
        steps = [Step(f"cohort{by}", add, cohort, drawn, tuple(by_name(data.train).values()), (exported,), shared=True)]
        for manifest in dict.fromkeys(self.manifests.values()):
            names = [name for name, its in self.manifests.items() if its == manifest]
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
        by = (CORPUS,) if name == DEV and self.joined else ()
        return evaluate(scores, trials, SV, rounds=ROUNDS, speakers=manifest if named else None, by=by)

    def join(self, name: str, scores: Path, out: Path) -> None:
        """Write a set's scores with the labels of its trials."""
        found = read_trials(scores, self.sets[name][1], SV)
        values, labels = map(repr, found.scores[SV.scores].tolist()), found.classes.tolist()
        write_table(out, (*SV.trial, SV.scores, "label"), zip(*found.names, values, labels, strict=True))

    def _cache(self, name: str, snapshot: str) -> Path:
        """Return the embeddings of a set's manifest, named after the first set that has it."""
        first = next(other for other, manifest in self.manifests.items() if manifest == self.manifests[name])
        return self.out / "embeddings" / snapshot / f"{first}.safetensors"

    def _engine(self, model: Path) -> Engine:
        return Engine(load_embedder(model), self.config.training.batch_size, self.config.data.workers)

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
        options = self.config.cohort.model_dump()
        add_cohort(folder, manifest, None, min(TOP_N, speakers), batch_size, workers, **options)

    def _trained_on(self) -> tuple[Path, int]:
        """Return the manifest of the training data that were used, and its number of speakers."""
        utterances, manifest = read_trainset(self.config), self.config.data.train
        if self.config.data.fraction < 1 or not isinstance(manifest, Path):
            manifest = self.out / "cohort.tsv"
            write_manifest(manifest, utterances)
        return manifest, len({utterance.speaker for utterance in utterances})
