"""`sweep`: one recipe at several sparsities, from raw corpus to a table and a plot of errors over size."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_pruning import distributed as processes
from hybrid_pruning import markdown
from hybrid_pruning.config import Config, check_config, expand_stages, load_config
from hybrid_pruning.console import Cell, Table, say, say_rule, say_table
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, hold
from hybrid_pruning.jobs.run import run
from hybrid_pruning.jobs.steps import DEV, ROUNDS, Step, bring_up_to_date
from hybrid_pruning.metrics.measures import TITLES
from hybrid_pruning.models.card.measured import FOLDER as EVALUATION
from hybrid_pruning.models.card.measured import Result, read_results
from hybrid_pruning.models.size import SECONDS, count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import plots, report
from hybrid_pruning.reporting.published import PAPER, Published, is_known, is_of_set, read_published
from hybrid_pruning.reporting.run_files import count
from hybrid_pruning.reporting.score_tables import METRICS
from hybrid_pruning.training.runs import snapshot_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNCALIBRATED = "*: not calibrated, since lower dev scores speak for the positive class or all are the same."
HEADINGS = ("set", "model", "cut %", "size", "MACs")
PAPERS_HEADINGS = ("set", "system", "removed %", "parameters, M", "FLOPs, G", "EER %", "minDCF")
MARKERS = ("o", "s", "^", "D", "v", "P")
"""One per evaluation set, for print without colour; the paper's are hollow."""


@dataclass(frozen=True, slots=True)
class Swept:
    """One job of a sweep, with the fraction of the encoder's parameters to be removed and that removed.

    Args:
        params: of encoder and head.
        macs: of the encoder, for `SECONDS` of audio.
        results: figures of each evaluation set, by its name.
        metrics: the names of those to show.
        calibrated: False where the dev scores were inverted or all the same.
    """

    name: str
    target: float
    removed: float
    params: int
    macs: int
    results: dict[str, Result]
    metrics: tuple[str, ...]
    calibrated: bool = True


SIZES: Mapping[str, tuple[Callable[[Swept], float], Callable[[Published], float | None]]] = {
    "parameters, encoder and head, M": (lambda job: job.params / 1e6, lambda row: row.params_m),
    f"MACs of the encoder, {SECONDS:g} s, G": (
        lambda job: job.macs / 1e9,
        lambda row: None if row.flops_g is None else row.flops_g / 2,
    ),
}
"""Axis -> ours and the paper's. The paper counts 57.4 G FLOPs where the dense encoder has 28.5 G MACs: two for each."""


def sweep(
    recipe: str | Path | Config, sparsities: str | Sequence[float], out: str | Path, overrides: Sequence[str] = ()
) -> Path:
    """Run a recipe's whole job at each sparsity, and write the table, the plot and the report of all.

    On a single process a job that fails does not stop the others: it is raised when they are done and in the table.

    Args:
        recipe: its file, or a checked one.
        sparsities: fractions removed, numbers or a text with commas; 0 is the dense model.
        out: folder of the jobs; called again, the sweep goes on there, and finished jobs are skipped.
        overrides: `key=value` settings over the recipe's file.

    Returns:
        The table, sweep.md; beside it are sweep.tsv, .svg, .png and .html.
    """
    values, out = parse_sparsities(sparsities), Path(out)
    config = recipe if isinstance(recipe, Config) else load_config(recipe, overrides)
    processes.start()
    recipes = {value: set_sparsity(config, value) for value in values}
    with hold(out) if processes.is_main() else nullcontext():
        failed = _run_jobs(recipes, out)
        done = {name_job(value): value for value in values if name_job(value) not in failed}
        sets, table = (DEV, *config.data.eval), out / "sweep.md"
        swept = [read_job(out / name, value, sets) for name, value in done.items()]
        if processes.is_main():
            corpus = config.corpus.name if config.corpus else ""
            rows = read_published(corpus) if is_known(corpus) else []
            write_sweep(swept, [row for row in rows if row.source.startswith(PAPER)], table)
        page, runs = table.with_suffix(".html"), [out / name / "run" for name in done]
        figures = tuple(out / job / EVALUATION / f"{name}.json" for job in done for name in sets)
        make = partial(report, runs, page, rounds=ROUNDS)
        bring_up_to_date([Step("sweep report", make, (page,), {}, figures)], out)
    if failed:
        reason = next(iter(failed.values()))
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{table}: is without {', '.join(failed)}: {reason}{more}; call again to go on there")
    return table


def _run_jobs(recipes: Mapping[float, Config], out: Path) -> dict[str, InputError]:
    """Run the jobs one after another; return the errors of those that failed, and raise where all did."""
    failed: dict[str, InputError] = {}
    for name, recipe in ((name_job(value), recipe) for value, recipe in recipes.items()):
        if processes.is_main():
            say_rule(name)
        try:
            run(recipe, out / name, prepared=out)
        except InputError as error:
            if processes.count() > 1 or len(failed) == len(recipes) - 1:
                raise
            failed[name] = error
            say(f"error: {name}: {error}", error=True)
    return failed


def parse_sparsities(values: str | Sequence[float]) -> tuple[float, ...]:
    """Return sparsities in rising order, each from 0 to below 1 and there once."""
    words = [word.strip() for word in values.split(",")] if isinstance(values, str) else [str(one) for one in values]
    found: dict[str, float] = {}
    for word in words or [""]:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 <= value < 1:
            raise InputError(
                f"--sparsity: '{word}', expected fractions removed, from 0 (dense) to below 1, such as 0,0.5,0.7"
            )
        if (name := name_job(value)) in found:
            raise InputError(f"--sparsity {','.join(words)}: {name} stands twice; give each value once")
        found[name] = value
    return tuple(sorted(found.values()))


def name_job(value: float) -> str:
    """Return the name of the job at a sparsity: 0 -> dense, 0.5 -> hp50."""
    return "dense" if value == 0 else snapshot_name(value)


def set_sparsity(config: Config, value: float) -> Config:
    """Return a recipe at another sparsity, 0 for training without pruning; with stages, that of the ones that prune."""
    tree = config.model_dump(mode="json")
    stages = expand_stages(config)
    pruned = {name: stage for name, stage in stages.items() if stage.pruning.use_pruning_loss}
    if stages and not pruned:
        raise InputError(f"sweep: none of the stages {', '.join(stages)} prunes: turn pruning.use_pruning_loss on")
    for stage in pruned.values() if stages else [config]:
        if stage.pruning.export_at:
            raise InputError(
                "sweep: the recipe has pruning.export_at, several sizes from one training: use `run`, or "
                "--set pruning.export_at=[] --set pruning.export_hold_epochs=0"
            )
    changes: dict[str, Any] = {"use_pruning_loss": value > 0, **({"target_sparsity": value} if value > 0 else {})}
    for part in [tree["stages"][name] for name in pruned] if stages else [tree]:
        part["pruning"] = {**part.get("pruning", {}), **changes}
    return check_config(tree, f"the recipe at sparsity {value:g}")


def read_job(job: Path, target: float, sets: Sequence[str]) -> Swept:
    """Read a finished job and its figures on the evaluation sets, in the order to show them in."""
    model = SpeechModel.from_pretrained(job / "model")
    budget = count_kept(model.backbone).budget
    params = int(budget.params) + count_parameters(model.head, model.classifier)
    results = {result.name: result for result in read_results([f"{s}={job / EVALUATION / s}.json" for s in sets])}
    metrics = SV.main if model.task == "speaker-verification" else TRACK1.main
    calibrated = model.calibration is not None
    return Swept(job.name, target, float(budget.sparsity), params, int(budget.macs), results, metrics, calibrated)


def write_sweep(swept: Sequence[Swept], published: Sequence[Published], table: Path) -> None:
    """Print the table, intervals below their figures, and write it as Markdown and TSV, and the plot as SVG and PNG."""
    laid_out = _lay_out(swept)
    say_table(replace(laid_out, note=""), box="rule")
    say(laid_out.note)
    write_tsv(swept, table.with_suffix(".tsv"))
    with atomic_write(table) as handle:
        handle.write(to_markdown(swept, published))
    figure = draw_sweep(swept, published)
    for ending in (".svg", ".png"):
        plots.save_figure(figure, table.with_suffix(ending))


def to_markdown(swept: Sequence[Swept], published: Sequence[Published] = ()) -> str:
    """Return the table in Markdown, intervals behind their figures, and below it the paper's on the same sets."""
    theirs = []
    for name in swept[0].results:
        for row in (row for row in published if is_of_set(row, name)):
            removed = None if row.sparsity is None else 100 * row.sparsity
            values = (removed, row.params_m, row.flops_g, 100 * row.eer, row.min_dcf)
            forms = (".0f", ".1f", ".1f", ".3f" if row.eer <= 0.001 else ".2f", ".3f")
            cells = ("–" if value is None else format(value, form) for value, form in zip(values, forms, strict=True))
            theirs.append((name, row.system, *cells))
    text = markdown.to_markdown(_lay_out(swept))
    if theirs:
        text += "\nAs the paper has them (arXiv 2508.16232), not measured here:\n\n"
        text += markdown.to_markdown(Table(PAPERS_HEADINGS, theirs))
    return text


def write_tsv(swept: Sequence[Swept], path: Path) -> None:
    """Write the figures as fractions and counts, each metric with the ends of its 95% interval."""
    metrics = swept[0].metrics
    ends = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    rows = []
    for name in swept[0].results:
        for job in swept:
            result = job.results[name]
            values = [v for metric in metrics for v in (result.metrics[metric], *result.intervals[metric])]
            sizes = (job.target, job.removed, job.params, job.macs)
            rows.append((name, job.name, *sizes, *values, str(job.calibrated).lower()))
    write_table(path, ("set", "model", "target_sparsity", "sparsity", "params", "macs", *ends, "calibrated"), rows)


def _lay_out(swept: Sequence[Swept]) -> Table:
    """Return the table, the rows of one evaluation set together."""
    rows = []
    for name in swept[0].results:
        for job in swept:
            result, marked = job.results[name], job.name if job.calibrated else f"{job.name} *"
            row: list[str | Cell] = [name, marked, f"{100 * job.removed:.1f}", count(job.params), count(job.macs)]
            for metric in job.metrics:
                _, factor, digits = METRICS[metric]  # the decimals of the report
                figures = (result.metrics[metric], *result.intervals[metric])
                value, *ends = (f"{factor * figure:.{digits}f}" for figure in figures)
                row.append(Cell(value, "–".join(ends)))
            rows.append(row)
    drawn = {name: result.resampled for name, result in swept[0].results.items()}
    units = "; ".join(f"{name}: {resampled}" for name, resampled in drawn.items())
    units = next(iter(drawn.values())) if len(set(drawn.values())) == 1 else units
    note = (
        f"Cut: of the encoder's parameters. Size: parameters of encoder and head. MACs: the encoder's, {SECONDS:g} s. "
        f"Below or behind each figure its 95% interval, by resampling {units}."
        + ("" if all(job.calibrated for job in swept) else f" {UNCALIBRATED}")
    )
    return Table([*HEADINGS, *(TITLES[metric] for metric in swept[0].metrics)], rows, note=note, left=2)


def draw_sweep(swept: Sequence[Swept], published: Sequence[Published] = ()) -> "Figure":
    """Draw EER and minDCF over parameters and over MACs, with the 95% intervals of ours in front of the paper's points.

    A line is an evaluation set; the dev set is drawn where there is no other.
    """
    names = [name for name in swept[0].results if name != DEV] or [DEV]
    with plots.styled():
        figure, _ = plots.new_figure(1.9 * plots.WIDTH, 1.5 * plots.WIDTH)
        figure.clear()
        grid: Any = figure.subplots(2, len(SIZES), sharex="col", sharey="row")
        for metric, row in zip(swept[0].metrics, grid, strict=False):
            for size, axes in zip(SIZES, row, strict=True):
                for place, name in enumerate(names):
                    theirs = [other for other in published if is_of_set(other, name)]
                    _draw_paper(axes, theirs, metric, size, MARKERS[place % len(MARKERS)])
                    _draw_ours(axes, swept, metric, size, place, name)
                axes.set_xlim(left=0)
                axes.set_ylim(bottom=0)
            row[0].set_ylabel(TITLES[metric].replace(" %", ", %"))
        above: dict[str, Any] = {"textcoords": "offset points", "rotation": 45, "fontsize": 9, "color": plots.MUTED}
        for size, top, bottom in zip(SIZES, *grid, strict=True):
            bottom.set_xlabel(size)
            for job in swept:
                point = SIZES[size][0](job), 1
                top.annotate(job.name, point, (-3, 3), xycoords=top.get_xaxis_transform(), **above)
        lines: dict[str, Any] = {}  # every one named once, ours first
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                lines.setdefault(label, handle)
        order = sorted(lines, key=lambda label: label not in [plots.label_of(name) for name in names])
        figure.legend([lines[label] for label in order], order, loc="outside upper left", ncols=3)
    return figure


def _scale(metric: str) -> int:
    return 100 if TITLES[metric].endswith("%") else 1


def _draw_ours(axes: "Axes", swept: Sequence[Swept], metric: str, size: str, place: int, name: str) -> None:
    results = [job.results[name] for job in swept]
    x, y = [SIZES[size][0](job) for job in swept], [_scale(metric) * result.metrics[metric] for result in results]
    sides = [
        [abs(value - _scale(metric) * result.intervals[metric][end]) for value, result in zip(y, results, strict=True)]
        for end in (0, 1)
    ]
    look: dict[str, Any] = {
        "color": plots.COLOURS[place % len(plots.COLOURS)],
        "linestyle": plots.DASHES[place % len(plots.DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }
    axes.errorbar(x, y, sides, label=plots.label_of(name), capsize=2.5, elinewidth=0.9, zorder=3, **look)


def _draw_paper(axes: "Axes", rows: Sequence[Published], metric: str, size: str, marker: str) -> None:
    drawn = [row for row in rows if row.family in ("dense", "Hybrid Pruning")]
    points = [(SIZES[size][1](row), row.eer if metric == "eer" else row.min_dcf) for row in drawn]
    known = sorted((x, _scale(metric) * y) for x, y in points if x is not None and y is not None)
    if known:
        look: dict[str, Any] = {"color": plots.MUTED, "markerfacecolor": plots.PAPER, "linewidth": 0.9, "zorder": 1}
        axes.plot(*zip(*known, strict=True), linestyle=":", marker=marker, label=f"{rows[0].set}, the paper's", **look)
