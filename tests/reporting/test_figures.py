"""The figures: DET curves, histograms, curves of a training, kept units, published systems; files and inline SVG."""

import ast
import re
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from hybrid_pruning import metrics
from hybrid_pruning.console import visible
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.models.size import KeptUnits
from hybrid_pruning.pruning import Budget
from hybrid_pruning.reporting import curves, plots
from hybrid_pruning.reporting.curves import Line
from hybrid_pruning.reporting.inspection import draw_kept_units
from hybrid_pruning.reporting.plots import VARIABLES, to_inline_svg
from hybrid_pruning.reporting.published import Published, draw_sizes, is_of_set, read_published
from hybrid_pruning.reporting.run_files import Log
from hybrid_pruning.reporting.scatter import draw_embeddings, principal_components


def scores(bonafide, spoof, distance=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(distance, 1, bonafide), rng.normal(0, 1, spoof)


def curves_of(figure):
    """Return the systems' lines in normal deviates (false alarms, misses), without the diagonal and single marks."""
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]


def drawn_and_whole(trials):
    """Return [2, points] of the drawn curve, those of the whole curve within the axes, and the axes' limits."""
    figure = plots.draw_det({"a": trials})
    (line,), whole, (low, high) = curves_of(figure), metrics.det_curve(*trials), figure.axes[0].get_xlim()
    points = np.stack([plots.deviate(whole.false_alarm), plots.deviate(whole.miss)])
    return np.array(line.get_data()), points[:, ((points > low) & (points < high)).all(axis=0)], low, high


def test_det_axes_are_normal_deviates_named_in_percent():
    axes = plots.draw_det({"a": scores(300, 400)}).axes[0]
    labels = [float(label.get_text()) / 100 for label in axes.get_xticklabels()]
    np.testing.assert_allclose(axes.get_xticks(), plots.deviate(labels))
    assert axes.get_xlim() == axes.get_ylim()
    assert labels[0] <= metrics.eer(*scores(300, 400)) <= labels[-1]


def test_gaussian_scores_give_a_straight_line():
    (x, y), _, _, _ = drawn_and_whole(scores(200_000, 200_000))
    inside = (np.abs(x) < 2) & (np.abs(y) < 2)
    assert np.polyfit(x[inside], y[inside], 1)[0] == pytest.approx(-1, abs=0.02)


def test_operating_points_are_those_of_the_metrics():
    positive, negative = scores(500, 700, 1.0)
    cost = metrics.DetectionCost(0.5, 1, 3)
    curve = metrics.det_curve(positive, negative)
    at = plots.eer_point(curve)
    assert (curve.miss[at] + curve.false_alarm[at]) / 2 == metrics.eer(positive, negative)
    at = plots.cost_point(curve, cost)
    found = cost.normalised(curve.miss, curve.false_alarm)[at]
    assert found == metrics.min_dcf(positive, negative, cost.p_target, cost.cost_miss, cost.cost_false_alarm)
    lines = plots.draw_det({"a": (positive, negative)}, cost).axes[0].lines
    mark = next(line for line in lines if line.get_marker() == "D")
    assert mark.get_ydata()[0] == pytest.approx(plots.deviate(curve.miss[at]))


def test_many_trials_are_thinned_and_few_keep_every_step():
    trials = scores(140_000, 540_000)
    started = time.perf_counter()
    (x, y), whole, low, high = drawn_and_whole(trials)
    assert time.perf_counter() - started < 10  # a second on a machine of one's own
    assert len(x) < 4000
    assert np.abs(np.interp(whole[0], x[::-1], y[::-1]) - whole[1]).max() < 3 * (high - low) / plots.CELLS
    drawn, whole, _, _ = drawn_and_whole(scores(20, 30))
    assert set(map(tuple, whole.T)) <= set(map(tuple, drawn.T))


def test_systems_have_names_colours_and_dashes():
    figure = plots.draw_det({"dense": scores(50, 60), "pruned": scores(50, 60, 1.0), "clean": scores(50, 60, 99.0)})
    assert legend(figure) == ["dense", "pruned", "clean (no errors)", "EER", "minDCF"]
    assert len({line.get_color() for line in curves_of(figure)}) == 3
    assert len({str(line._unscaled_dash_pattern) for line in curves_of(figure)}) == 3
    assert not plots.draw_det({"a": scores(5, 5)}, legend=False).legends


def test_an_empty_class_is_an_error():
    with pytest.raises(ValueError, match="no systems"):
        plots.draw_det({})
    with pytest.raises(ValueError, match="none given"):
        plots.draw_det({"a": ([], [1.0])})
    with pytest.raises(ValueError, match="both classes"):
        plots.draw_histograms({"a": ([1.0], [])})


@pytest.mark.parametrize("sizes", [(1, 1), (30, 40), (20_000, 30_000)])
def test_histograms_count_each_class_as_a_whole(sizes):
    axes = plots.draw_histograms({"a": scores(*sizes), "b": scores(*sizes, 1.0)}, threshold=-0.6).axes
    assert [one.get_title(loc="left") for one in axes] == ["a", "b"]
    for one in axes:
        stairs = [patch for patch in one.patches if not patch.get_fill()]
        assert [patch.get_data().values.sum() for patch in stairs] == pytest.approx([100, 100], abs=0.3)
        assert one.get_legend_handles_labels()[1] == ["bona fide", "spoof", "decision threshold"]


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_files_are_the_same_byte_for_byte(ending, magic, tmp_path):
    figure, files = plots.draw_histograms({"a": scores(9, 9)}), [tmp_path / f"{name}{ending}" for name in "ab"]
    for file in files:
        plots.save_figure(figure, file)
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert one.startswith(magic)
    assert (b">share of the class, %</text>" in one) == (ending == ".SVG")


def test_importing_costs_no_matplotlib():
    for file in Path(plots.__file__).parent.glob("*.py"):
        imports = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        assert "matplotlib" not in " ".join(map(ast.unparse, imports)), file


def units(layers, heads, neurons, convolutions, **kept):
    sizes = {f"conv.{index}": 512 for index in range(convolutions)}
    for layer in range(layers):
        sizes |= {f"head.{layer}": heads, f"attlayer.{layer}": 1, f"interm.{layer}": neurons, f"ffnlayer.{layer}": 1}
    counts = sizes | {name.replace("_", "."): count for name, count in kept.items()}
    return KeptUnits(counts, sizes, Budget(1, 1, 1, 1))


def draw_units(found):
    """Return the texts of the picture, and the outlines of its pale and of its filled boxes."""
    axes = draw_kept_units(found).axes[0]
    pale, filled = (patch.get_path().to_polygons() for patch in axes.patches)
    return [text.get_text() for text in axes.texts], pale, filled


@pytest.mark.parametrize(("layers", "heads", "neurons", "convolutions"), [(12, 12, 3072, 7), (4, 6, 1536, 1)])
def test_the_picture_has_a_row_per_convolution_and_layer(layers, heads, neurons, convolutions):
    texts, pale, filled = draw_units(units(layers, heads, neurons, convolutions, interm_1=7, head_2=3))
    assert texts.count("512/512") == convolutions
    assert texts.count(f"{neurons}/{neurons}") == layers - 1
    assert f"7/{neurons}" in texts
    assert len(pale) == heads - 3 + 1
    assert len(filled) == convolutions + layers * heads - (heads - 3) + layers


def test_closed_and_empty_differ_and_bars_are_full_at_the_end_only():
    texts, _, _ = draw_units(units(3, 4, 48, 0, attlayer_0=0, head_1=0, ffnlayer_2=0))
    assert (texts.count("closed"), texts.count("bias only")) == (2, 1)
    assert "0/48" in texts
    _, pale, filled = draw_units(units(2, 2, 10_000, 0, interm_0=1, interm_1=9_999))
    assert (len(pale), len(filled)) == (2, 4 + 2)


def test_curves_are_thinned_to_means_and_smoothed():
    values = np.random.default_rng(0).random(10_007)
    thinned = curves.thin(values)
    assert thinned.size == curves.MOST_POINTS
    edges = np.linspace(0, values.size, curves.MOST_POINTS + 1).astype(int)
    np.testing.assert_allclose(thinned[[0, -1]], [values[: edges[1]].mean(), values[edges[-2] :].mean()])
    np.testing.assert_array_equal(curves.thin(values[:50]), values[:50])
    line = np.linspace(3, 5, 101)
    np.testing.assert_allclose(curves.smooth(line), line)
    spike = np.zeros(91)
    spike[45] = 1
    assert curves.smooth(spike)[45] == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (12.0, "12"), (0.05, "0.05"), (5e-4, "5e−4"), (-2.5e-7, "−2.5e−7"), (3e6, "3e6")]
)
def test_numbers_are_short(value, expected):
    assert curves.short(value) == expected


def test_every_panel_is_named_and_steps_are_in_thousands():
    line = Line([0, 20_000], [1.0, 2.0], 0)
    figure = curves.draw_panels({"head": [line], "gates": [line], "backbone": [line]}, log=True, mark={"head": 1.5})
    svg = to_inline_svg(figure, "p", "panels")
    for text in ("head", "gates", "backbone", "10k", "step"):
        assert f">{text}</text>" in svg


def test_a_slot_without_an_open_unit_is_named_with_the_step_since_when():
    shares = {"head.0": (1.0, 0.0, 0.5), "interm.1": (0.5, 0.0, 0.0), "interm.2": (0.0, 0.1, 0.0), "conv.0": (1, 1, 1)}
    log = Log()
    for place, target in enumerate((0.1, 0.25, 0.4)):
        kept = {slot: share[place] for slot, share in shares.items()}
        log.add({"step": 10 * place, "loss": {}, "sparsity": {"target": target}, "kept": kept})
    found = curves.closed_slots(SimpleNamespace(log=log))
    assert found == " Closed as a whole: interm.1 since step 10 (target 25%), interm.2 since step 20 (target 40%)."


def test_a_single_point_is_visible():
    (axes,) = curves.draw_curves([Line([3], [0.5], 1)], "loss").axes
    assert axes.lines[0].get_marker() == "o"


def test_gates_are_darker_where_there_are_more():
    counts = np.zeros((2, 20))
    counts[0, 0], counts[1] = 40, 2
    (axes,) = curves.draw_gates({"heads": ([1, 2], counts)}, plots.COLOURS[0]).axes
    assert axes.get_title(loc="left") == "heads: 40"
    shades = sorted((patch.get_alpha(), len(patch.get_path().to_polygons())) for patch in axes.patches)
    assert [boxes for _, boxes in shades] == [20, 1]
    assert shades[-1][0] == 1


HOSTILE = ('<script id="x">', "</text></svg>", "$\\frac{x", "\x1b]0;owned\x07", "_hidden", "名前", 'a" href="#b')


def test_names_in_a_figure_are_text_alone():
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, plots.WIDTH)
        for place, name in enumerate((*HOSTILE, "x" * 300)):
            axes.text(0, place, name)
            axes.plot([0], [place], label=plots.label_of(name))
        figure.legend()
    root = ElementTree.fromstring(to_inline_svg(figure, "f", HOSTILE[0]))
    found = [element.text for element in root.iter("text")]
    for name in HOSTILE:
        assert {visible(name), f" {name}"} & set(found), name
    assert max(len(text or "") for text in found) < 70
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "text", "use", "defs", "clipPath", "rect"}


def test_an_inline_figure_belongs_to_its_page():
    svg, again, other = (
        to_inline_svg(plots.draw_det({"a & b": ([1.0, 2, 3], [0.0, 1.5])}, legend=False), name, 'a "quoted" name')
        for name in ("one", "one", "two")
    )
    assert ElementTree.fromstring(svg).attrib["aria-label"] == 'a "quoted" name'
    ids = re.findall(r' id="([^"]+)"', svg)
    assert set(re.findall(r"#([\w-]+)", svg)) == set(ids)
    assert "var(--run-0)" in svg
    assert svg == again
    assert not set(ids) & set(re.findall(r' id="([^"]+)"', other))


def test_colours_are_the_pages_and_coordinates_are_cut():
    lines = [Line([0, 1], [0.0511, 0.0512], index) for index in range(6)]
    svg = to_inline_svg(curves.draw_curves(lines, "loss"), "f", "")
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert len(set(VARIABLES.values())) == len(VARIABLES)
    assert re.search(r">0\.051\d+</text>", svg)
    assert not re.search(r' d="[^"]*\.\d{3}', svg)


def test_published_rows_are_complete_and_have_sources():
    table = {name: read_published(name) for name in ("asvspoof5", "voxceleb", "cnceleb", "spoofceleb")}
    assert all(row.source and 0 < row.eer < 0.5 for rows in table.values() for row in rows)
    assert all(row.eer < 0.1 for name, rows in table.items() if name != "asvspoof5" for row in rows)
    rows = table["asvspoof5"]
    paper = {(row.family, row.sparsity): row for row in rows if "table 1" in row.source}
    assert len(paper) == 10
    assert paper["Hybrid Pruning", 0.5].eer == pytest.approx(0.0874)
    sweep = {row.sparsity: row.params_m for row in rows if row.derived}
    assert len([row for row in rows if row.derived]) == 30
    assert all(sweep[row.sparsity] == pytest.approx(row.params_m, abs=0.25) for row in paper.values())
    verified = {(row.set, row.params_m): row.eer for row in table["voxceleb"] if "table 2" in row.source}
    assert len(verified) == 12, "four sizes on three lists"
    assert (verified["vox1-O", 95.6], verified["vox1-H", 19.9]) == pytest.approx((0.007, 0.0191))
    assert {row.set for name in ("cnceleb", "spoofceleb") for row in table[name]} == {"eval"}
    assert [is_of_set(table["voxceleb"][0], name) for name in ("vox1-O", "vox1-o cleaned", "vox1-H")] == [1, 1, 0]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_our_runs_stand_out_among_the_published():
    ours = Published("eval", "hp50", "ours", 0.5, 48.4, False, 13.0, 0.08, None, "measured here")
    figure = draw_sizes(read_published("asvspoof5"), {1: ours})
    assert legend(figure)[-1] == "hp50, measured here"
    assert len(legend(figure)) == len(set(legend(figure)))
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (48.4, 8.0)
    assert star.get_color() == plots.COLOURS[1]
    assert not [text for text in legend(draw_sizes(read_published("asvspoof5"), {})) if "measured here" in text]


def recordings(*groups):
    """Return utterances of (label, attack, speaker), so many of each."""
    return [
        Utterance(f"{place}-{number}", Path("a.wav"), label, attack=attack, speaker=speaker)
        for place, (count, label, attack, speaker) in enumerate(groups)
        for number in range(count)
    ]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_principal_components_of_a_known_cloud():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(400, 3)) * (9, 3, 0.1)
    turned = np.linalg.qr(rng.normal(size=(5, 5)))[0][:3]
    points, shares = principal_components(spread @ turned + 7)
    left, scales, _ = np.linalg.svd(spread - spread.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * scales[:2]), atol=1e-9)
    np.testing.assert_allclose(shares, (scales**2 / (scales**2).sum())[:2])
    assert principal_components(np.ones((3, 1)))[0].tolist() == [[0, 0]] * 3


def test_embeddings_are_coloured_by_what_tells_them_apart():
    known = ("bonafide", "-", "s")
    for groups, expected in (
        (((3, *known), (2, "spoof", "-", "s")), ["bonafide (3)", "spoof (2)"]),
        (((3, *known), (2, "spoof", "A1", "s"), (1, "spoof", "A2", "t")), ["bonafide (3)", "A1 (2)", "A2 (1)"]),
        (((1, *known), *((1, "spoof", f"A{index}", "s") for index in range(9))), ["bonafide (1)", "spoof (9)"]),
        (((2, "bonafide", "-", "p"), (1, "bonafide", "-", "q")), ["p (2)", "q (1)"]),
        (tuple((1, "bonafide", "-", f"p{index}") for index in range(9)), ["recordings (9)"]),
    ):
        utterances = recordings(*groups)
        figure = draw_embeddings(np.random.default_rng(0).normal(size=(len(utterances), 4)), utterances)
        assert legend_of(figure) == expected
    many = recordings((2500, *known), (3, "spoof", "-", "s"))
    figure = draw_embeddings(np.random.default_rng(0).normal(size=(2503, 4)), many)
    assert legend_of(figure) == ["bonafide (2,000 of 2,500)", "spoof (3)"]
    assert [line.get_color() for line in figure.axes[0].lines] == [plots.BONAFIDE, plots.SPOOF]
