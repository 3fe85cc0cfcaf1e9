"""Files of `evaluate --json` -> the results in a card, in the hub's model index and in its leaderboards' files.

Format of `.eval_results/NAME.yaml`: https://huggingface.co/docs/hub/eval-results.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult

from hybrid_pruning.config import check_config, load_config
from hybrid_pruning.console import printable
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, require_allowed
from hybrid_pruning.metrics.measures import TITLES, show_value
from hybrid_pruning.models import hub
from hybrid_pruning.trees import read_json, section

COUNTS = {"n_bonafide": "bona fide", "n_spoof": "spoofed", "n_target": "target", "n_nontarget": "nontarget"}
FOLDER, POOLED, RUN, RECIPE = "evaluation", "pooled.json", "run", "config.yaml"


@dataclass(frozen=True, slots=True)
class Result:
    """Results on one evaluation set: fractions or bits, in the order of `TITLES`."""

    name: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """Metric -> the ends of its 95% interval."""
    resampled: str
    """Units of the bootstrap, in words."""
    trials: Mapping[str, int]
    """Kind -> count; none of figures over several sets."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Command, files and versions."""

    def shown(self, metric: str) -> str:
        """Return a metric as a table has it, with its interval; a dash where it was not measured."""
        if metric not in self.metrics:
            return "–"
        value = show_value(metric, self.metrics[metric])
        if metric not in self.intervals:
            return value
        low, high = (show_value(metric, end) for end in self.intervals[metric])
        return f"{value} ({low} to {high})"


def read_results(files: Sequence[str], others: Sequence[Result] = ()) -> list[Result]:
    """Read files of `evaluate --json`, `FILE` or `NAME=FILE`, and return their results after those of other sets."""
    found = {result.name: result for result in others}
    for text in files:
        name, equals, path = text.partition("=")
        if not equals or Path(text).is_file():
            name, path = Path(text).stem, text
        if name in found:
            raise InputError(f"card: two evaluations are named '{name}'; tell them apart with NAME={path}")
        found[name] = _read(name, Path(path))
    return list(found.values())


def find_results(run: str | Path, provenance: Mapping[str, Any]) -> list[Result]:
    """Read the evaluations in a job's folder, or above its run/ folder; the model's recipe must be the job's."""
    job = Path(run)
    job = job.parent if job.name == RUN and not (job / RUN).is_dir() else job
    require_allowed(job)
    files = sorted((job / FOLDER).glob("*.json"))
    if not files:
        raise InputError(
            f"{job / FOLDER}: holds no evaluations; give the --out of `hybrid-pruning run`, or the files of "
            "`evaluate --json` with --evaluation"
        )
    recipe = job / RUN / RECIPE
    if not section(provenance, "recipe"):
        raise InputError(f"{recipe}: the model does not say which recipe made it; give --evaluation files instead")
    ran = load_config(recipe)
    if ran.stages:  # the model is the last one's
        recipe = job / RUN / [*ran.stages][-1] / RECIPE
        ran = load_config(recipe)
    made = check_config(section(provenance, "recipe"), "the model's recipe")
    if _names(ran.model_dump(mode="json")) != _names(made.model_dump(mode="json")):
        raise InputError(f"{recipe}: is not the recipe that the model was trained with; give its own job")
    found = read_results([str(path) for path in files])
    if (job / POOLED).is_file():
        over = read_json(job / POOLED)
        names = ", ".join(map(str, over.get("sets") or ()))
        for kind, title in (("mean_eer", "mean over"), ("pooled_eer", "one threshold for all of")):
            if _is_number(over.get(kind)):
                found.append(Result(f"{title} {names}", {"eer": float(over[kind])}, {}, "", {}))
    return found


def _names(tree: Any) -> Any:
    """Return plain values with the last part of every path: a model keeps no more of some."""
    if isinstance(tree, dict):
        return {key: _names(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return list(map(_names, tree))
    return Path(tree).name if isinstance(tree, str) else tree


def _read(name: str, path: Path) -> Result:
    values = read_json(path, damaged="give what `hybrid-pruning evaluate --json` wrote")
    known = {metric: values[metric] for metric in TITLES if _is_number(values.get(metric))}
    metrics = {metric: float(value) for metric, value in known.items() if metric not in COUNTS}
    if not metrics:
        raise InputError(f"{path}: holds no figures; give what `hybrid-pruning evaluate --json` wrote")
    intervals = {}
    for metric in metrics:
        ends = section(values, "intervals").get(metric)
        if isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)):
            intervals[metric] = (ends[0], ends[1])
    trials = {kind: int(known[key]) for key, kind in COUNTS.items() if key in known}
    resampled = str(section(values, "bootstrap").get("resampled") or "")
    return Result(name, metrics, intervals, resampled, trials, section(values, "provenance"))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def list_entries(result: Result, task: str) -> list[EvalResult]:
    """Return the metrics of a set as entries of the hub's model index; error rates in percent, as their titles say."""
    kind = re.sub(r"[^\w.-]+", "-", printable(result.name)).strip("-") or "evaluation"
    return [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=printable(result.name),
            metric_type=metric,
            metric_name=TITLES[metric],
            metric_value=float(show_value(metric, value)),
        )
        for metric, value in result.metrics.items()
    ]


def write_benchmarks(benchmarks: Sequence[str], results: Sequence[Result], folder: Path) -> list[Path]:
    """Write `.eval_results/NAME.yaml` for each NAME=DATASET[:TASK], whose leaderboard on the hub then has the result.

    The value is the set's first metric; its name, the others, files, command and versions are in the notes.
    """
    by_name, found = {result.name: result for result in results if result.trials}, []
    for text in benchmarks:
        name, _, place = text.partition("=")
        dataset, _, task = place.partition(":")
        if not hub.is_repo_id(dataset):
            raise InputError(f"card: --benchmark {text}, expected NAME=DATASET or NAME=DATASET:TASK, ids of the hub")
        if name not in by_name:
            known = ", ".join(by_name) or "no evaluation"
            raise InputError(f"card: --benchmark {text}: there is no evaluation '{name}', but {known}")
        result = by_name[name]
        metric = next(iter(result.metrics))
        shown = [f"{TITLES[other]} {result.shown(other)}" for other in result.metrics]
        about = {key: value for key, value in result.provenance.items() if key != "versions"}
        about |= section(result.provenance, "versions")
        notes = "; ".join([*shown, "lower is better", *(f"{key} {value}" for key, value in about.items())])
        value = float(show_value(metric, result.metrics[metric]))
        entry = {"dataset": {"id": dataset, "task_id": task or "default"}, "value": value, "notes": printable(notes)}
        found.append(folder / hub.EVAL_RESULTS / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}.yaml")
        found[-1].parent.mkdir(exist_ok=True)
        with atomic_write(found[-1]) as handle:
            yaml.safe_dump([entry], handle, sort_keys=False, allow_unicode=True, width=10_000)
    return found
