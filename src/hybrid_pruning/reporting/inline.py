"""A figure as SVG inside a page: in the page's colours and fonts, with names of its own, the same every day."""

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from hybrid_pruning.console import visible
from hybrid_pruning.reporting import plots

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


def to_inline_svg(figure: "Figure", name: str, label: str) -> Markup:
    """Return a figure as an `<svg>` element: the only markup that goes into a page as it is.

    Args:
        figure: what to show.
        name: unique on the page; the element's inner ids begin with it.
        label: what is seen, for those who cannot.
    """
    stream = io.StringIO()
    plots.write_figure(figure, stream, "svg", transparent=True)
    text = stream.getvalue()
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    root = ElementTree.fromstring(text)
    svg = ElementTree.Element("svg", {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": visible(label)})
    svg.extend(part for part in root if _plain(part.tag) in ("g", "defs") and part.find("{*}style") is None)
    for element in svg.iter():
        element.tag, element.tail = _plain(element.tag), None
        if element.tag != "text":
            element.text = None
        attributes = {_plain(key): value for key, value in element.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({key: _restyle(key, value, name) for key, value in attributes.items()})
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _plain(name: str) -> str:
    """Return a name without its namespace."""
    return name.rpartition("}")[2]


def _restyle(key: str, value: str, name: str) -> str:
    """Return an attribute's value with the page's colours, ids that begin with a name, and short coordinates."""
    if key == "id":
        return f"{name}-{value}"
    if key in ("d", "x", "y"):  # cut to hundredths of a point
        return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
    if key == "style":
        value = re.sub(r" ?font-family: [^;]+;", "", value)
    for colour, variable in COLOURS.items():
        value = value.replace(colour, variable)
    return value.replace("#", f"#{name}-") if key == "href" else value.replace("url(#", f"url(#{name}-")
