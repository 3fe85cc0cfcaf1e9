"""The figures of a training: curves over its steps, several runs in one, and how its gates made up their minds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 360
"""Of a curve; longer ones are averaged over stretches of steps."""
SMOOTHING = 15
"""A noisy curve's mean runs over this part of it."""
PANEL = 104
"""Height of one of several small figures in one, in points."""
LEVELS = 12
"""Shades of a heat map."""
SOLID, DASHED, DOTTED = "solid", (0, (4, 2)), (0, (1, 1.3))


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Args:
        steps: [N] training steps.
        values: [N] what is drawn.
        system: index of the run, which decides the colour; None for what is no run's own.
        dash: its line style.
        width: its width in points.
        noisy: draw it faintly, and its running mean over it.
    """

    steps: Sequence[float]
    values: Sequence[float]
    system: int | None = None
    dash: Any = SOLID
    width: float = 1.5
    noisy: bool = False

    @property
    def colour(self) -> str:
        """Of the run."""
        return plots.MUTED if self.system is None else colour_of(self.system)


def colour_of(system: int) -> str:
    """Return the colour that stands for a run on the whole page."""
    return plots.COLOURS[system % len(plots.COLOURS)]


def draw_curves(lines: Sequence[Line], label: str, log: bool = False, unit_interval: bool = False) -> "Figure":
    """Draw curves over the training steps.

    Args:
        lines: what to draw, the later ones on top.
        label: of the vertical axis.
        log: give it a logarithmic scale.
        unit_interval: keep 0 in sight, as is right for fractions.
    """
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, 0.62 * plots.WIDTH)
        _draw(axes, lines, log)
        axes.set_ylabel(label)
        axes.set_xlabel("step")
        if unit_interval:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return figure


def draw_panels(panels: Mapping[str, Sequence[Line]], log: bool = False, mark: Mapping[str, float] = {}) -> "Figure":
    """Draw several small figures over the same steps, one idea each.

    Args:
        panels: title -> curves.
        log: give all vertical axes a logarithmic scale.
        mark: title -> a value to draw a line at.
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    with plots.styled():
        figure, _ = plots.new_figure(plots.WIDTH, _height(rows, columns))
        figure.clear()
        grid: Any = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
            _draw(axes, lines, log)
            axes.set_title(title, loc="left", fontsize=10, color=plots.INK)
            axes.tick_params(labelsize=9)
            if title in mark:
                axes.axhline(mark[title], color=plots.MUTED, linewidth=0.9, linestyle=DASHED)
        for axes in list(grid.flat)[len(panels) :]:
            axes.axis("off")
        for axes in grid[-1]:
            axes.set_xlabel("step")
        if len(panels) % columns:  # the panel above the empty place is the last of its column
            grid[-2][-1].tick_params(labelbottom=True)
    return figure


def draw_gates(history: Mapping[str, tuple[Sequence[float], npt.ArrayLike]], colour: str) -> "Figure":
    """Draw how the open probabilities of each kind of unit spread, validation after validation.

    Args:
        history: kind of unit -> epochs [E] and counts [E, bins] over probabilities from 0 to 1.
        colour: of the darkest shade.
    """
    columns = 2 if len(history) > 1 else 1
    rows = -(-len(history) // columns)
    with plots.styled():
        figure, _ = plots.new_figure(plots.WIDTH, _height(rows, columns))
        figure.clear()
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (unit, (epochs, counts)) in zip(grid.flat, history.items(), strict=False):
            table = np.asarray(counts, dtype=np.float64)
            _shade(axes, np.asarray(epochs, dtype=np.float64), table, colour)
            axes.set_title(f"{unit}: {table[-1].sum():,.0f}", loc="left", fontsize=10, color=plots.INK)
            axes.tick_params(labelsize=9)
        for axes in list(grid.flat)[len(history) :]:
            axes.axis("off")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        for axes in grid[:, 0]:
            axes.set_ylabel("p(open)")
        if len(history) % columns:
            grid[-2][-1].tick_params(labelbottom=True)
    return figure


def draw_histograms(systems: Mapping[str, plots.Scores], threshold: float) -> "Figure":
    """Draw the scores of several systems under each other, over the same axis.

    Args:
        systems: name -> scores of bona fide speech and of spoofs.
        threshold: the decision threshold to mark.
    """
    edges = plots.bin_edges(list(systems.values()))
    with plots.styled():
        figure, _ = plots.new_figure(plots.WIDTH, _height(len(systems), 1))
        figure.clear()
        grid: Any = figure.subplots(len(systems), 1, sharex=True, squeeze=False)
        for axes, (name, scores) in zip(grid.flat, systems.items(), strict=True):
            plots.fill_scores(axes, scores, edges, ("bona fide", "spoof"), threshold)
            axes.set_title(name, loc="left", fontsize=10, color=plots.INK)
            axes.tick_params(labelsize=9)
        grid[-1][0].set_xlabel("score")
        figure.supylabel("share of the class, %", fontsize=11, color=plots.MUTED)
    return figure


def thin(values: Sequence[float]) -> FloatArray:
    """Return a long curve's means over stretches of equal length, a short one as it is."""
    array = np.asarray(values, dtype=np.float64)
    if array.size <= MOST_POINTS:
        return array
    edges = np.linspace(0, array.size, MOST_POINTS + 1).astype(int)[:-1]
    sums: FloatArray = np.add.reduceat(array, edges)
    return sums / np.diff(np.append(edges, array.size))


def short(value: float) -> str:
    """Return a number in as few letters as it needs: 0.0005 -> '5e-4', 12.0 -> '12'."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")


def smooth(values: FloatArray) -> FloatArray:
    """Return the running mean over a part of the curve, shorter at its ends."""
    reach = max(values.size // SMOOTHING // 2, 1)
    total = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(values.size)
    near = np.minimum(np.minimum(places, places[::-1]), reach)
    means: FloatArray = (total[places + near + 1] - total[places - near]) / (2 * near + 1)
    return means


def _height(rows: int, columns: int) -> float:
    """Return the height of a figure of several; one alone is as high as a curve."""
    return 0.62 * plots.WIDTH if rows == columns == 1 else 26 + PANEL * rows


def _draw(axes: "Axes", lines: Sequence[Line], log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    if log:
        axes.set_yscale("log")
    for line in lines:
        steps, values = thin(line.steps), thin(line.values)
        if line.noisy and values.size > 4:
            axes.plot(steps, values, color=line.colour, linewidth=0.7, alpha=0.3)
            values = smooth(values)
        marker = "o" if values.size == 1 else "none"
        look: dict[str, Any] = {"color": line.colour, "linestyle": line.dash, "linewidth": line.width}
        axes.plot(steps, values, marker=marker, markersize=4, **look)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if log:
        axes.yaxis.set_major_locator(LogLocator(subs=_log_steps(axes.get_ylim()), numticks=6))
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _log_steps(limits: tuple[float, float]) -> tuple[float, ...]:
    """Return what a logarithmic axis names within a decade: more where it has few of them."""
    return (1.0,) if limits[1] > 50 * limits[0] else (1.0, 2.0, 5.0)


def _shade(axes: "Axes", epochs: FloatArray, counts: FloatArray, colour: str) -> None:
    """Draw a heat map over the epochs, shade by shade."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    level = np.ceil(LEVELS * np.sqrt(share)).astype(int)
    edges = _edges(epochs)
    height = 1 / counts.shape[1]
    for shade in range(1, LEVELS + 1):
        boxes = [(edges[x], y * height, edges[x + 1] - edges[x], height) for x, y in np.argwhere(level == shade)]
        plots.fill_boxes(axes, boxes, colour, shade / LEVELS)
    axes.grid(False)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1)
    axes.set_yticks((0, 0.5, 1), ("0", "½", "1"))
    axes.set_xticks([epochs[0], epochs[-1]] if len(epochs) > 1 else [epochs[0]])


def _edges(epochs: FloatArray) -> FloatArray:
    """Return the edges of columns around the epochs, which need not be evenly spaced."""
    middles = (epochs[1:] + epochs[:-1]) / 2
    first = epochs[0] - (middles[0] - epochs[0] if middles.size else 0.5)
    last = epochs[-1] + (epochs[-1] - middles[-1] if middles.size else 0.5)
    return np.concatenate(([first], middles, [last]))
