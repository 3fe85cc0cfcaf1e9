import re
from xml.etree import ElementTree

import numpy as np
import pytest

from hybrid_pruning.console import visible
from hybrid_pruning.models.size import KeptUnits
from hybrid_pruning.pruning import Budget
from hybrid_pruning.reporting import figures, plots
from hybrid_pruning.reporting.figures import Line, draw_kept_units
from hybrid_pruning.reporting.plots import VARIABLES, to_inline_svg
from hybrid_pruning.reporting.published import Ours, draw_sizes, is_of_set, read_published

BUDGET = Budget(1, 1, 1, 1)


def survivors(layers: int, heads: int, neurons: int, convolutions: int, **kept: int) -> KeptUnits:
    sizes = {f"conv.{index}": 512 for index in range(convolutions)}
    for layer in range(layers):
        sizes |= {f"head.{layer}": heads, f"attlayer.{layer}": 1, f"interm.{layer}": neurons, f"ffnlayer.{layer}": 1}
    return KeptUnits(sizes | {name.replace("_", "."): count for name, count in kept.items()}, sizes, BUDGET)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(("layers", "heads", "neurons", "convolutions"), [(12, 12, 3072, 7), (4, 6, 1536, 1)])
def test_the_picture_has_a_row_per_convolution_and_layer(
    layers: int, heads: int, neurons: int, convolutions: int
) -> None:
    figure = draw_kept_units(survivors(layers, heads, neurons, convolutions, interm_1=7, head_2=3))
    assert texts(figure).count("512/512") == convolutions
    assert texts(figure).count(f"{neurons}/{neurons}") == layers - 1
    assert f"7/{neurons}" in texts(figure)
    pale, filled = (patch.get_path() for patch in figure.axes[0].patches)
    assert len(pale.to_polygons()) == heads - 3 + 1
    assert len(filled.to_polygons()) == convolutions + layers * heads - (heads - 3) + layers


def test_the_picture_tells_closed_from_empty() -> None:
    left = survivors(3, 4, 48, 0, attlayer_0=0, head_1=0, ffnlayer_2=0)
    assert texts(draw_kept_units(left)).count("closed") == 2
    assert texts(draw_kept_units(left)).count("bias only") == 1
    assert "0/48" in texts(draw_kept_units(left))


def test_a_bar_is_full_or_empty_only_at_the_ends() -> None:
    figure = draw_kept_units(survivors(2, 2, 10_000, 0, interm_0=1, interm_1=9_999))
    pale, filled = (sorted(map(len, patch.get_path().to_polygons())) for patch in figure.axes[0].patches)
    assert len(pale) == 2
    assert len(filled) == 4 + 2


def test_long_curves_are_thinned_to_their_means() -> None:
    values = np.random.default_rng(0).random(10_007)
    thinned = figures.thin(values)
    assert thinned.size == figures.MOST_POINTS
    edges = np.linspace(0, values.size, figures.MOST_POINTS + 1).astype(int)
    np.testing.assert_allclose(thinned[[0, -1]], [values[: edges[1]].mean(), values[edges[-2] :].mean()])
    np.testing.assert_array_equal(figures.thin(values[:50]), values[:50])


def test_the_running_mean_keeps_lines_and_ends() -> None:
    line = np.linspace(3, 5, 101)
    np.testing.assert_allclose(figures.smooth(line), line)
    spike = np.zeros(91)
    spike[45] = 1
    assert figures.smooth(spike)[45] == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (12.0, "12"), (0.05, "0.05"), (5e-4, "5e−4"), (-2.5e-7, "−2.5e−7"), (3e6, "3e6")]
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert figures.short(value) == expected


def test_every_panel_is_named_and_steps_are_in_thousands() -> None:
    line = Line([0, 20_000], [1.0, 2.0], 0)
    figure = figures.draw_panels({"head": [line], "gates": [line], "backbone": [line]}, log=True, mark={"head": 1.5})
    svg = to_inline_svg(figure, "p", "panels")
    for text in ("head", "gates", "backbone", "10k", "step"):
        assert f">{text}</text>" in svg


def test_a_single_point_is_seen() -> None:
    (axes,) = figures.draw_curves([Line([3], [0.5], 1)], "loss").axes
    assert axes.lines[0].get_marker() == "o"


def test_gates_are_darker_where_there_are_more() -> None:
    counts = np.zeros((2, 20))
    counts[0, 0], counts[1] = 40, 2
    (axes,) = figures.draw_gates({"heads": ([1, 2], counts)}, plots.COLOURS[0]).axes
    assert axes.get_title(loc="left") == "heads: 40"
    shades = sorted((patch.get_alpha(), len(patch.get_path().to_polygons())) for patch in axes.patches)
    assert [boxes for _, boxes in shades] == [20, 1]
    assert shades[-1][0] == 1


def test_names_in_a_figure_are_text_alone() -> None:
    names = (
        '<script id="x">',
        "</text></svg>",
        "$\\frac{x",
        "\x1b]0;owned\x07",
        "_hidden",
        "名前",
        'a" href="#b',
        "x" * 300,
    )
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, plots.WIDTH)
        for place, name in enumerate(names):
            axes.text(0, place, name)
            axes.plot([0], [place], label=plots.label_of(name))
        figure.legend()
    root = ElementTree.fromstring(to_inline_svg(figure, "f", names[0]))
    found = [element.text for element in root.iter("text")]
    for name in names[:-1]:
        assert {visible(name), f" {name}"} & set(found), name
    assert max(len(text or "") for text in found) < 70
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "text", "use", "defs", "clipPath", "rect"}


def test_an_inline_figure_belongs_to_its_page() -> None:
    svg, again, other = (
        to_inline_svg(plots.draw_det({"a & b": ([1.0, 2, 3], [0.0, 1.5])}, legend=False), name, 'a "quoted" name')
        for name in ("det-0", "det-0", "det-1")
    )
    assert svg.startswith('<svg viewBox="0 0 380 380" role="img" aria-label="a &quot;quoted&quot; name">')
    assert not [words for words in ("<style", "<metadata", "font-family") if words in svg]
    ids = re.findall(r' id="([^"]+)"', svg)
    assert set(re.findall(r"#([\w-]+)", svg)) == set(ids)
    assert "var(--run-0)" in svg
    assert svg == again
    assert not set(ids) & set(re.findall(r' id="([^"]+)"', other))


def test_only_the_pages_colours_are_used() -> None:
    figure = figures.draw_curves([Line([0, 1], [0.12345, 1], index) for index in range(6)], "loss")
    svg = to_inline_svg(figure, "f", "")
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert len(set(VARIABLES.values())) == len(VARIABLES)


def test_coordinates_are_cut_and_texts_are_not() -> None:
    figure = figures.draw_curves([Line([0, 1], [0.0511, 0.0512], 0)], "loss")
    svg = to_inline_svg(figure, "f", "")
    assert re.search(r">0\.051\d+</text>", svg)
    assert not re.search(r' d="[^"]*\.\d{3}', svg)


def test_published_rows_are_complete_and_say_where_they_are_from() -> None:
    rows = read_published("asvspoof5")
    assert all(row.source and 0 < row.eer < 0.5 for row in rows)
    paper = {(row.family, row.sparsity): row.eer for row in rows if "table 1" in row.source}
    assert len(paper) == 10
    assert paper["Hybrid Pruning", 0.5] == pytest.approx(0.0874)
    sweep = [row for row in rows if row.derived]
    assert len(sweep) == 30
    sizes = {row.sparsity: row.params_m for row in sweep}
    stated = {row.sparsity: row.params_m for row in rows if "table 1" in row.source}
    assert all(sizes[sparsity] == pytest.approx(size, abs=0.25) for sparsity, size in stated.items())


def test_published_rows_of_every_corpus() -> None:
    table = {name: read_published(name) for name in ("voxceleb", "cnceleb", "spoofceleb")}
    assert all(row.source and 0 < row.eer < 0.1 for rows in table.values() for row in rows)
    paper = {(row.set, row.params_m): row.eer for row in table["voxceleb"] if "table 2" in row.source}
    assert len(paper) == 12, "four sizes on three lists"
    assert (paper["vox1-O", 95.6], paper["vox1-H", 19.9]) == pytest.approx((0.007, 0.0191))
    assert {row.set for rows in (table["cnceleb"], table["spoofceleb"]) for row in rows} == {"eval"}
    assert [is_of_set(table["voxceleb"][0], name) for name in ("vox1-O", "vox1-o cleaned", "vox1-H")] == [1, 1, 0]


def test_our_runs_stand_out_among_the_published() -> None:
    figure = draw_sizes(read_published("asvspoof5"), [Ours("hp50", 1, 48.4, 0.08)])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "hp50, measured here"
    assert len(labels) == len(set(labels))
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (48.4, 8.0)
    theirs = draw_sizes(read_published("asvspoof5"), []).legends[0].get_texts()
    assert not [text for text in theirs if "measured here" in text.get_text()]
