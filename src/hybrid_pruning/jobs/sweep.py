"""`sweep`: a grid of jobs from one recipe, each cell a whole `run`, to one table and one plot of errors over size."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config, load_config
from hybrid_pruning.console import Table, say, say_rule
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, hold
from hybrid_pruning.jobs.grid import Axes, GridCell, choose, lay_out, parse_axes
from hybrid_pruning.jobs.run import Job, run
from hybrid_pruning.jobs.steps import ROUNDS, Step, bring_up_to_date
from hybrid_pruning.jobs.sweep_results import SetFigures, Swept, draw_sweep, print_sweep, to_markdown, write_tsv
from hybrid_pruning.models.card.evaluations import FOLDER as EVALUATION
from hybrid_pruning.models.size import count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import plots, report
from hybrid_pruning.reporting.published import PAPER, read_published
from hybrid_pruning.training.runs import Run, decisive
from hybrid_pruning.training.shared import share_stages

FINISHED = "finished"


def sweep(
    recipe: str | Path | Config,
    sparsities: str | Sequence[float],
    out: str | Path,
    overrides: Sequence[str] = (),
    methods: str | Sequence[str] = (),
    seeds: str | Sequence[int] = (),
    vary: Sequence[str] = (),
    only: str | Sequence[str] = (),
) -> Path:
    """Run a recipe's whole job at each cell of a grid, and write the table and the plot of all that are finished.

    Cells that begin with the same stages train them once. Processes may share the folder, each with cells of its own.
    On a single process a cell that fails does not stop the others: it is raised when they are done.

    Args:
        recipe: its file, or a checked one.
        sparsities: fractions removed, numbers or a text with commas; 0 is the dense model.
        out: folder of the cells; called again, the sweep goes on there, and finished cells are skipped.
        overrides: `key=value` settings over the recipe's file.
        methods: of pruning, values of `pruning.method`; by default the recipe's.
        seeds: by default the recipe's; the table has means over them.
        vary: `key=A,B`, further keys of the recipe, each with its values in YAML.
        only: names of the cells to run, `*` standing for any letters; by default all.

    Returns:
        The table, sweep.md; beside it are sweep.tsv, .svg and .png and, of a sweep over sparsities alone, .html.
    """
    out, axes = Path(out), parse_axes(sparsities, methods, seeds, vary)
    config = recipe if isinstance(recipe, Config) else load_config(recipe, overrides)
    cells = lay_out(config, axes)
    chosen = choose(cells, only)
    processes.start()
    failed = _run_cells(chosen, cells, out)
    table = out / "sweep.md"
    with hold(out, wait=True) if processes.is_main() else nullcontext():
        done = [cell for cell in cells if cell.name not in failed and describe_state(cell, out) == FINISHED]
        if processes.is_main():
            given = None if isinstance(recipe, Config) else (recipe, overrides)
            swept = [read_cell(cell, out, write_command(cell, out, given)) for cell in done]
            write_sweep(swept, [cell.name for cell in cells if cell not in done], config, table)
        if axes == Axes(axes.sparsities):
            _report(done, out, table.with_suffix(".html"))
    if failed:
        reason = next(iter(failed.values()))
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{table}: is without {', '.join(failed)}: {reason}{more}; call again to go on there")
    return table


def list_cells(cells: Sequence[GridCell], out: Path) -> Table:
    """Return the cells of a sweep and how far each has come."""
    states = [describe_state(cell, out) for cell in cells]
    note = f"{states.count(FINISHED)} of {len(cells)} cells are finished"
    return Table(
        ("cell", "state"), [(cell.name, state) for cell, state in zip(cells, states, strict=True)], note=note, left=2
    )


def describe_state(cell: GridCell, out: Path) -> str:
    """Return how far a cell has come, in words."""
    job = Job(cell.config, out / cell.name)
    try:
        there = job.run.exists() and Run(job.run).read_config()
    except InputError:
        there = None
    if not there:
        return "not begun"
    if decisive(there) != decisive(cell.config):
        return "of another recipe"
    stages = Run(job.run).stages(cell.config) or [Run(job.run)]
    for stage, its in zip(stages, job.trainings, strict=True):
        if (done := stage.trained_epochs()) < its.training.epochs:
            name = f"{stage.folder.name}: " if cell.config.stages else ""
            return f"{name}epoch {done} of {its.training.epochs}"
    made = [job.model / "config.json", *(job.out / EVALUATION / f"{name}.json" for name in job.task.sets)]
    return FINISHED if all(path.exists() for path in made) else "trained"


def read_cell(cell: GridCell, out: Path, command: str = "") -> Swept:
    """Read a finished cell, and measure its scores again in every resample."""
    job = Job(cell.config, out / cell.name)
    model = SpeechModel.from_pretrained(job.model)
    budget = count_kept(model.backbone).budget
    params = int(budget.params) + count_parameters(model.head, model.classifier)
    sets = {}
    for name in job.task.sets:
        found = job.task.evaluate(name, job.out / "scores" / f"{name}.tsv")
        sets[name] = SetFigures(found.metrics, found.drawn, found.resampled, found.track.main)
    return Swept(cell, float(budget.sparsity), params, int(budget.macs), sets, model.calibration is not None, command)


def write_command(cell: GridCell, out: Path, given: tuple[str | Path, Sequence[str]] | None) -> str:
    """Return the command that makes a cell again: of a recipe's file and its overrides, or of the cell's own recipe."""
    if given is None:
        folder = out / cell.name
        return shlex.join(["hybrid-pruning", "run", str(folder / "run" / "config.yaml"), "--out", str(folder)])
    recipe, overrides = given
    changes = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["hybrid-pruning", "sweep", str(recipe), "--out", str(out), *cell.options, *changes])


def write_sweep(swept: Sequence[Swept], missing: Sequence[str], config: Config, table: Path) -> None:
    """Print the table, write it as Markdown and TSV, and the plot as SVG and PNG."""
    rows = read_published(config.corpus.name if config.corpus else "", optional=True)
    published = [row for row in rows if row.source.startswith(PAPER)]
    print_sweep(swept, missing)
    write_tsv(swept, table.with_suffix(".tsv"))
    with atomic_write(table) as handle:
        handle.write(to_markdown(swept, missing, published))
    figure = draw_sweep(swept, published)
    for ending in (".svg", ".png"):
        plots.save_figure(figure, table.with_suffix(ending))


def _run_cells(chosen: Sequence[GridCell], cells: Sequence[GridCell], out: Path) -> Mapping[str, InputError]:
    """Run cells one after another; return the errors of those that failed, and raise where all did."""
    # one record of the manifests, unless the cells differ in them
    shared = len({(cell.config.corpus, Job(cell.config, out).inputs) for cell in cells}) == 1
    failed: dict[str, InputError] = {}
    for cell in chosen:
        if processes.is_main():
            say_rule(cell.name)
        try:
            run_cell(cell, out, shared)
        except InputError as error:
            if processes.count() > 1 or len(failed) == len(chosen) - 1:
                raise
            failed[cell.name] = error
            say(f"error: {cell.name}: {error}", error=True)
    return failed


def run_cell(cell: GridCell, out: Path, shared: bool) -> None:
    """Run a cell's job, with the stages that other cells have trained already."""
    job = out / cell.name
    with hold(job) if processes.is_main() else nullcontext():
        others = (Run(path) for path in sorted(out.glob("*/run")) if path.parent != job)
        for stage, place in processes.from_main(lambda: share_stages(cell.config, Run(job / "run"), others)).items():
            if processes.is_main():
                say(f"stage {stage}: from {place}")
        run(cell.config, job, prepared=out if shared else None)


def _report(done: Sequence[GridCell], out: Path, page: Path) -> None:
    """Write the report of all runs, where their figures are newer."""
    figures = tuple(sorted(path for cell in done for path in (out / cell.name / EVALUATION).glob("*.json")))
    make = partial(report, [out / cell.name / "run" for cell in done], page, rounds=ROUNDS)
    bring_up_to_date([Step("sweep report", make, (page,), {}, figures)], out)
