import ast
import time
from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning import metrics
from hybrid_pruning.errors import InputError
from hybrid_pruning.reporting import plots


def scores(bonafide: int, spoof: int, distance: float = 2.0, seed: int = 0) -> plots.Scores:
    rng = np.random.default_rng(seed)
    return rng.normal(distance, 1, bonafide), rng.normal(0, 1, spoof)


def curve_of(figure, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The normal deviates (false alarms, misses) of a system's line; the diagonal and two marks a system are others."""
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    return np.array(lines[index].get_xdata()), np.array(lines[index].get_ydata())


def test_det_axes_are_normal_deviates_named_in_percent() -> None:
    axes = plots.draw_det({"a": scores(300, 400)}).axes[0]
    labels = [float(label.get_text()) / 100 for label in axes.get_xticklabels()]
    np.testing.assert_allclose(axes.get_xticks(), plots.deviate(labels))
    assert axes.get_xlim() == axes.get_ylim()
    assert labels[0] <= metrics.eer(*scores(300, 400)) <= labels[-1]


def test_gaussian_scores_give_a_straight_line() -> None:
    x, y = curve_of(plots.draw_det({"a": scores(200_000, 200_000)}))
    inside = (np.abs(x) < 2) & (np.abs(y) < 2)
    assert np.polyfit(x[inside], y[inside], 1)[0] == pytest.approx(-1, abs=0.02)


def test_operating_points_are_those_of_the_metrics() -> None:
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


def test_many_trials_are_thinned_to_what_can_be_seen() -> None:
    trials = scores(140_000, 540_000)
    started = time.perf_counter()
    figure = plots.draw_det({"a": trials})
    assert time.perf_counter() - started < 10  # a second on a machine of one's own
    x, y = curve_of(figure)
    assert len(x) < 4000
    full, (low, high) = metrics.det_curve(*trials), figure.axes[0].get_xlim()
    x_full, y_full = plots.deviate(full.false_alarm), plots.deviate(full.miss)
    seen = (x_full > low) & (x_full < high) & (y_full > low) & (y_full < high)
    drawn = np.interp(x_full[seen], x[::-1], y[::-1])
    assert np.abs(drawn - y_full[seen]).max() < 3 * (high - low) / plots.CELLS


def test_few_trials_keep_every_step() -> None:
    positive, negative = scores(20, 30)
    figure = plots.draw_det({"a": (positive, negative)})
    x, y = curve_of(figure)
    curve, (low, high) = metrics.det_curve(positive, negative), figure.axes[0].get_xlim()
    steps = {(a, b) for a, b in zip(*map(plots.deviate, (curve.false_alarm, curve.miss)), strict=True)}
    assert {(a, b) for a, b in steps if low < a < high and low < b < high} <= set(zip(x, y, strict=True))


def test_systems_are_named_and_told_apart() -> None:
    figure = plots.draw_det({"dense": scores(50, 60), "pruned": scores(50, 60, 1.0), "clean": scores(50, 60, 99.0)})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["dense", "pruned", "clean (no errors)", "EER", "minDCF"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert len({line.get_color() for line in lines}) == 3
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 3
    assert not plots.draw_det({"a": scores(5, 5)}, legend=False).legends


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no systems"):
        plots.draw_det({})
    with pytest.raises(ValueError, match="none given"):
        plots.draw_det({"a": ([], [1.0])})
    with pytest.raises(ValueError, match="both classes"):
        plots.draw_histograms({"a": ([1.0], [])})


@pytest.mark.parametrize("sizes", [(1, 1), (30, 40), (20_000, 30_000)])
def test_histograms_count_each_class_as_a_whole(sizes: tuple[int, int]) -> None:
    axes = plots.draw_histograms({"a": scores(*sizes), "b": scores(*sizes, 1.0)}, threshold=-0.6).axes
    assert [one.get_title(loc="left") for one in axes] == ["a", "b"]
    for one in axes:
        stairs = [patch for patch in one.patches if not patch.get_fill()]
        assert [patch.get_data().values.sum() for patch in stairs] == pytest.approx([100, 100], abs=0.3)
        assert one.get_legend_handles_labels()[1] == ["bona fide", "spoof", "decision threshold"]


@pytest.mark.parametrize("ending", [".png", ".SVG", ".pdf"])
def test_files_are_the_same_byte_for_byte(ending: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}{ending}" for name in ("one", "two")]
    for file in files:
        plots.save_figure(plots.draw_histograms({"a": scores(9, 9)}), file)
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert one.startswith({".SVG": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}[ending])
    assert (b">share of the class, %</text>" in one) == (ending == ".SVG")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"det.bmp: a figure is written as .png, .svg, .pdf"):
        plots.save_figure(plots.draw_det({"a": scores(9, 9)}), tmp_path / "det.bmp")
    assert not list(tmp_path.iterdir())


def test_importing_costs_no_matplotlib() -> None:
    for file in Path(plots.__file__).parent.glob("*.py"):
        body = ast.parse(file.read_text()).body
        imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        assert not [line for line in imports if "matplotlib" in line], file
