"""Drawing without a display: the style, DET curves on normal-deviate axes, histograms of scores, files, inline SVG.

Figures are made of `matplotlib.figure.Figure` alone: no global state, no window, nothing to close. matplotlib is
imported when the first figure is drawn.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from scipy.special import ndtri

from hybrid_pruning.console import visible
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.metrics import ASVSPOOF5, Curve, DetectionCost, FloatArray, IntArray, det_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0569b", "#946f00", "#3d4fb8")
"""One per system, told apart by colour-blind people too: after Okabe and Ito, the light ones darkened for white."""
DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (7, 1.6, 1.2, 1.6)), (0, (3, 1.2)), (0, (9, 2)))
"""One per system too, for print without colour."""
INK, MUTED, GRID, PAPER = "#1a1d21", "#5c6670", "#dfe3e7", "#ffffff"
BONAFIDE, SPOOF = "#1b7f79", "#c27a0e"
VARIABLES = {colour: f"var(--run-{index})" for index, colour in enumerate(COLOURS)} | {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    BONAFIDE: "var(--bonafide)",
    SPOOF: "var(--spoof)",
}
"""Colour of a figure -> that of a page, whose style sheet has one value for light and one for dark."""
WIDTH = 380
"""Of a figure in points, small enough to be read on a telephone at its own size."""
PANEL = 104
"""Height of one of several small figures in one, in points."""
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 40, 60, 80, 90, 95, 98, 99, 99.5, 99.9, 99.99)
"""Percentages that a DET axis may name."""
CELLS = 800
"""Steps along a DET axis finer than which a curve is not drawn."""
MOST_BINS = 60
FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
RESOLUTION_DPI = 216
LONGEST = 60
"""Letters of a name in a figure; the page has it whole."""
_STYLE: Any = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same measures everywhere
    **dict.fromkeys(("font.size", "axes.labelsize"), 11),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 10),
    **dict.fromkeys(("axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 5),
    "axes.facecolor": "none",
    "text.parse_math": False,  # names may have dollar signs
    "text.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 6.5,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "path.simplify": True,
}

Box = tuple[float, float, float, float]
"""Left, top, width and height."""
Scores = tuple[npt.ArrayLike, npt.ArrayLike]
"""Scores of the positive and of the negative class, [P] and [N]."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """A figure, its title (the result), and the indices of the runs whose colours it shows, or both classes'."""

    title: str
    svg: Markup
    caption: str = ""
    runs: tuple[int, ...] = ()
    classes: bool = False


@dataclass(frozen=True, slots=True)
class PageSection:
    """Figures on one subject, and a sentence for each that is missing."""

    figures: Sequence[Captioned] = ()
    notes: Sequence[str] = ()


def draw_det(
    systems: Mapping[str, Scores],
    cost: DetectionCost = ASVSPOOF5,
    legend: bool = True,
    places: Sequence[int] | None = None,
) -> "Figure":
    """Draw the detection error trade-off of systems: misses over false alarms, both as normal deviates.

    A circle marks the operating point of the EER, a diamond that of the minDCF. Curves of many trials are thinned to
    what can be seen. `places` are the indices of the systems' colours. Raises ValueError without systems, or for a
    class without scores or with one that is not finite.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    if not systems:
        raise ValueError("no systems to draw")
    curves = {name: det_curve(*scores) for name, scores in systems.items()}
    low, high = _det_limits(list(curves.values()))
    rates = [tick / 100 for tick in TICKS if low <= tick / 100 <= high]
    ticks, labels = deviate(rates), [f"{100 * rate:g}" for rate in rates]
    limits = float(deviate(low)), float(deviate(high))
    with styled():
        figure, axes = new_figure(WIDTH, WIDTH)
        axes.plot(limits, limits, color=GRID, linewidth=0.8, zorder=0)
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="false alarms, %", ylabel="misses, %")
        axes.set_xticks(ticks, labels)
        axes.set_yticks(ticks, labels)
        for index, (name, curve) in zip(places or range(len(curves)), curves.items(), strict=True):
            look: dict[str, Any] = {"color": colour_of(index), "linestyle": DASHES[index % len(DASHES)]}
            separates = bool(np.any((curve.miss == 0) & (curve.false_alarm == 0)))
            points = _visible(curve, *limits)
            label = label_of(f"{name} (no errors)" if separates else name)
            axes.plot(deviate(curve.false_alarm[points]), deviate(curve.miss[points]), label=label, **look)
            for marker, point in (("o", eer_point(curve)), ("D", cost_point(curve, cost))):
                at = curve.false_alarm[point : point + 1], curve.miss[point : point + 1]
                axes.plot(*map(deviate, at), marker, color=look["color"], markerfacecolor=PAPER, zorder=3)
        axes.plot([], [], "o", color=MUTED, markerfacecolor=PAPER, label="EER")
        axes.plot([], [], "D", color=MUTED, markerfacecolor=PAPER, label="minDCF")
        if legend:
            figure.legend(loc="outside upper left", ncols=2)
    return figure


def draw_histograms(systems: Mapping[str, Scores], threshold: float | None = None) -> "Figure":
    """Draw histograms of bona fide speech and spoofs, system below system, and a decision threshold to mark.

    Bins are fewer where scores are few, and the outermost thousandth of all scores may lie outside the figure. Raises
    ValueError where a class is empty.
    """
    classes = [np.asarray(values, dtype=np.float64) for scores in systems.values() for values in scores]
    smallest = min(values.size for values in classes)
    if not smallest:
        raise ValueError("both classes need scores to be drawn")
    bins = min(MOST_BINS, max(8, round(2.5 * smallest ** (1 / 3))))
    low, high = np.quantile(np.concatenate(classes), (0.0005, 0.9995))
    margin = 0.05 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    with styled():
        figure, grid = new_grid(list(systems), 1, "score")
        for axes, positive, negative in zip(grid, classes[::2], classes[1::2], strict=True):
            for values, name, colour in ((positive, "bona fide", BONAFIDE), (negative, "spoof", SPOOF)):
                share = 100 * np.histogram(values, edges)[0] / values.size
                axes.stairs(share, edges, fill=True, color=colour, alpha=0.22)
                axes.stairs(share, edges, color=colour, linewidth=1.3, label=name)
            if threshold is not None:
                axes.axvline(threshold, color=MUTED, linewidth=1, linestyle=DASHES[1], label="decision threshold")
            axes.set_ylim(bottom=0)
        figure.supylabel("share of the class, %", fontsize=11, color=MUTED)
    return figure


def format_of(path: str | Path) -> str:
    """Return the format that a figure's file is written in."""
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"{path}: a figure is written as {', '.join(FORMATS)}; choose one of these endings")
    return kind


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the file's ending; the same figure gives the same bytes."""
    kind = format_of(path)
    with atomic_write(path, "wb") as handle:
        _write_figure(figure, handle, kind)


def to_inline_svg(figure: "Figure", name: str, label: str) -> Markup:
    """Return a figure as an `<svg>` element in a page's colours and fonts: the only markup that a page takes as it is.

    `name` is unique on the page, as the ids inside the element then are; `label` is for screen readers.
    """
    stream = io.StringIO()
    _write_figure(figure, stream, "svg", salt=name, transparent=True)
    root = ElementTree.fromstring(stream.getvalue())
    svg = ElementTree.Element("svg", {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": visible(label)})
    svg.extend(part for part in root if part.tag.endswith(("}g", "}defs")) and part.find("{*}style") is None)
    shared = {id(element) for element in svg.iterfind(".//{*}defs/*")}
    for element in svg.iter():
        element.tag, element.tail = element.tag.rpartition("}")[2], None
        if element.tag != "text":
            element.text = None
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        if id(element) not in shared:  # nothing refers to it
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({key: _restyle(key, value) for key, value in attributes.items()})
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _restyle(key: str, value: str) -> str:
    """Return an attribute's value with the page's font and colours, and with coordinates in hundredths of a point."""
    if key in ("d", "x", "y"):
        return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
    if key == "style":
        value = "; ".join(part for part in value.split("; ") if not part.startswith("font-family"))
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, variable)
    return value


def _write_figure(
    figure: "Figure", handle: IO[Any], kind: str, salt: str = "hybrid-pruning", transparent: bool = False
) -> None:
    """Write a figure into an open file; names in it are short and without control characters."""
    import matplotlib
    from matplotlib.text import Text

    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with styled(), matplotlib.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of scripts that DejaVu lacks: boxes
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            name, half = text.get_text(), LONGEST // 2
            text.set_text(visible(name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"))
        figure.savefig(handle, format=kind, dpi=RESOLUTION_DPI, metadata=dates.get(kind, {}), transparent=transparent)


def colour_of(system: int) -> str:
    """Return the colour that stands for a run on the whole page."""
    return COLOURS[system % len(COLOURS)]


def label_of(name: str) -> str:
    """Return a name as a curve's label: matplotlib's legends leave out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this package's style while the block runs."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure of the given size in points and its axes; call it, and draw, inside `styled`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def new_grid(titles: Sequence[str], columns: int, label: str, sharey: bool = False) -> tuple["Figure", list["Axes"]]:
    """Return small empty figures in one, which share the horizontal axis `label`; one alone is as high as a curve."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure, axes = new_figure(WIDTH, 0.62 * WIDTH if len(titles) == 1 else 26 + PANEL * rows)
    axes.remove()
    grid: Any = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False)
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.tick_params(labelsize=9)
    for axes in grid.flat[len(titles) :]:
        axes.axis("off")
        grid[-2][-1].tick_params(labelbottom=True)  # the one above the empty place is the last of its column
    for axes in grid[-1]:
        axes.set_xlabel(label)
    return figure, list(grid.flat)[: len(titles)]


def fill_boxes(axes: "Axes", boxes: Sequence[Box], colour: str, alpha: float = 1.0) -> None:
    """Draw boxes of one colour as one path, which keeps files small."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    if boxes:
        corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)] for x, y, w, h in boxes]
        outline = Outline.make_compound_path(*(Outline(box, closed=True) for box in corners))
        axes.add_patch(PathPatch(outline, facecolor=colour, alpha=alpha, linewidth=0))


def eer_point(curve: Curve) -> int:
    """Return the index of the point of a curve whose two rates are closest, as `metrics.eer` takes it."""
    return int(np.argmin(np.abs(curve.miss - curve.false_alarm)))


def cost_point(curve: Curve, cost: DetectionCost) -> int:
    """Return the index of the cheapest point of a curve, as `metrics.min_dcf` takes it."""
    return int(np.argmin(cost.normalised(curve.miss, curve.false_alarm)))


def deviate(rate: npt.ArrayLike) -> FloatArray:
    """Return the normal deviates of rates; 0 and 1 come to lie far outside any axis, not at infinity."""
    return np.asarray(ndtri(np.clip(np.asarray(rate, dtype=np.float64), 1e-9, 1 - 1e-9)))


def _det_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return both axes' limits as rates: around every system's EER, but no finer than one trial."""
    points = [(curve, eer_point(curve)) for curve in curves]
    rates = [(curve.miss[point] + curve.false_alarm[point]) / 2 for curve, point in points]
    steps = [np.abs(np.diff(rate)) for curve in curves for rate in (curve.miss, curve.false_alarm)]
    finest = min(float(step[step > 0].min()) for step in steps)
    wanted = max(min(rates) / 15, finest / 1.5)
    ticks = np.array(TICKS) / 100
    low = ticks[max(int(np.searchsorted(ticks, min(wanted, 0.05), side="right")) - 1, 0)]
    high = ticks[min(int(np.searchsorted(ticks, max(0.55, 1.25 * max(rates)))), len(ticks) - 1)]
    return float(low), float(high)


def _visible(curve: Curve, low: float, high: float) -> IntArray:
    """Return the points of a curve that differ to the eye: the first in every cell of a fine grid over the axes."""
    edges = low - 0.5, high + 0.5
    scale = CELLS / (high - low)
    cells = [np.rint(scale * np.clip(deviate(rate), *edges)) for rate in (curve.false_alarm, curve.miss)]
    moved = np.any(np.diff(cells, axis=1) != 0, axis=0)
    return np.flatnonzero(np.append(True, moved))
