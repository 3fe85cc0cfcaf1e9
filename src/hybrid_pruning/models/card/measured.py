"""Results of `evaluate --json` and of `run`, as a card shows them: nothing is computed anew."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_pruning.config import check_config, load_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics.measures import TITLES, show_value
from hybrid_pruning.trees import read_json, section

COUNTS = {"n_bonafide": "bona fide", "n_spoof": "spoofed", "n_target": "target", "n_nontarget": "nontarget"}
FOLDER, RUN, RECIPE = "evaluation", "run", "config.yaml"


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
    """Kind -> count."""

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
    files = sorted((job / FOLDER).glob("*.json"))
    if not files:
        raise InputError(
            f"{job / FOLDER}: holds no evaluations; give the --out of `hybrid-pruning run`, or the files of "
            "`evaluate --json` with --evaluation"
        )
    recipe = job / RUN / RECIPE
    if not section(provenance, "recipe"):
        raise InputError(f"{recipe}: the model does not say which recipe made it; give --evaluation files instead")
    ran = load_config(recipe).model_dump(mode="json")
    if _names(ran) != _names(check_config(section(provenance, "recipe"), "the model's recipe").model_dump(mode="json")):
        raise InputError(f"{recipe}: is not the recipe that the model was trained with; give its own job")
    return read_results([str(path) for path in files])


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
    return Result(name, metrics, intervals, str(section(values, "bootstrap").get("resampled") or ""), trials)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
