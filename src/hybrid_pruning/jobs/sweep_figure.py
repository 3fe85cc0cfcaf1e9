"""The figure of a sweep: errors over parameters and over multiply-accumulates, a line a method, the paper's behind."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_pruning.jobs.grid import name_size
from hybrid_pruning.jobs.steps import DEV
from hybrid_pruning.jobs.sweep_tables import Swept, estimate, group, list_sets
from hybrid_pruning.metrics.measures import TITLES
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.published import Published, is_of_set

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "P", "v", "X")
"""One per line, for print without colour; the paper's are hollow."""
ALONE, DENSE, PAPERS = "pruned", "dense", "the paper's, not measured here"
"""Names of a line that is the only one, of the dense models, and of the paper's."""
APART = 2.2
"""Points between the lines."""
SIZES: Mapping[str, tuple[Callable[[Swept], float], Callable[[Published], float | None]]] = {
    "parameters, encoder and head, M": (lambda one: one.params / 1e6, lambda row: row.params_m),
    f"MACs of the encoder, {SECONDS:g} s, G": (
        lambda one: one.macs / 1e9,
        lambda row: None if row.flops_g is None else row.flops_g / 2,
    ),
}
"""Axis -> ours and the paper's. The paper counts 57.4 G FLOPs where the dense encoder has 28.5 G MACs: two for each."""


def draw_sweep(swept: Sequence[Swept], published: Sequence[Published] = ()) -> "Figure":
    """Draw the EER of each set, of a single one also minDCF, with 95% intervals, and each seed as a small point.

    The dev set is drawn where there is no other. A line begins at its dense model; lines stand apart by a little, so
    that their intervals do.
    """
    sets = list_sets(swept)
    names = [name for name in sets if name != DEV] or sets
    main = next(iter(swept[0].sets.values())).main
    panels = [(name, metric) for name in names for metric in main[: 2 if len(names) == 1 else 1]]
    with plots.styled():
        figure, _ = plots.new_figure(1.9 * plots.WIDTH, (0.35 + 0.6 * len(panels)) * plots.WIDTH)
        figure.clear()
        grid: Any = figure.subplots(len(panels), len(SIZES), sharex="col", sharey="row", squeeze=False)
        for (name, metric), row in zip(panels, grid, strict=True):
            there = [one for one in swept if name in one.sets]
            for size, axes in zip(SIZES, row, strict=True):
                _draw_ours(axes, there, metric, size, name)
                _draw_paper(axes, [other for other in published if is_of_set(other, name)], metric, size)
                axes.set(xlim=(0, 1.06 * axes.dataLim.xmax), ylim=(0, 1.06 * axes.dataLim.ymax or 1))
            row[0].set_ylabel(TITLES[metric].replace(" %", ", %"))
            row[0].annotate(name, (0, 0), (6, 7), xycoords="axes fraction", textcoords="offset points")
        _name_sizes(swept, grid)
        known: dict[str, Any] = {}  # every one named once
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                known.setdefault(label, handle)
        order = sorted(known, key=lambda label: (label == PAPERS, label == DENSE))
        figure.legend([known[label] for label in order], order, loc="outside upper left", ncols=3)
    return figure


def _draw_ours(axes: "Axes", swept: Sequence[Swept], metric: str, size: str, name: str) -> None:
    """Draw the dense models, and a line from them through the smaller ones of each method and varied values."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.figure
    dense = {one.cell.name: one for one in swept if not one.cell.target}
    lines = group([one for one in swept if one.cell.target], lambda cell: cell.line or ALONE)
    ink: dict[str, Any] = {"color": plots.INK, "linestyle": "none", "zorder": 4}
    for place, seeds in enumerate(group(dense.values(), lambda cell: cell.group).values()):
        label = {} if place else {"label": DENSE}
        _draw_points(axes, [seeds], metric, size, name, ink | label | {"marker": "D", "transform": axes.transData})
    for place, (line, cells) in enumerate(lines.items()):
        turn, shift = place // len(plots.COLOURS), APART * (place - (len(lines) - 1) / 2) / 72
        look: dict[str, Any] = {
            "color": plots.COLOURS[place % len(plots.COLOURS)],
            "linestyle": plots.DASHES[place % len(plots.DASHES)],
            "marker": MARKERS[(place + turn) % len(MARKERS)],
            "transform": axes.transData + ScaledTranslation(shift, 0, figure.dpi_scale_trans),
            "zorder": 3,
        }
        groups = list(group(cells, lambda cell: cell.group).values())
        found = _draw_points(axes, groups, metric, size, name, look | {"label": plots.label_of(line)})
        start = [dense[key] for key in dict.fromkeys(one.cell.dense for one in cells) if key in dense]
        if start:
            ends = [_find_point(start, metric, size, name), found[0]]
            axes.plot(*zip(*ends, strict=True), **{**look, "marker": None})


def _draw_points(
    axes: "Axes", groups: Sequence[Sequence[Swept]], metric: str, size: str, name: str, look: Mapping[str, Any]
) -> list[tuple[float, float]]:
    """Draw the means over seeds with their intervals, and each seed; return the means."""
    factor = _scale(metric)
    points = [_find_point(seeds, metric, size, name) for seeds in groups]
    intervals = [estimate(seeds, name, metric).interval for seeds in groups]
    highest = [(x, factor * its.high) for (x, _), its in zip(points, intervals, strict=True)]
    below = [max(0.0, y - factor * its.low) for (_, y), its in zip(points, intervals, strict=True)]
    above = [max(0.0, high - y) for (_, y), (_, high) in zip(points, highest, strict=True)]
    x, y = ([point[axis] for point in points] for axis in (0, 1))
    axes.errorbar(x, y, [below, above], capsize=2.5, elinewidth=0.9, **look)
    axes.update_datalim(highest)  # which matplotlib does not do for what stands apart
    for seeds in groups:
        if len(seeds) > 1:
            each = [_find_point([one], metric, size, name) for one in seeds]
            small: dict[str, Any] = {"marker": "o", "s": 13, "edgecolors": plots.PAPER, "linewidths": 0.7}
            axes.scatter(*zip(*each, strict=True), color=look["color"], transform=look["transform"], zorder=5, **small)
    return points


def _find_point(seeds: Sequence[Swept], metric: str, size: str, name: str) -> tuple[float, float]:
    """Return the mean size and the mean metric of cells."""
    x = float(np.mean([SIZES[size][0](one) for one in seeds]))
    return x, _scale(metric) * float(np.mean([one.sets[name].metrics[metric] for one in seeds]))


def _scale(metric: str) -> int:
    return 100 if TITLES[metric].endswith("%") else 1


def _draw_paper(axes: "Axes", rows: Sequence[Published], metric: str, size: str) -> None:
    drawn = [row for row in rows if row.family in ("dense", "Hybrid Pruning")]
    points = [(SIZES[size][1](row), row.eer if metric == "eer" else row.min_dcf) for row in drawn]
    known = sorted((x, _scale(metric) * y) for x, y in points if x is not None and y is not None)
    if known:
        look: dict[str, Any] = {"color": plots.MUTED, "markerfacecolor": plots.PAPER, "linewidth": 0.9, "zorder": 1}
        axes.plot(*zip(*known, strict=True), linestyle=":", marker="o", label=PAPERS, **look)


def _name_sizes(swept: Sequence[Swept], grid: Any) -> None:
    """Write each sparsity above the top panels, at the mean size of its models, and the axes' names below."""
    targets = sorted({one.cell.target for one in swept})
    above: dict[str, Any] = {"textcoords": "offset points", "rotation": 45, "fontsize": 9, "color": plots.MUTED}
    for size, top, bottom in zip(SIZES, grid[0], grid[-1], strict=True):
        bottom.set_xlabel(size)
        for target in targets:
            x = np.mean([SIZES[size][0](one) for one in swept if one.cell.target == target])
            top.annotate(name_size(target), (float(x), 1), (-3, 3), xycoords=top.get_xaxis_transform(), **above)
