"""The jobs of a sweep as tables for people and for programs, and as a plot of errors over size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_pruning import markdown
from hybrid_pruning.console import Cell, Table, say, say_table
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.files import atomic_write
from hybrid_pruning.jobs.task_steps import DEV
from hybrid_pruning.metrics.measures import TITLES
from hybrid_pruning.models.card.measured import FOLDER as EVALUATION
from hybrid_pruning.models.card.measured import Result, read_results
from hybrid_pruning.models.size import SECONDS, count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.overview import METRICS, count
from hybrid_pruning.reporting.published import Published, is_of_set

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNCALIBRATED = "*: not calibrated, since lower dev scores speak for the positive class or all are the same."
HEADINGS = ("set", "model", "cut %", "size", "MACs")
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
ERRORS: Mapping[str, Callable[[Published], float | None]] = {
    "eer": lambda row: row.eer,
    "min_dcf": lambda row: row.min_dcf,
}
"""Kind of metric, as its name begins -> the paper's."""


def read_job(job: Path, target: float, sets: Sequence[str]) -> Swept:
    """Read a finished job and its figures on the evaluation sets, in the order to show them in."""
    model = SpeechModel.from_pretrained(job / "model")
    budget = count_kept(model.backbone).budget
    params = int(budget.params) + count_parameters(model.head) + count_parameters(model.classifier)
    results = {result.name: result for result in read_results([f"{s}={job / EVALUATION / s}.json" for s in sets])}
    metrics = SV.main if model.task == "speaker-verification" else TRACK1.main
    calibrated = model.calibration is not None
    return Swept(job.name, target, float(budget.sparsity), params, int(budget.macs), results, metrics, calibrated)


def write_sweep(swept: Sequence[Swept], published: Sequence[Published], table: Path) -> None:
    """Print the table, intervals below their figures, and write it as Markdown and TSV, and the plot as SVG and PNG."""
    say_table(_lay_out(swept), box="rule")
    say(_explain(swept))
    write_tsv(swept, table.with_suffix(".tsv"))
    with atomic_write(table) as handle:
        handle.write(to_markdown(swept, published))
    figure = draw_sweep(swept, published)
    for ending in (".svg", ".png"):
        plots.save_figure(figure, table.with_suffix(ending))


def to_markdown(swept: Sequence[Swept], published: Sequence[Published] = ()) -> str:
    """Return the table in Markdown, intervals behind their figures, and below it the paper's on the same sets."""
    text = markdown.to_markdown(replace(_lay_out(swept), note=_explain(swept)))
    forms = (".0f", ".1f", ".1f", ".2f", ".3f")
    theirs = []
    for name in swept[0].results:
        for row in published:
            if is_of_set(row, name):
                removed = None if row.sparsity is None else 100 * row.sparsity
                values = (removed, row.params_m, row.flops_g, 100 * row.eer, row.min_dcf)
                tiny = row.eer <= 0.001
                cells = (
                    "–" if value is None else f"{value:{'.3f' if tiny and place == 3 else form}}"
                    for place, (value, form) in enumerate(zip(values, forms, strict=True))
                )
                theirs.append((name, row.system, *cells))
    if theirs:
        columns = ("set", "system", "removed %", "parameters, M", "FLOPs, G", "EER %", "minDCF")
        text += "\nAs the paper has them (arXiv 2508.16232), not measured here:\n\n"
        text += markdown.to_markdown(Table(columns, theirs))
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
    return Table([*HEADINGS, *(TITLES[metric] for metric in swept[0].metrics)], rows, left=2)


def _explain(swept: Sequence[Swept]) -> str:
    drawn = {name: result.resampled for name, result in swept[0].results.items()}
    units = "; ".join(f"{name}: {resampled}" for name, resampled in drawn.items())
    units = next(iter(drawn.values())) if len(set(drawn.values())) == 1 else units
    return (
        f"Cut: of the encoder's parameters. Size: parameters of encoder and head. MACs: the encoder's, {SECONDS:g} s. "
        f"Below or behind each figure its 95% interval, by resampling {units}."
        + ("" if all(job.calibrated for job in swept) else f" {UNCALIBRATED}")
    )


def draw_sweep(swept: Sequence[Swept], published: Sequence[Published] = ()) -> "Figure":
    """Draw EER and minDCF over parameters and over MACs, with the 95% intervals of ours in front of the paper's points.

    A line is an evaluation set; the dev set is drawn where there is no other.
    """
    names = [name for name in swept[0].results if name != DEV] or [DEV]
    with plots.styled():
        figure, _ = plots.new_figure(1.9 * plots.WIDTH, 1.5 * plots.WIDTH)
        figure.clear()
        grid: Any = figure.subplots(len(ERRORS), len(SIZES), sharex="col", sharey="row")
        for metric, row in zip(swept[0].metrics, grid, strict=False):
            scale = 100 if TITLES[metric].endswith("%") else 1
            for size, axes in zip(SIZES, row, strict=True):
                for place, name in enumerate(names):
                    theirs = [other for other in published if is_of_set(other, name)]
                    _draw_paper(axes, theirs, metric, scale, size, MARKERS[place % len(MARKERS)])
                    _draw_ours(axes, swept, metric, scale, size, place, name)
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


def _draw_ours(
    axes: "Axes", swept: Sequence[Swept], metric: str, scale: float, size: str, place: int, name: str
) -> None:
    x = [SIZES[size][0](job) for job in swept]
    y = [job.results[name].metrics[metric] for job in swept]
    sides = [
        [scale * abs(value - job.results[name].intervals[metric][side]) for value, job in zip(y, swept, strict=True)]
        for side in (0, 1)
    ]
    look: dict[str, Any] = {
        "color": plots.COLOURS[place % len(plots.COLOURS)],
        "linestyle": plots.DASHES[place % len(plots.DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }
    heights, label = [scale * value for value in y], plots.label_of(name)
    axes.errorbar(x, heights, sides, label=label, capsize=2.5, elinewidth=0.9, zorder=3, **look)


def _draw_paper(axes: "Axes", rows: Sequence[Published], metric: str, scale: float, size: str, marker: str) -> None:
    error = next(of for begin, of in ERRORS.items() if metric.startswith(begin))
    points = [(SIZES[size][1](row), error(row)) for row in rows if row.family in ("dense", "Hybrid Pruning")]
    known = sorted((x, scale * y) for x, y in points if x is not None and y is not None)
    if known:
        look: dict[str, Any] = {"color": plots.MUTED, "markerfacecolor": plots.PAPER, "linewidth": 0.9, "zorder": 1}
        axes.plot(*zip(*known, strict=True), linestyle=":", marker=marker, label=f"{rows[0].set}, the paper's", **look)
