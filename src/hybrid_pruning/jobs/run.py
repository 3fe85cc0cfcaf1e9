"""`run`: a recipe's steps from raw corpus to report; a result that is there and current is not made again."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config, by_name, expand_stages, load_config
from hybrid_pruning.console import say, say_rule, say_table, warn
from hybrid_pruning.data import corpora
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate, pool, print_evaluation, tabulate
from hybrid_pruning.evaluation.fitting import UncalibratableError, calibrate
from hybrid_pruning.files import atomic_write, hold, new_folder, write_json
from hybrid_pruning.jobs.steps import DEV, ROUNDS, AntiSpoofing, SpeakerVerification, Step, bring_up_to_date
from hybrid_pruning.models import artifact
from hybrid_pruning.reporting import report
from hybrid_pruning.reporting.score_tables import UNCALIBRATED
from hybrid_pruning.training.export import build_export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import EPOCH, Run, snapshot_name
from hybrid_pruning.trees import without_folders


def run(
    recipe: str | Path | Config, out: str | Path, overrides: Sequence[str] = (), prepared: str | Path | None = None
) -> Path:
    """Prepare, train, export, score, calibrate, evaluate and report, each step where its result is missing or stale.

    Of several evaluation sets pooled.json has the mean and the pooled EER too; several dev sets are joined to one,
    dev.tsv, and broken down by corpus.

    Below `out`: run/ (the training and, in evaluation/ below it or its last stage, the scores with their keys),
    exported/ (the shrunk model), model/ (the same, calibrated on the dev set), family/ (the run's snapshots, shrunk),
    scores/, evaluation/, report.html, and stages/ (the fingerprint of each step). For speaker verification also
    embeddings/, and the models have their cohorts. A model whose dev scores are inverted or all the same is left
    uncalibrated, and the report says so. Under torchrun all processes train and score; the main one does the
    rest.

    Args:
        recipe: its file, or a checked one; `corpus` is the corpus to prepare, `data.eval` the evaluation sets beside
            `data.dev`.
        out: the job's folder; called again, the job goes on there. A finished training is never done over.
        overrides: `key=value` settings over the recipe's file.
        prepared: the folder with the fingerprint of the manifests, for jobs that share them; by default `out`.

    Returns:
        The report.
    """
    config = recipe if isinstance(recipe, Config) else load_config(recipe, overrides)
    processes.start()
    job = Job(config, Path(out))
    with hold(job.out) if processes.is_main() else nullcontext():
        manifests, shared = job.manifests(), Path(prepared or out)
        with hold(shared, wait=True) if processes.is_main() else nullcontext():
            bring_up_to_date(manifests, shared)
        bring_up_to_date(job.steps(manifests), job.out)
    return job.report


class Job:
    """The steps of a recipe and the places of their results."""

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out = config, out
        self.trainings = list(expand_stages(config).values()) or [config]
        self.run, self.exported, self.model = out / "run", out / "exported", out / "model"
        self.report, self.joined = out / "report.html", Run(self.run).last_stage(config).evaluation
        self.task = (SpeakerVerification if config.task == "speaker-verification" else AntiSpoofing)(config, out)
        # a manifest under several names is there once; of a joined dev set its parts
        train, dev = (by_name(files).values() for files in (config.data.train, config.data.dev))
        joined = [path for step in self.task.joined for path in step.outputs]
        sets = [path for its in self.task.sets.values() for path in its if path not in joined]
        self.inputs = tuple(dict.fromkeys([*train, *dev, *self.task.trained, *sets]))

    def manifests(self) -> tuple[Step, ...]:
        """Return the step that prepares the corpus, where the recipe has one."""
        corpus = self.config.corpus
        if corpus is None:
            return ()
        settings = {**corpus.model_dump(mode="json"), "manifests": [str(path) for path in self.inputs]}
        return (Step("prepare", self._prepare, self.inputs, settings),)

    def steps(self, manifests: tuple[Step, ...]) -> list[Step]:
        """Return all steps after the preparation, in order."""
        others = {"workers": True, "eval": True, "trials": set(self.config.data.eval)}
        exclude: Any = {"corpus": True, "cohort": True, "data": others}
        settings = self.config.model_dump(mode="json", exclude=exclude)
        last = Run(self.run).last_stage(self.config).checkpoint(EPOCH, self.trainings[-1].training.epochs)
        files = (its for one in self.trainings for its in (one.data.train, one.data.dev))
        inputs = (*dict.fromkeys(path for its in files for path in by_name(its).values()), *self.task.trained)
        trained = Step("train", lambda: self._train(trained), (last,), settings, inputs, manifests, shared=True)
        exported = self._export("export", self.exported, trained)
        ready = self.task.complete(self.exported, exported, "")
        raw = self.out / "scores" / f"{DEV}.uncalibrated.tsv"
        scored = self._score(f"score {DEV}, uncalibrated", DEV, self.exported, raw, (exported, *ready))
        calibrated = Step("calibrate", lambda: self._calibrate(raw), (self.model / "config.json",), needs=(scored,))
        results: list[Step] = []
        for name in self.task.sets:
            scores, table = self.out / "scores" / f"{name}.tsv", self.out / "evaluation" / f"{name}.json"
            final = self._score(f"score {name}", name, self.model, scores, (calibrated, *ready))
            action = partial(self._evaluate, name, scores, table)
            results += [final, Step(f"evaluate {name}", action, (table,), {"rounds": ROUNDS}, (), (final,))]
        if len(self.config.data.eval) > 1:
            over, sets = self.out / "pooled.json", {"sets": [*self.config.data.eval]}
            results.append(Step("pool", partial(self._pool, over), (over,), sets, (), tuple(results)))
        for sparsity in self.trainings[-1].pruning.snapshots:
            results += self._snapshot(sparsity, trained)
        make = partial(report, [self.run], self.report, rounds=ROUNDS)
        page = Step("report", make, (self.report,), needs=tuple(results))
        return [*self.task.joined, trained, exported, *ready, scored, calibrated, *results, page]

    def _snapshot(self, sparsity: float, trained: Step) -> list[Step]:
        """Export a snapshot of the run and score all sets with it, uncalibrated; the report reads the joined tables."""
        snapshot = snapshot_name(sparsity)
        model = self.out / "family" / snapshot
        exported = self._export(f"export {snapshot}", model, trained, sparsity)
        steps = [exported, *self.task.complete(model, exported, snapshot)]
        ready = tuple(steps)
        for name in self.task.sets:
            scores, joined = (folder / snapshot / f"{name}.tsv" for folder in (self.out / "scores", self.joined))
            scored = self._score(f"score {name} by {snapshot}", name, model, scores, ready, snapshot)
            join = partial(self.task.join, name, scores, joined)
            steps += [scored, Step(f"join {name} by {snapshot}", join, (joined,), needs=(scored,))]
        return steps

    def _export(self, title: str, out: Path, trained: Step, at: float | None = None) -> Step:
        def export() -> None:
            model = build_export(self.run, at=at)
            with new_folder(out, own=True) as folder:
                model.save_pretrained(folder)

        return Step(title, export, (out / "config.json",), needs=(trained,))

    def _score(
        self, title: str, name: str, model: Path, out: Path, needs: tuple[Step, ...], snapshot: str = ""
    ) -> Step:
        score = partial(self.task.score, name, model, out, snapshot)
        return Step(title, score, (out,), {}, self.task.sets[name], needs, shared=True)

    def _prepare(self) -> None:
        corpus = self.config.corpus
        assert corpus is not None
        out, missing, share = self.inputs[0].parent, corpus.allow_missing, corpus.dev_share
        prepared = corpora.prepare(corpus.name, corpus.root, out, allow_missing=missing, dev_share=share)
        for warning in prepared.warnings:
            say(f"warning: {warning}")
        for path in self.inputs:
            if not path.exists():
                written = ", ".join(map(str, (*prepared.manifests.values(), *prepared.trials.values())))
                raise InputError(f"{path}: preparing {corpus.name} does not write it; it wrote {written}")

    def _train(self, step: Step) -> None:
        """Train, or go on; never over a training made from something else, which may have cost a week."""
        if step.last_fingerprint(self.out) not in (None, step.fingerprint()):
            raise InputError(
                f"{self.run}: was trained with another recipe or other manifests; give another --out, or remove it"
            )
        train(self.config, self.run, resume=Run(self.run).config.exists())

    def _calibrate(self, scores: Path) -> None:
        """Fit scale and offset on the dev scores, and write the model with them."""
        note = self.joined / UNCALIBRATED
        with new_folder(self.model, own=True) as folder:
            try:
                calibrate(self.exported, scores, self.task.sets[DEV][-1], folder, qualities=False)
                note.unlink(missing_ok=True)
            except UncalibratableError as error:
                warn(f"the model is left uncalibrated: {error}")
                with atomic_write(note) as handle:
                    handle.write(f"{without_folders(str(error))}\n")
                artifact.write_variant(self.exported, artifact.read_config(self.exported), folder)

    def _evaluate(self, name: str, scores: Path, table: Path) -> None:
        evaluation = self.task.evaluate(name, scores)
        say_rule(name)
        print_evaluation(evaluation)
        self.task.join(name, scores, self.joined / f"{name}.tsv")
        write_json(table, evaluation.as_json())

    def _pool(self, over: Path) -> None:
        """Print the mean of the evaluation sets' EERs and the EER of all their scores together, and write both."""
        names = list(self.config.data.eval)
        joined = {name: self.joined / f"{name}.tsv" for name in names}
        found = {name: evaluate(path, path, self.task.track) for name, path in joined.items()}
        say_table(tabulate(found))
        write_json(over, {"sets": names, **pool([*found.values()])})
