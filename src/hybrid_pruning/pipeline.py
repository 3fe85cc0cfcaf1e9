"""`run`: from a raw corpus to its table in one go; what is done already and still current is not done again."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_pruning import corpora
from hybrid_pruning.artifact import is_artifact
from hybrid_pruning.calibration import Calibration, fit_calibration
from hybrid_pruning.checkpoint import FOLDER as CHECKPOINTS
from hybrid_pruning.config import Config, expand_stages
from hybrid_pruning.durations import add_durations
from hybrid_pruning.embedder import choose_device
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import TRACK1, Request, evaluate, print_evaluation, read_trials
from hybrid_pruning.export import export_run
from hybrid_pruning.family import early_points, member_name
from hybrid_pruning.files import atomic_write
from hybrid_pruning.manifest import Label, read_manifest
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.report import write_report
from hybrid_pruning.run_folder import CONFIG, last_stage
from hybrid_pruning.scoring import score_file
from hybrid_pruning.stages import Stage, bring_up_to_date, was_made_from
from hybrid_pruning.terminal import console
from hybrid_pruning.training import train

DEV = "dev"
ROUNDS = 1000
GROUPS = ("attack", "codec", "codec_quality", "gender", "source")
"""Columns an evaluation is broken down by, where they have more than one value."""


def run_recipe(config: Config, out: str | Path) -> Path:
    """Prepare, train, export, score, calibrate, evaluate and report, each stage where its result is missing or stale.

    Below `out`: run/ (the training and, in run/evaluation/, its scores with their keys), exported/ (the model as cut),
    model/ (the same, calibrated on the dev set), family/ (the run's snapshots as cut), scores/, evaluation/,
    report.html, and stages/ (what each of them was made from). Under torchrun all processes train and score; the main
    one does the rest.

    Args:
        config: the recipe; `corpus` says what to prepare, `data.eval` what to evaluate on beside `data.dev`.
        out: the job's folder; called again, the job goes on there.

    Returns:
        The report.

    Raises:
        InputError: something that a stage cannot use, or a finished training that was made from something else.
    """
    job = Job(config, Path(out))
    bring_up_to_date(job.stages(), job.out)
    return job.report


class Job:
    """The stages of a recipe and where their results lie.

    Args:
        config: the recipe.
        out: the job's folder.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out = config, out
        self.run, self.exported, self.model = out / "run", out / "exported", out / "model"
        self.report = out / "report.html"
        self.sets = {DEV: config.data.dev, **config.data.eval}

    def stages(self) -> list[Stage]:
        """Return all stages, in order."""
        prepared = self._prepare()
        trained = self._train(prepared)
        exported = self._export("export", self.exported, trained)
        uncalibrated = self.out / "scores" / f"{DEV}.uncalibrated.tsv"
        heard = self._score(f"score {DEV}, uncalibrated", DEV, self.exported, uncalibrated, exported)
        calibrated = Stage(
            "calibrate", lambda: self._calibrate(uncalibrated), (self.model / "config.json",), needs=(heard,)
        )
        judged = [stage for name in self.sets for stage in self._judge(name, calibrated)]
        judged += [stage for point in early_points(self.config.pruning) for stage in self._judge_member(point, trained)]
        report = Stage("report", self._report, (self.report,), needs=tuple(judged))
        return [*prepared, trained, exported, heard, calibrated, *judged, report]

    def _prepare(self) -> tuple[Stage, ...]:
        corpus = self.config.corpus
        if corpus is None:
            return ()
        outputs = (self.config.data.train, *self.sets.values())
        settings = {**corpus.model_dump(mode="json"), "manifests": [str(path) for path in outputs]}
        return (Stage("prepare", self._prepare_corpus, outputs, settings),)

    def _train(self, needs: tuple[Stage, ...]) -> Stage:
        stages = list(expand_stages(self.config).values()) or [self.config]
        exclude: Any = {"corpus": True, "data": {"workers", "eval"}}
        settings = self.config.model_dump(mode="json", exclude=exclude)
        last = last_stage(self.run, self.config) / CHECKPOINTS / f"epoch-{stages[-1].training.epochs:04d}.pt"
        manifests = tuple(dict.fromkeys(path for one in stages for path in (one.data.train, one.data.dev)))
        stage = Stage("train", lambda: self._train_or_go_on(stage), (last,), settings, manifests, needs, shared=True)
        return stage

    def _export(self, title: str, out: Path, trained: Stage, at: float | None = None) -> Stage:
        return Stage(title, lambda: self._export_model(out, at), (out / "config.json",), needs=(trained,))

    def _score(self, title: str, name: str, model: Path, out: Path, needs: Stage) -> Stage:
        return Stage(title, lambda: self._score_set(name, model, out), (out,), {}, (self.sets[name],), (needs,), True)

    def _judge(self, name: str, calibrated: Stage) -> tuple[Stage, Stage]:
        scores, table = self.out / "scores" / f"{name}.tsv", self.out / "evaluation" / f"{name}.json"
        scored = self._score(f"score {name}", name, self.model, scores, calibrated)
        judged = Stage(
            f"evaluate {name}", lambda: self._evaluate(name, scores, table), (table,), {"rounds": ROUNDS}, (), (scored,)
        )
        return scored, judged

    def _judge_member(self, point: float, trained: Stage) -> list[Stage]:
        """Export a snapshot of the run and score all sets with it, uncalibrated, where the report looks for them."""
        name = member_name(point)
        model = self.out / "family" / name
        stages = [self._export(f"export {name}", model, trained, point)]
        for set_name, manifest in self.sets.items():
            scores, judged = (at / name / f"{set_name}.tsv" for at in (self.out / "scores", self.run / "evaluation"))
            scored = self._score(f"score {set_name} by {name}", set_name, model, scores, stages[0])
            write = partial(_write_judged, judged, scores, manifest)
            stages += [scored, Stage(f"judge {set_name} by {name}", write, (judged,), needs=(scored,))]
        return stages

    def _prepare_corpus(self) -> None:
        corpus = self.config.corpus
        assert corpus is not None
        prepared = corpora.prepare(
            corpus.name,
            corpus.root,
            self.config.data.train.parent,
            allow_missing=corpus.allow_missing,
            dev_share=corpus.dev_share,
        )
        warnings = list(prepared.warnings)
        for manifest in prepared.manifests.values():
            warnings += add_durations(manifest, drop_unreadable=corpus.allow_missing)
        for warning in warnings:
            console.print(f"warning: {warning}", markup=False, soft_wrap=True)
        for path in (self.config.data.train, *self.sets.values()):
            if not path.exists():
                written = ", ".join(map(str, prepared.manifests.values()))
                raise InputError(f"{path}: preparing {corpus.name} does not write it; it wrote {written}")

    def _train_or_go_on(self, stage: Stage) -> None:
        """Never does a training over an old one: it may have cost a week."""
        if was_made_from(stage, self.out) is False:
            raise InputError(
                f"{self.run}: was trained with another recipe or other manifests; give another --out, or remove it"
            )
        train(self.config, self.run, resume=(self.run / CONFIG).exists())

    def _export_model(self, out: Path, at: float | None) -> None:
        _clear(out)
        export_run(self.run, out, at=at)

    def _score_set(self, name: str, model: Path, out: Path) -> None:
        network = SpeechModel.from_pretrained(model).to(choose_device())
        score_file(network, self.sets[name], out, self.config.training.batch_size, self.config.data.workers)

    def _calibrate(self, scores: Path) -> None:
        _clear(self.model)
        keys = self.sets[DEV]
        model = SpeechModel.from_pretrained(self.exported)
        model.calibration = Calibration().then(fit_calibration(read_trials(scores, keys, TRACK1), TRACK1, scores, keys))
        model.save_pretrained(self.model)

    def _evaluate(self, name: str, scores: Path, table: Path) -> None:
        manifest = self.sets[name]
        evaluation = evaluate(TRACK1, scores, manifest, Request(rounds=ROUNDS, by=_known_groups(manifest)))
        console.rule(name, align="left")
        print_evaluation(evaluation)
        _write_judged(self.run / "evaluation" / f"{name}.tsv", scores, manifest)
        with atomic_write(table) as handle:
            json.dump(evaluation.as_json(), handle, indent=1)

    def _report(self) -> None:
        write_report([self.run], self.report)


def _known_groups(manifest: Path) -> list[tuple[str, ...]]:
    """The columns in which spoofs differ: bona fide speech has no attack, and that is no group."""
    spoofs = [utterance for utterance in read_manifest(manifest) if utterance.label == Label.SPOOF]
    return [(column,) for column in GROUPS if len({getattr(utterance, column) for utterance in spoofs}) > 1]


def _write_judged(out: Path, scores: Path, manifest: Path) -> None:
    """Write scores with their keys in one file, for the report and for whoever looks into single utterances."""
    with scores.open(encoding="utf-8", newline="") as handle:
        found = {row["filename"]: row["cm-score"] for row in csv.DictReader(handle, delimiter="\t")}
    with atomic_write(out) as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(("filename", "cm-score", "cm-label", "speaker", *GROUPS))
        for u in read_manifest(manifest):
            writer.writerow((u.utt_id, found[u.utt_id], u.label, u.speaker, *(getattr(u, name) for name in GROUPS)))


def _clear(folder: Path) -> None:
    """Remove a model that an earlier run of the job wrote, and nothing else."""
    if is_artifact(folder):
        shutil.rmtree(folder)
