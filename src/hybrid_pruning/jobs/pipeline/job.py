"""The stages of a recipe, from raw corpus to report, and where their results lie."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config, expand_stages
from hybrid_pruning.console import say, say_rule, warn
from hybrid_pruning.data import corpora
from hybrid_pruning.data.durations import add_durations
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import print_evaluation
from hybrid_pruning.evaluation.fitting import UncalibratableError
from hybrid_pruning.files import atomic_write, hold, new_folder, write_json
from hybrid_pruning.jobs.pipeline.judge import DEV, ROUNDS, Judge
from hybrid_pruning.jobs.pipeline.speaker_trials import VerificationJudge
from hybrid_pruning.jobs.pipeline.spoofing import DetectionJudge
from hybrid_pruning.jobs.stages import Stage, bring_up_to_date, was_made_from
from hybrid_pruning.models.calibration import Calibration
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.plain import without_folders
from hybrid_pruning.reporting import write_report
from hybrid_pruning.reporting.score_tables import UNCALIBRATED
from hybrid_pruning.training.checkpoints import FOLDER as CHECKPOINTS
from hybrid_pruning.training.export import build_export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import CONFIG, last_stage
from hybrid_pruning.training.snapshots import early_points, member_name


def run_recipe(config: Config, out: str | Path, prepared: str | Path | None = None) -> Path:
    """Prepare, train, export, score, calibrate, evaluate and report, each stage where its result is missing or stale.

    Below `out`: run/ (the training and, in evaluation/ below it or its last stage, the scores with their keys),
    exported/ (the model as cut), model/ (the same, calibrated on the dev set), family/ (the run's snapshots as cut),
    scores/, evaluation/, report.html, and stages/ (what each of them was made from). For speaker verification also
    embeddings/, and the models have their cohorts. A model whose dev scores are inverted or all the same is left
    uncalibrated, and the report says so. Under torchrun all processes train and score; the main one does the
    rest.

    Args:
        config: the recipe; `corpus` says what to prepare, `data.eval` what to evaluate on beside `data.dev`.
        out: the job's folder; called again, the job goes on there.
        prepared: where it is kept what the manifests were made from, for jobs that share them; by default `out`.

    Returns:
        The report.

    Raises:
        InputError: something that a stage cannot use, or a finished training that was made from something else.
    """
    processes.start()
    job = Job(config, Path(out))
    with hold(job.out) if processes.is_main() else nullcontext():
        first = job.prepare()
        bring_up_to_date(first, Path(prepared or out))
        bring_up_to_date(job.stages(first), job.out)
    return job.report


class Job:
    """The stages of a recipe and where their results lie.

    Args:
        config: the recipe.
        out: the job's folder.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out = config, out
        self.trainings = list(expand_stages(config).values()) or [config]
        self.run, self.exported, self.model = out / "run", out / "exported", out / "model"
        self.report, self.judged = out / "report.html", last_stage(self.run, config) / "evaluation"
        self.judge: Judge = (
            VerificationJudge(config, out) if config.task == "speaker-verification" else DetectionJudge(config)
        )
        self.sets = self.judge.sets

    def prepare(self) -> tuple[Stage, ...]:
        """Return the stage of the manifests, where the recipe has a corpus to make them from."""
        corpus = self.config.corpus
        if corpus is None:
            return ()
        settings = {**corpus.model_dump(mode="json"), "manifests": [str(path) for path in self._inputs()]}
        return (Stage("prepare", self._prepare_corpus, self._inputs(), settings),)

    def stages(self, prepared: tuple[Stage, ...]) -> list[Stage]:
        """Return all stages after the preparation, in order."""
        trained = self._train(prepared)
        exported = self._export("export", self.exported, trained)
        ready = self.judge.complete(self.exported, exported, "")
        uncalibrated = self.out / "scores" / f"{DEV}.uncalibrated.tsv"
        heard = self._score(f"score {DEV}, uncalibrated", DEV, self.exported, uncalibrated, (exported, *ready))
        calibrated = Stage(
            "calibrate", lambda: self._calibrate(uncalibrated), (self.model / "config.json",), needs=(heard,)
        )
        judged = [stage for name in self.sets for stage in self._judge(name, (calibrated, *ready))]
        points = early_points(self.trainings[-1].pruning)
        judged += [stage for point in points for stage in self._judge_member(point, trained)]
        report = Stage("report", self._report, (self.report,), needs=tuple(judged))
        return [trained, exported, *ready, heard, calibrated, *judged, report]

    def _inputs(self) -> tuple[Path, ...]:
        """Return the manifests and lists that the recipe names; one under several names is there once."""
        lists = [path for paths in self.sets.values() for path in paths]
        return tuple(dict.fromkeys((self.config.data.train, *lists)))

    def _train(self, needs: tuple[Stage, ...]) -> Stage:
        exclude: Any = {"corpus": True, "data": {"workers": True, "eval": True, "trials": set(self.config.data.eval)}}
        settings = self.config.model_dump(mode="json", exclude=exclude)
        last = last_stage(self.run, self.config) / CHECKPOINTS / f"epoch-{self.trainings[-1].training.epochs:04d}.pt"
        manifests = dict.fromkeys(path for one in self.trainings for path in (one.data.train, one.data.dev))
        inputs = (*manifests, *self.judge.trained)
        stage = Stage("train", lambda: self._train_or_go_on(stage), (last,), settings, inputs, needs, shared=True)
        return stage

    def _export(self, title: str, out: Path, trained: Stage, at: float | None = None) -> Stage:
        return Stage(title, lambda: self._export_model(out, at), (out / "config.json",), needs=(trained,))

    def _score(
        self, title: str, name: str, model: Path, out: Path, needs: tuple[Stage, ...], member: str = ""
    ) -> Stage:
        score = partial(self.judge.score, name, model, out, member)
        return Stage(title, score, (out,), {}, self.sets[name], needs, shared=True)

    def _judge(self, name: str, needs: tuple[Stage, ...]) -> tuple[Stage, Stage]:
        scores, table = self.out / "scores" / f"{name}.tsv", self.out / "evaluation" / f"{name}.json"
        scored = self._score(f"score {name}", name, self.model, scores, needs)
        judged = Stage(
            f"evaluate {name}", lambda: self._evaluate(name, scores, table), (table,), {"rounds": ROUNDS}, (), (scored,)
        )
        return scored, judged

    def _judge_member(self, point: float, trained: Stage) -> list[Stage]:
        """Export a snapshot of the run and score all sets with it, uncalibrated, where the report looks for them."""
        member = member_name(point)
        model = self.out / "family" / member
        exported = self._export(f"export {member}", model, trained, point)
        ready = (exported, *self.judge.complete(model, exported, member))
        stages = [*ready]
        for name in self.sets:
            scores, judged = (at / member / f"{name}.tsv" for at in (self.out / "scores", self.judged))
            scored = self._score(f"score {name} by {member}", name, model, scores, ready, member)
            write = partial(self._write_judged, judged, name, scores)
            stages += [scored, Stage(f"judge {name} by {member}", write, (judged,), needs=(scored,))]
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
            say(f"warning: {warning}")
        for path in self._inputs():
            if not path.exists():
                written = ", ".join(map(str, (*prepared.manifests.values(), *prepared.trials.values())))
                raise InputError(f"{path}: preparing {corpus.name} does not write it; it wrote {written}")

    def _train_or_go_on(self, stage: Stage) -> None:
        """Never does a training over an old one: it may have cost a week."""
        if was_made_from(stage, self.out) is False:
            raise InputError(
                f"{self.run}: was trained with another recipe or other manifests; give another --out, or remove it"
            )
        train(self.config, self.run, resume=(self.run / CONFIG).exists())

    def _export_model(self, out: Path, at: float | None) -> None:
        model = build_export(self.run, at=at)
        with new_folder(out, own=True) as folder:
            model.save_pretrained(folder)

    def _calibrate(self, scores: Path) -> None:
        model = SpeechModel.from_pretrained(self.exported)
        note = self.judged / UNCALIBRATED
        try:
            model.calibration = Calibration().then(self.judge.fit(scores))
            note.unlink(missing_ok=True)
        except UncalibratableError as error:
            warn(f"the model is left uncalibrated: {error}")
            with atomic_write(note) as handle:
                handle.write(f"{without_folders(str(error))}\n")
        with new_folder(self.model, own=True) as folder:
            model.save_pretrained(folder)

    def _evaluate(self, name: str, scores: Path, table: Path) -> None:
        evaluation = self.judge.evaluate(name, scores)
        say_rule(name)
        print_evaluation(evaluation)
        self._write_judged(self.judged / f"{name}.tsv", name, scores)
        write_json(table, evaluation.as_json())

    def _write_judged(self, out: Path, name: str, scores: Path) -> None:
        """Write scores with their keys in one file, for the report and for whoever looks into single scores."""
        write_table(out, *self.judge.join(name, scores))

    def _report(self) -> None:
        write_report([self.run], self.report)
