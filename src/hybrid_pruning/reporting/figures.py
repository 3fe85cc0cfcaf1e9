"""Figures of trainings and models: curves over the steps, the spread of the gates, and the kept units as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.models.size import KeptUnits
from hybrid_pruning.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 360
"""Of a curve; longer ones are averaged over stretches of steps."""
SMOOTHING = 15
"""A noisy curve's mean runs over this part of it."""
LEVELS = 12
"""Shades of a heat map."""
SOLID, DASHED, DOTTED = "solid", (0, (4, 2)), (0, (1, 1.3))
ROW, BAR = 19.0, 13.0
"""Height of a row of the kept units and of the boxes in it, in points."""
LEFT, HEADS, FEED_FORWARD, RIGHT, COUNTS = 24.0, 150.0, 200.0, plots.WIDTH - 62.0, float(plots.WIDTH)
"""Beginning of the boxes, end of the heads, beginning and end of the neurons' bars, end of the counts."""
SUBLAYERS = {"head": "attlayer", "interm": "ffnlayer"}
"""Kind of unit -> the gate of its whole sub-layer: while that is closed, the unit's own gate has no effect."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; `system` is the index of its run, None for none or several. A noisy one is faint, its mean over it."""

    steps: Sequence[float]
    values: Sequence[float]
    system: int | None = None
    dash: Any = SOLID
    width: float = 1.5
    noisy: bool = False


def draw_curves(lines: Sequence[Line], label: str, unit_interval: bool = False) -> "Figure":
    """Draw curves over the training steps, the later ones on top; with 0 in sight for values of a unit interval."""
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, 0.62 * plots.WIDTH)
        _draw_lines(axes, lines, log=False)
        axes.set(xlabel="step", ylabel=label)
        if unit_interval:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return figure


def draw_panels(panels: Mapping[str, Sequence[Line]], log: bool = False, mark: Mapping[str, float] = {}) -> "Figure":
    """Draw a small figure per title over the same steps, with a line at the value of `mark` where it has one."""
    with plots.styled():
        figure, grid = plots.new_grid(list(panels), 2, "step")
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            _draw_lines(axes, lines, log)
            if title in mark:
                axes.axhline(mark[title], color=plots.MUTED, linewidth=0.9, linestyle=DASHED)
    return figure


def draw_gates(history: Mapping[str, tuple[Sequence[float], npt.ArrayLike]], colour: str) -> "Figure":
    """Draw the spread of the open probabilities by kind of unit: epochs [E], and counts [E, bins] from 0 to 1."""
    tables = {unit: np.asarray(counts, dtype=np.float64) for unit, (_, counts) in history.items()}
    with plots.styled():
        titles = [f"{unit}: {table[-1].sum():,.0f}" for unit, table in tables.items()]
        figure, grid = plots.new_grid(titles, 2, "epoch", sharey=True)
        for axes, (unit, table) in zip(grid, tables.items(), strict=True):
            epochs = np.asarray(history[unit][0], dtype=np.float64)
            middles = (epochs[1:] + epochs[:-1]) / 2  # the epochs need not be evenly spaced
            first = epochs[0] - (middles[0] - epochs[0] if middles.size else 0.5)
            last = epochs[-1] + (epochs[-1] - middles[-1] if middles.size else 0.5)
            edges, height = [first, *middles, last], 1 / table.shape[1]
            share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
            level = np.ceil(LEVELS * np.sqrt(share)).astype(int)
            for shade in range(1, LEVELS + 1):
                places = np.argwhere(level == shade)
                boxes = [(edges[x], y * height, edges[x + 1] - edges[x], height) for x, y in places]
                plots.fill_boxes(axes, boxes, colour, shade / LEVELS)
            axes.grid(False)
            axes.set(xlim=(first, last), ylim=(0, 1), xticks=sorted({epochs[0], epochs[-1]}))
            axes.set_yticks((0, 0.5, 1), ("0", "½", "1"))
        for axes in grid[::2]:
            axes.set_ylabel("p(open)")
    return figure


@dataclass(slots=True)
class _Canvas:
    """Boxes by their look, and texts, in points from the upper left corner; `top` is that of the current row."""

    top: float = 0.0
    kept: list[plots.Box] = field(default_factory=list)
    gone: list[plots.Box] = field(default_factory=list)
    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def write(self, x: float, text: str, align: str = "left", muted: bool = True) -> None:
        look = {"ha": align, "color": plots.MUTED if muted else plots.INK, "size": 10}
        self.texts.append((x, self.top + BAR / 2, text, look))

    def bar(self, left: float, right: float, share: float) -> None:
        """Draw a bar of which a share is filled; fully only where all is kept, empty only where nothing is."""
        width = right - left
        filled = share * width if share in (0, 1) else min(max(share * width, 1.5), width - 1.5)
        self.kept += [(left, self.top, filled, BAR)] if filled else []
        self.gone += [(left + filled, self.top, width - filled, BAR)] if filled < width else []

    def without_units(self, start: float, end: float, is_open: bool) -> None:
        """Draw a sub-layer without units: while it is open, it still adds its bias."""
        self.gone.append((start, self.top, end - start, BAR))
        self.write((start + end) / 2, "bias only" if is_open else "closed", "center")


def draw_kept_units(left: KeptUnits, colour: str = plots.COLOURS[0]) -> "Figure":
    """Draw kept units filled, removed ones pale: a bar per convolution; per layer a cell per head, a bar of neurons."""
    from matplotlib.figure import Figure

    canvas = _Canvas()
    _draw_convolutions(canvas, left)
    _draw_layers(canvas, left)
    height = canvas.top + 2
    with plots.styled():
        figure = Figure(figsize=(plots.WIDTH / 72, height / 72))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, plots.WIDTH), ylim=(height, 0))
        axes.axis("off")
        plots.fill_boxes(axes, canvas.gone, plots.GRID)
        plots.fill_boxes(axes, canvas.kept, colour)
        for x, y, text, look in canvas.texts:
            axes.text(x, y, text, va="center_baseline", **look)
    return figure


def active_units(left: KeptUnits, name: str) -> int:
    """Return how many units of a slot are kept: none where their whole sub-layer is closed."""
    unit, _, layer = name.partition(".")
    return left.kept[name] if left.kept.get(f"{SUBLAYERS.get(unit)}.{layer}", 1) else 0


def thin(values: Sequence[float]) -> FloatArray:
    """Return a long curve's means over stretches of equal length, a short one as it is."""
    array = np.asarray(values, dtype=np.float64)
    if array.size <= MOST_POINTS:
        return array
    edges = np.linspace(0, array.size, MOST_POINTS + 1).astype(int)[:-1]
    sums: FloatArray = np.add.reduceat(array, edges)
    return sums / np.diff(np.append(edges, array.size))


def smooth(values: FloatArray) -> FloatArray:
    """Return the running mean over a part of the curve, shorter at its ends."""
    reach = max(values.size // SMOOTHING // 2, 1)
    total = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(values.size)
    near = np.minimum(np.minimum(places, places[::-1]), reach)
    means: FloatArray = (total[places + near + 1] - total[places - near]) / (2 * near + 1)
    return means


def short(value: float) -> str:
    """Return a number in as few letters as it needs: 0.0005 -> '5e-4', 12.0 -> '12'."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")


def _draw_lines(axes: "Axes", lines: Sequence[Line], log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    if log:
        axes.set_yscale("log")
    for line in lines:
        colour = plots.MUTED if line.system is None else plots.colour_of(line.system)
        steps, values = thin(line.steps), thin(line.values)
        if line.noisy and values.size > 4:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
            values = smooth(values)
        look: dict[str, Any] = {"color": colour, "linestyle": line.dash, "linewidth": line.width, "markersize": 4}
        axes.plot(steps, values, marker="o" if values.size == 1 else "none", **look)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if log:
        low, high = axes.get_ylim()
        named = (1.0,) if high > 50 * low else (1.0, 2.0, 5.0)  # of a decade: more where there are few
        axes.yaxis.set_major_locator(LogLocator(subs=named, numticks=6))
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _draw_convolutions(canvas: _Canvas, left: KeptUnits) -> None:
    names = [name for name in left.sizes if name.startswith("conv.")]
    if not names:
        return
    widest = max(left.sizes[name] for name in names)
    canvas.write(LEFT, "convolutions", muted=False)
    canvas.write(COUNTS, "channels", "right")
    canvas.top += ROW
    for name in names:
        kept, size = left.kept[name], left.sizes[name]
        canvas.write(LEFT - 8, name.partition(".")[2], "right")
        canvas.bar(LEFT, LEFT + (RIGHT - LEFT) * size / widest, kept / size)
        canvas.write(COUNTS, f"{kept}/{size}", "right")
        canvas.top += ROW
    canvas.top += ROW / 2


def _draw_layers(canvas: _Canvas, left: KeptUnits) -> None:
    canvas.write(LEFT, "attention heads", muted=False)
    canvas.write(FEED_FORWARD, "feed-forward", muted=False)
    canvas.write(COUNTS, "neurons", "right")
    canvas.top += ROW
    for layer in dict.fromkeys(name.partition(".")[2] for name in left.sizes if name.startswith("head.")):
        canvas.write(LEFT - 8, layer, "right")
        heads, neurons = active_units(left, f"head.{layer}"), active_units(left, f"interm.{layer}")
        size, width = left.sizes[f"head.{layer}"], left.sizes[f"interm.{layer}"]
        pitch = min((HEADS - LEFT) / size, BAR + 2)
        for unit in range(size if heads else 0):
            (canvas.kept if unit < heads else canvas.gone).append((LEFT + unit * pitch, canvas.top, pitch - 2, BAR))
        if not heads:
            end = max(LEFT + size * pitch - 2, LEFT + 58)
            canvas.without_units(LEFT, end, bool(left.kept.get(f"attlayer.{layer}", 1)))
        canvas.write(COUNTS, f"{neurons}/{width}", "right")
        if neurons:
            canvas.bar(FEED_FORWARD, RIGHT, neurons / width)
        else:
            canvas.without_units(FEED_FORWARD, RIGHT, bool(left.kept.get(f"ffnlayer.{layer}", 1)))
        canvas.top += ROW
