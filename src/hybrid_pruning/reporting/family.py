"""The members of each run's family beside each other: what is left of them, and the errors they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_pruning.data.tracks import Track
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.reporting.overview import UNKNOWN, Cell, Row, count
from hybrid_pruning.reporting.remaining import Remaining
from hybrid_pruning.reporting.run_files import Run
from hybrid_pruning.reporting.score_tables import DEV, FOLDER, task_of
from hybrid_pruning.training.runs import snapshot_name
from hybrid_pruning.trees import number, section


@dataclass(frozen=True, slots=True)
class Family:
    """The table of one run's members.

    Args:
        run: index of the run.
        sets: names of the evaluation sets, a column of EERs each.
        rows: a member each: parameters, parameters removed, MACs removed, EERs.
    """

    run: int
    sets: Sequence[str]
    rows: Sequence[Row]


def describe_families(runs: Sequence[Run], remaining: Sequence[Remaining | str]) -> list[Family]:
    """Return the families of the runs that have left snapshots, each with the run's last model where it is finished."""
    return [
        _describe(index, run, left)
        for index, (run, left) in enumerate(zip(runs, remaining, strict=True))
        if run.log.snapshots
    ]


def _describe(index: int, run: Run, left: Remaining | str) -> Family:
    figures = {str(snapshot.get("name")): snapshot for snapshot in run.log.snapshots}
    task = task_of(run)
    rates = {name: _rates(snapshot, run.folder / FOLDER / name, task) for name, snapshot in figures.items()}
    if run.is_finished:
        last = snapshot_name(number(section(run.config, "pruning").get("target_sparsity")))
        figures[last] = section(run.log.validations[-1], "dev")
        rates[last] = _rates(figures[last], run.folder / FOLDER, task)
    sets = list(dict.fromkeys(name for found in rates.values() for name in found))
    dense = 0 if isinstance(left, str) else left.survivors.budget.dense_params
    rows = [Row(name, [*_size(figures[name], dense), *_cells(rates[name], sets)]) for name in figures]
    return Family(index, sets, rows)


def _size(figures: Mapping[str, Any], dense: int) -> list[Cell]:
    params, macs = (number(figures.get(name)) for name in ("sparsity", "macs_sparsity"))
    return [
        Cell(count(round(dense * (1 - params))) if dense else UNKNOWN),
        Cell(f"{100 * params:.1f}"),
        Cell(f"{100 * macs:.1f}"),
    ]


def _rates(figures: Mapping[str, Any], folder: Path, task: Track) -> dict[str, float]:
    """Return EERs by evaluation set: of the training's own look at the dev set, and of scores in a folder."""
    found = {DEV: number(figures.get("eer"))}
    for path in sorted(folder.glob("*.tsv")):
        try:
            found[path.stem] = evaluate(path, path, task).metrics["eer"]
        except InputError:  # said of the run's own scores elsewhere on the page
            continue
    return found


def _cells(rates: Mapping[str, float], sets: Sequence[str]) -> list[Cell]:
    return [Cell(f"{100 * rates[name]:.2f}" if name in rates else UNKNOWN) for name in sets]
