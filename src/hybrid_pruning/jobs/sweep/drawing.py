"""The plot of a sweep: errors over what is left, ours in front of the paper's."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybrid_pruning.jobs.pipeline import DEV
from hybrid_pruning.jobs.sweep.summary import Swept
from hybrid_pruning.metrics.titles import TITLES
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.published import Published, is_of_set

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One per evaluation set, for print without colour; the paper's are hollow."""
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


def draw_sweep(swept: Sequence[Swept], published: Sequence[Published] = ()) -> "Figure":
    """Draw EER and minDCF over parameters and over MACs, with the 95% intervals of ours.

    A line is an evaluation set; the dev set is drawn where there is no other.

    Args:
        swept: the jobs of a sweep, of rising sparsity.
        published: the paper's rows on the same corpus.
    """
    names = [name for name in swept[0].results if name != DEV] or [DEV]
    with plots.styled():
        figure, _ = plots.new_figure(1.9 * plots.WIDTH, 1.5 * plots.WIDTH)
        figure.clear()
        grid: Any = figure.subplots(len(ERRORS), len(SIZES), sharex="col", sharey="row")
        for metric, row in zip(swept[0].metrics, grid, strict=False):
            for size, axes in zip(SIZES, row, strict=True):
                for place, name in enumerate(names):
                    _draw_paper(axes, [other for other in published if is_of_set(other, name)], metric, size, place)
                    _draw_ours(axes, swept, name, metric, size, place)
                axes.set_xlim(left=0)
                axes.set_ylim(bottom=0)
            row[0].set_ylabel(TITLES[metric].replace(" %", ", %"))
        for size, top, bottom in zip(SIZES, *grid, strict=True):
            bottom.set_xlabel(size)
            _name_jobs(top, swept, size)
        _name_lines(figure, grid, names)
    return figure


def _draw_ours(axes: "Axes", swept: Sequence[Swept], name: str, metric: str, size: str, place: int) -> None:
    of_job, scale = SIZES[size][0], _scale(metric)
    found = [(of_job(job), job.results[name].metrics[metric], job.results[name].intervals[metric]) for job in swept]
    x, y = [entry[0] for entry in found], [scale * entry[1] for entry in found]
    ends = [[scale * abs(value - interval[side]) for _, value, interval in found] for side in (0, 1)]
    look: dict[str, Any] = {
        "color": plots.COLOURS[place % len(plots.COLOURS)],
        "linestyle": plots.DASHES[place % len(plots.DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }
    axes.errorbar(x, y, ends, label=plots.label_of(name), capsize=2.5, elinewidth=0.9, zorder=3, **look)


def _draw_paper(axes: "Axes", rows: Sequence[Published], metric: str, size: str, place: int) -> None:
    error = next(of for begin, of in ERRORS.items() if metric.startswith(begin))
    points = [(SIZES[size][1](row), error(row)) for row in rows if row.family in ("dense", "Hybrid Pruning")]
    known = sorted((x, _scale(metric) * y) for x, y in points if x is not None and y is not None)
    if known:
        look: dict[str, Any] = {"color": plots.MUTED, "markerfacecolor": plots.PAPER, "linewidth": 0.9, "zorder": 1}
        marker = MARKERS[place % len(MARKERS)]
        axes.plot(*zip(*known, strict=True), linestyle=":", marker=marker, label=f"{rows[0].set}, the paper's", **look)


def _name_jobs(axes: "Axes", swept: Sequence[Swept], size: str) -> None:
    """Write the jobs' names above their points."""
    place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "rotation": 45}
    for job in swept:
        axes.annotate(job.name, (SIZES[size][0](job), 1), (-3, 3), fontsize=9, color=plots.MUTED, **place)


def _name_lines(figure: "Figure", grid: Any, names: Sequence[str]) -> None:
    """Name every line once, ours first."""
    found: dict[str, Any] = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in found}
    ours = [plots.label_of(name) for name in names]
    order = sorted(found, key=lambda label: label not in ours)
    figure.legend([found[label] for label in order], order, loc="outside upper left", ncols=3)


def _scale(metric: str) -> float:
    return 100 if TITLES[metric].endswith("%") else 1
