"""The tables and the figure of a sweep: cells as TSV, means over seeds beside the dense models, errors over size."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_pruning import markdown
from hybrid_pruning.console import Cell, Table, say, say_table
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.jobs.grid import GridCell, name_size
from hybrid_pruning.jobs.steps import DEV
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.metrics.bootstrap import Interval, over_replicas
from hybrid_pruning.metrics.measures import TITLES
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.published import Published, is_of_set
from hybrid_pruning.reporting.run_files import count
from hybrid_pruning.reporting.score_tables import METRICS, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNCALIBRATED = "*: not calibrated, since lower dev scores speak for the positive class or all are the same."
PAPERS_HEADINGS = ("set", "system", "removed %", "parameters, M", "FLOPs, G", "EER %", "minDCF")
Estimate = tuple[float, Interval]
MOST_NAMED = 12
"""Missing cells that a note names."""


@dataclass(frozen=True, slots=True, eq=False)
class SetFigures:
    """A cell's figures on one evaluation set.

    Args:
        metrics: fractions, bits, and the numbers of trials.
        drawn: metric -> [rounds] its values in the resamples, which are the same for all cells.
        resampled: the units that were drawn, in words.
        main: the metrics to show.
    """

    metrics: Mapping[str, float]
    drawn: Mapping[str, FloatArray]
    resampled: str
    main: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """A finished cell, its figures by evaluation set, and the command that makes it again.

    Removed is the fraction of the encoder's parameters; `params` are of encoder and head, MACs of the encoder, for
    `SECONDS` of audio. It is not calibrated where the dev scores were inverted or all the same.
    """

    cell: GridCell
    removed: float
    params: int
    macs: int
    sets: Mapping[str, SetFigures]
    calibrated: bool = True
    command: str = ""


def group(swept: Iterable[Swept], key: Callable[[GridCell], str]) -> dict[str, list[Swept]]:
    """Return cells by a part of their names, in the order of their first."""
    found: dict[str, list[Swept]] = {}
    for one in swept:
        found.setdefault(key(one.cell), []).append(one)
    return found


def estimate(seeds: Sequence[Swept], name: str, metric: str) -> Estimate:
    """Return a metric on an evaluation set: its mean over cells that differ in their seeds alone, and the interval."""
    found = [one.sets[name] for one in seeds]
    values = np.stack([its.drawn[metric] for its in found])
    return float(np.mean([its.metrics[metric] for its in found])), over_replicas(values)


def find_dense(cell: GridCell, swept: Iterable[Swept]) -> Swept | None:
    """Return the dense model of a cell's seed and values or, where those concern pruned models, the seed's only one."""
    dense = {one.cell.name: one for one in swept if not one.cell.target and one.cell.config.seed == cell.config.seed}
    return dense.get(cell.dense) or (next(iter(dense.values())) if len(dense) == 1 else None)


def estimate_difference(seeds: Sequence[Swept], swept: Sequence[Swept], name: str, metric: str) -> Estimate | None:
    """Return a metric less that of the dense cell of the same seed; None for the dense, and without any.

    Both are measured on the same resamples. A seed whose dense cell is not finished does not count.
    """
    found = [(one, find_dense(one.cell, swept)) for one in seeds]
    pairs = [(one.sets[name], its.sets[name]) for one, its in found if its is not None]
    if not pairs or seeds[0].cell.target == 0:
        return None
    values = np.stack([ours.drawn[metric] - theirs.drawn[metric] for ours, theirs in pairs])
    mean = np.mean([ours.metrics[metric] - theirs.metrics[metric] for ours, theirs in pairs])
    return float(mean), over_replicas(values)


def list_sets(swept: Sequence[Swept]) -> list[str]:
    """Return the names of all evaluation sets."""
    return list(dict.fromkeys(name for one in swept for name in one.sets))


def print_sweep(swept: Sequence[Swept], missing: Sequence[str]) -> None:
    """Print the table, intervals and differences below their figures."""
    table = lay_out_table(swept, missing)
    say_table(replace(table, note=""), box="rule")
    say(table.note)


def to_markdown(swept: Sequence[Swept], missing: Sequence[str] = (), published: Sequence[Published] = ()) -> str:
    """Return the table in Markdown, and below it the paper's figures on the same sets."""
    theirs = []
    for name in list_sets(swept):
        for row in (row for row in published if is_of_set(row, name)):
            theirs.append((name, row.system, *row.cells(".3f" if row.eer <= 0.001 else ".2f")))
    text = markdown.to_markdown(lay_out_table(swept, missing))
    if theirs:
        text += "\nAs the paper has them (arXiv 2508.16232), not measured here:\n\n"
        text += markdown.to_markdown(Table(PAPERS_HEADINGS, theirs))
    return text


def lay_out_table(swept: Sequence[Swept], missing: Sequence[str] = ()) -> Table:
    """Return the table: a row for each set and cells that differ in their seeds alone, sets together."""
    groups = group(swept, lambda cell: cell.group)
    several = any(one.cell.name != one.cell.group for one in swept)
    rows: list[list[str | Cell]] = []
    for name in list_sets(swept):
        for title, seeds in groups.items():
            if name not in seeds[0].sets:
                continue
            removed, params, macs = (
                np.mean([getattr(one, key) for one in seeds]) for key in ("removed", "params", "macs")
            )
            marked = title if all(one.calibrated for one in seeds) else f"{title} *"
            row: list[str | Cell] = [name, marked, *([str(len(seeds))] if several else [])]
            row += [f"{100 * removed:.1f}", count(round(params)), count(round(macs))]
            row += [_show(seeds, swept, name, metric) for metric in seeds[0].sets[name].main]
            rows.append(row)
    main = next(iter(swept[0].sets.values())).main
    headings = ("set", "model", *(["seeds"] if several else []), "cut %", "size", "MACs")
    return Table([*headings, *(TITLES[metric] for metric in main)], rows, note=_explain(swept, missing), left=2)


def write_tsv(swept: Sequence[Swept], path: Path) -> None:
    """Write a row for each cell and set: fractions and counts, each metric with the ends of its 95% interval."""
    axes = list(dict.fromkeys(axis for one in swept for axis in one.cell.values))
    metrics = list(dict.fromkeys(metric for one in swept for its in one.sets.values() for metric in its.metrics))
    drawn = {metric for one in swept for its in one.sets.values() for metric in its.drawn}
    ends = [(metric, end) for metric in metrics for end in (("", "_low", "_high") if metric in drawn else ("",))]
    rows = []
    for name in list_sets(swept):
        for one in (one for one in swept if name in one.sets):
            found: dict[tuple[str, str], object] = {}
            for metric, value in one.sets[name].metrics.items():
                found[metric, ""] = value
                if metric in one.sets[name].drawn:
                    _, interval = estimate([one], name, metric)
                    found[metric, "_low"], found[metric, "_high"] = interval.low, interval.high
            chosen = [one.cell.values.get(axis, "") for axis in axes]
            sizes = (one.cell.target, one.removed, one.params, one.macs)
            figures = [found.get(place, "") for place in ends]
            seed, calibrated = one.cell.config.seed, str(one.calibrated).lower()
            rows.append((name, one.cell.name, *chosen, seed, *sizes, *figures, calibrated, one.command))
    columns = ("set", "model", *axes, "seed", "target_sparsity", "sparsity", "params", "macs")
    write_table(path, (*columns, *("".join(place) for place in ends), "calibrated", "command"), rows)


def _show(seeds: Sequence[Swept], swept: Sequence[Swept], name: str, metric: str) -> Cell:
    """Return a figure, its interval, and its difference from the dense model, bold where that is more than chance."""
    _, factor, digits = METRICS[metric]  # the decimals of the report
    (found, interval), change = estimate(seeds, name, metric), estimate_difference(seeds, swept, name, metric)
    low, high = (f"{factor * end:.{digits}f}" for end in astuple(interval))
    shown = Cell(f"{factor * found:.{digits}f}", f"{low}–{high}")
    if change is None:
        return shown
    mean, low, high = (signed(factor * value, digits) for value in (change[0], *astuple(change[1])))
    surely = change[1].low > 0 or change[1].high < 0
    return shown._replace(further=(f"{mean}: {low} to {high}", "bold" if surely else ""))


def _explain(swept: Sequence[Swept], missing: Sequence[str]) -> str:
    drawn = {name: one.sets[name].resampled for one in swept for name in one.sets}
    units = "; ".join(f"{name}: {resampled}" for name, resampled in drawn.items())
    units = next(iter(drawn.values())) if len(set(drawn.values())) == 1 else units
    seeds = {len(cells) for cells in group(swept, lambda cell: cell.group).values()}
    paired = any(one.cell.target for one in swept) and any(not one.cell.target for one in swept)
    note = (
        f"Cut: of the encoder's parameters. Size: parameters of encoder and head. MACs: the encoder's, {SECONDS:g} s. "
        "Below or behind each figure its 95% interval"
        + (", then its difference from the dense model of the same seed, with its own" if paired else "")
        + ("" if seeds == {1} else "; figures are means over seeds")
        + f". Intervals by resampling {'' if seeds == {1} else 'seeds and '}{units}."
        + (" One training each: how much another seed would change is in no interval." if seeds == {1} else "")
        + (" Where there is one seed, its interval has no seeds in it." if 1 in seeds and len(seeds) > 1 else "")
    )
    if not all(one.calibrated for one in swept):
        note += f" {UNCALIBRATED}"
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        note += f" Not finished, and not in this table: {', '.join(missing[:MOST_NAMED])}{more}."
    return note


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
    dense = [one for one in swept if not one.cell.target]
    lines = group([one for one in swept if one.cell.target], lambda cell: cell.line or ALONE)
    ink: dict[str, Any] = {"color": plots.INK, "linestyle": "none", "zorder": 4}
    for place, seeds in enumerate(group(dense, lambda cell: cell.group).values()):
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
        start = {its.cell.name: its for one in cells if (its := find_dense(one.cell, dense)) is not None}
        if start:
            ends = [_find_point([*start.values()], metric, size, name), found[0]]
            axes.plot(*zip(*ends, strict=True), **{**look, "marker": None})


def _draw_points(
    axes: "Axes", groups: Sequence[Sequence[Swept]], metric: str, size: str, name: str, look: Mapping[str, Any]
) -> list[tuple[float, float]]:
    """Draw the means over seeds with their intervals, and each seed; return the means."""
    factor = _scale(metric)
    points = [_find_point(seeds, metric, size, name) for seeds in groups]
    intervals = [estimate(seeds, name, metric)[1] for seeds in groups]
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
