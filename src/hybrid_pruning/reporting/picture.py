"""A picture of what is left of a backbone, drawn like the model: convolutions, then layers with heads and neurons."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hybrid_pruning.models.size import KeptUnits
from hybrid_pruning.reporting import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, BAR = 19.0, 13.0
"""Height of a row and of what is drawn in it, in points."""
LEFT, HEADS, FEED_FORWARD, COUNTS = 24.0, 150.0, 200.0, plots.WIDTH
"""Where the boxes begin, the heads end, the neurons' bars begin and the counts end."""
RIGHT = COUNTS - 62.0
"""Where bars end."""
SMALL = 10


@dataclass(slots=True)
class _Canvas:
    """What has been drawn so far: boxes by their look, and texts, in points from the upper left corner."""

    top: float = 0.0
    kept: list[plots.Box] = field(default_factory=list)
    gone: list[plots.Box] = field(default_factory=list)
    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def write(self, x: float, text: str, align: str = "left", muted: bool = True, size: int = SMALL) -> None:
        """Write a text into the current row."""
        look = {"ha": align, "color": plots.MUTED if muted else plots.INK, "size": size}
        self.texts.append((x, self.top + BAR / 2, text, look))

    def bar(self, left: float, right: float, share: float) -> None:
        """Draw a bar of which a share is left; it is full only where all is kept and empty only where nothing is."""
        width = right - left
        filled = share * width if share in (0, 1) else min(max(share * width, 1.5), width - 1.5)
        self.kept += [(left, self.top, filled, BAR)] if filled else []
        self.gone += [(left + filled, self.top, width - filled, BAR)] if filled < width else []

    def cells(self, left: float, right: float, kept: int, size: int) -> None:
        """Draw a cell per unit, those that are left first."""
        pitch = _pitch(left, right, size)
        for unit in range(size):
            (self.kept if unit < kept else self.gone).append((left + unit * pitch, self.top, pitch - 2, BAR))

    def nothing(self, start: float, end: float, left: KeptUnits, sublayer: str) -> None:
        """Draw a sub-layer without units: gone, or while it is open still adding its bias."""
        self.gone.append((start, self.top, end - start, BAR))
        self.write((start + end) / 2, "bias only" if left.kept.get(sublayer, 1) else "closed", "center")


def draw_survivors(left: KeptUnits, colour: str = plots.COLOURS[0]) -> "Figure":
    """Draw what is left of a backbone: a bar per convolution; per layer a cell per head and a bar of neurons.

    What is filled is left, what is pale is gone. The wave enters at the top.

    Args:
        left: the units that are left of each slot, and how many there were.
        colour: of what is left.
    """
    from matplotlib.figure import Figure

    canvas = _Canvas()
    _draw_convolutions(canvas, left)
    _draw_layers(canvas, left)
    height = canvas.top + 2
    with plots.styled():
        figure = Figure(figsize=(plots.WIDTH / 72, height / 72))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_xlim(0, plots.WIDTH)
        axes.set_ylim(height, 0)
        axes.axis("off")
        plots.fill_boxes(axes, canvas.gone, plots.GRID)
        plots.fill_boxes(axes, canvas.kept, colour)
        for x, y, text, look in canvas.texts:
            axes.text(x, y, text, va="center_baseline", **look)
    return figure


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
    for layer in dict.fromkeys(name.partition(".")[2] for name in left.sizes if not name.startswith("conv.")):
        canvas.write(LEFT - 8, layer, "right")
        _draw_attention(canvas, left, layer)
        _draw_feed_forward(canvas, left, layer)
        canvas.top += ROW


def _draw_attention(canvas: _Canvas, left: KeptUnits, layer: str) -> None:
    size = left.sizes.get(f"head.{layer}", 1)
    kept = left.kept.get(f"head.{layer}", size) * left.kept.get(f"attlayer.{layer}", 1)
    if kept:
        canvas.cells(LEFT, HEADS, kept, size)
    else:
        canvas.nothing(LEFT, max(LEFT + size * _pitch(LEFT, HEADS, size) - 2, LEFT + 58), left, f"attlayer.{layer}")


def _draw_feed_forward(canvas: _Canvas, left: KeptUnits, layer: str) -> None:
    size = left.sizes.get(f"interm.{layer}", 1)
    kept = left.kept.get(f"interm.{layer}", size) * left.kept.get(f"ffnlayer.{layer}", 1)
    canvas.write(COUNTS, f"{kept}/{size}", "right")
    if kept:
        canvas.bar(FEED_FORWARD, RIGHT, kept / size)
    else:
        canvas.nothing(FEED_FORWARD, RIGHT, left, f"ffnlayer.{layer}")


def _pitch(left: float, right: float, size: int) -> float:
    return min((right - left) / size, BAR + 2)
