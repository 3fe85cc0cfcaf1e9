"""A figure as SVG inside a page: in the page's colours and fonts, with names of its own, the same every day."""

import io
import re
from html import escape
from typing import TYPE_CHECKING

from hybrid_pruning import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {colour: f"var(--run-{index})" for index, colour in enumerate(plots.COLOURS)} | {
    plots.INK: "var(--ink)",
    plots.MUTED: "var(--muted)",
    plots.GRID: "var(--grid)",
    plots.PAPER: "var(--paper)",
    plots.BONAFIDE: "var(--bonafide)",
    plots.SPOOF: "var(--spoof)",
}
"""What matplotlib is told, and what the page says instead: its style sheet has one value for light, one for dark."""
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def to_inline_svg(figure: "Figure", name: str, label: str) -> str:
    """Return a figure as an `<svg>` element.

    Args:
        figure: what to show.
        name: unique on the page; the element's inner ids begin with it.
        label: what is seen, for those who cannot.
    """
    stream = io.StringIO()
    with plots.styled():
        figure.savefig(stream, format="svg", transparent=True, metadata=NO_METADATA)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r" font-family: [^;\"]+;| transform=\"rotate\(-0 [^\"]+\"", "", svg)
    svg = re.sub(r' (?:d|x|y)="[^"]+"', _round, svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    view = re.search(r'viewBox="([^"]+)"', svg)
    assert view is not None
    opening = f'<svg viewBox="{view[1]}" role="img" aria-label="{escape(label)}">'
    return opening + svg[svg.index(">") + 1 :].strip()


def _round(attribute: re.Match[str]) -> str:
    """Cut coordinates to hundredths of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])
