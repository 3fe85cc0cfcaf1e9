"""The figures of the trainings: each has one idea, and a title that states the result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.plots import Captioned, PageSection, colour_of, to_inline_svg
from hybrid_pruning.reporting.run_files import LoggedRun, Runs, Series
from hybrid_pruning.reporting.score_tables import METRICS
from hybrid_pruning.trees import number, section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = {
    "conv": "channels",
    "head": "heads",
    "attlayer": "attention sub-layers",
    "interm": "FFN neurons",
    "ffnlayer": "FFN sub-layers",
}
COUNTED = {"params": "parameters", "macs": "multiply-accumulates"}
MOST_COLUMNS = 24
"""Validations that a picture of the gates shows; of more, evenly spaced ones."""
DECIDED = 0.1
"""A gate is decided that is open, or closed, with all but this probability."""
MOST_POINTS = 360
"""Of a curve; longer ones are averaged over stretches of steps."""
SMOOTHING = 15
"""A noisy curve's mean runs over this part of it."""
LEVELS = 12
"""Shades of a heat map."""
SOLID, DASHED, DOTTED = "solid", (0, (4, 2)), (0, (1, 1.3))


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; `system` is the index of its run, None for none or several. A noisy one is faint, its mean over it."""

    steps: Sequence[float]
    values: Sequence[float]
    system: int | None = None
    dash: Any = SOLID
    width: float = 1.5
    noisy: bool = False


def describe_training(runs: Runs) -> PageSection:
    """Return the figures of the trainings' course."""
    others = [(name, f"loss-{place}") for place, name in enumerate(_names(runs, "loss")) if name != "task"]
    figures = (
        *_sparsity(runs),
        *_loss(runs, "task", "loss-task"),
        *_dev(runs),
        *(figure for other in others for figure in _loss(runs, *other)),
        *_multipliers(runs),
        *_gradient_norms(runs),
        *_learning_rates(runs),
        *(figure for index, run in enumerate(runs) for figure in _gates(run, index)),
    )
    notes = [f"{run.name}: no training step is logged yet." for run in runs if not run.log.steps]
    notes += [f"{run.name}: not validated yet." for run in runs if run.log.steps and not run.log.validations]
    dense = [run.name for run in runs if run.log.steps and not run.is_pruned]
    if dense:
        notes.append(f"{', '.join(dense)}: trained without gates: no sparsity, multipliers or gates to show.")
    return PageSection(figures, notes)


def _sparsity(runs: Runs) -> Iterator[Captioned]:
    lines, exact, shown, ends = [], [], [], []
    for index, run in enumerate(runs):
        found = {kind: run.series("sparsity", kind) for kind in ("expected", "target", "exact")}
        expected, target, rounded = ((steps, [100 * value for value in part]) for steps, part in found.values())
        if expected[0]:
            lines += [Line(*target, None, DASHED, 1.1), Line(*expected, index)]
            exact.append(Line(*rounded, index, DOTTED, 1.3))
            shown.append(index)
            if target[1]:
                ends.append(f"{run.name} {abs(expected[1][-1] - target[1][-1]):.1f}")
    if not shown:
        return
    has_exact = any(line.steps for line in exact)
    dotted = " Dotted: the exact count if every gate were rounded on its own." if has_exact else ""
    constraints = {str(section(runs[index].config, "pruning").get("constraint", "params")) for index in shown}
    counted = " or ".join(sorted(COUNTED.get(constraint, constraint) for constraint in constraints))
    figure = draw_curves([*exact, *lines], "removed, %", unit_interval=True)
    yield Captioned(
        f"The sparsity follows its target; points between them at the end: {', '.join(ends)}",
        to_inline_svg(figure, "sparsity", "Sparsity over steps"),
        f"Solid: expected. Dashed: the target of the schedule.{dotted} Counted: {counted}.",
        tuple(shown),
    )


def _loss(runs: Runs, name: str, place: str) -> Iterator[Captioned]:
    found = [run.series("loss", name) for run in runs]
    lines, shown = _lines(found, noisy=True)
    if lines:
        yield Captioned(
            f"The {name} loss at the end: {_ends(runs, found)}",
            to_inline_svg(draw_curves(lines, f"{name} loss"), place, f"{name} loss over steps"),
            f"Faint: as logged. Bold: running mean.{_grey(lines)}",
            shown,
        )


def _dev(runs: Runs) -> Iterator[Captioned]:
    found = {}
    for name, (title, factor, _) in METRICS.items():
        series = [run.series("dev", name) for run in runs]
        found[title] = [(steps, [factor * value for value in values]) for steps, values in series]
    panels, shown = _panels(found)
    best = []
    for run, (steps, rates) in zip(runs, found[METRICS["eer"][0]], strict=True):
        if rates:
            at = int(np.argmin(rates))
            best.append(f"{run.name} {rates[at]:.1f}% at step {steps[at]:,.0f}")
    if panels:
        yield Captioned(
            f"The lowest EER on the dev set: {', '.join(best)}" if best else "Figures of the dev set",
            to_inline_svg(draw_panels(panels), "dev", "Figures of the dev set over steps"),
            f"Validated after every epoch, with the model that would be exported then.{_grey(*panels.values())}",
            shown,
        )


def _multipliers(runs: Runs) -> Iterator[Captioned]:
    found = {name.replace("lambda", "λ"): series for name, series in _parts(runs, "multipliers").items()}
    panels, shown = _panels(found)
    if panels:
        last = next(reversed(found))
        yield Captioned(
            f"Multipliers of the sparsity; {last} at the end: {_ends(runs, found[last])}",
            to_inline_svg(draw_panels(panels), "multipliers", "Multipliers over steps"),
            f"λ1 weighs the distance from the target, λ2 its square.{_grey(*panels.values())}",
            shown,
        )


def _gradient_norms(runs: Runs) -> Iterator[Captioned]:
    found = _parts(runs, "gradient_norm") or {"network": [run.series("gradient_norm") for run in runs]}  # earlier logs
    panels, shown = _panels(found, noisy=True)
    if panels:
        clip = number(section(runs[shown[0]].config, "training").get("clip_norm"))
        norms = [value for _, values in found.get("network", ()) for value in values]
        share = sum(norm > clip for norm in norms) / max(len(norms), 1)
        figure = draw_panels(panels, log=True, mark={"network": clip} if clip else {})
        dashed = f"; dashed: {clip:g}, where the network's is clipped" if clip else ""
        yield Captioned(
            f"Gradients were clipped in {share:.0%} of the logged steps" if clip and norms else "Gradient norms",
            to_inline_svg(figure, "gradients", "Gradient norms"),
            f"Before clipping{dashed}.{_grey(*panels.values())}",
            shown,
        )


def _learning_rates(runs: Runs) -> Iterator[Captioned]:
    found = _parts(runs, "learning_rate")
    panels, shown = _panels({name: series for name, series in found.items() if not name.endswith(".no_decay")})
    if panels:
        peaks: dict[str, list[str]] = {}
        for name, lines in panels.items():
            peaks.setdefault(short(max(max(line.values) for line in lines)), []).append(name)
        shared = (f"{peak} ({', '.join(names)})" for peak, names in peaks.items())
        yield Captioned(
            f"Learning rates peak at {', '.join(shared)}",
            to_inline_svg(draw_panels(panels), "rates", "Learning rates over steps"),
            _grey(*panels.values()).strip(),
            shown,
        )


def _gates(run: LoggedRun, index: int) -> Iterator[Captioned]:
    records = [record for record in run.log.validations if section(record, "gates")]
    if not records:
        return
    places = np.linspace(0, len(records) - 1, min(len(records), MOST_COLUMNS)).round().astype(int)
    chosen = [records[place] for place in places]
    epochs = [number(record.get("epoch")) for record in chosen]
    history: dict[str, tuple[list[float], FloatArray]] = {}
    ends = total = 0.0
    for unit in section(chosen[0], "gates"):
        table = _table([section(record, "gates").get(unit) for record in chosen])
        if table is not None:
            history[UNITS.get(unit, unit)] = epochs, table
            reach = max(round(DECIDED * table.shape[1]), 1)
            ends += table[-1, :reach].sum() + table[-1, -reach:].sum()
            total += table[-1].sum()
    if history:
        yield Captioned(
            f"{run.name}: {ends / max(total, 1):.0%} of the gates are decided",
            to_inline_svg(draw_gates(history, colour_of(index)), f"gates-{index}", "Histograms of open probabilities"),
            "Per epoch, the probability that the gates of each kind are open: the stronger the colour, the "
            f"more of them (on a square-root scale). Decided: open, or closed, with all but {DECIDED:.0%}."
            + closed_slots(run),
        )


def closed_slots(run: LoggedRun) -> str:
    """Name the slots that ended without an open unit, each with the step and the target sparsity since when."""
    since: dict[str, str] = {}
    for record in run.log.steps:
        target = number(section(record, "sparsity").get("target"))
        for slot, share in section(record, "kept").items():
            if number(share):
                since.pop(slot, None)
            else:
                since.setdefault(slot, f"{slot} since step {number(record.get('step')):g} (target {target:.0%})")
    return f" Closed as a whole: {', '.join(since.values())}." if since else ""


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
        colour = plots.MUTED if line.system is None else colour_of(line.system)
        steps, values = thin(line.steps), thin(line.values)
        if line.noisy and values.size > 4:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
            values = smooth(values)
        look: dict[str, Any] = {"color": colour, "linestyle": line.dash, "linewidth": line.width, "markersize": 4}
        axes.plot(steps, values, marker="o" if values.size == 1 else "none", **look)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if log and high > 5 * low:
        named = (1.0,) if high > 50 * low else (1.0, 2.0, 5.0)  # of a decade: more where there are few
        axes.yaxis.set_major_locator(LogLocator(subs=named, numticks=6))
    if log:
        axes.minorticks_off()


def _parts(runs: Runs, part: str) -> dict[str, list[Series]]:
    """Return name -> the series of all runs, for the numbers in one part of their logs."""
    return {name: [run.series(part, name) for run in runs] for name in _names(runs, part)}


def _names(runs: Runs, part: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for record in run.log.steps for name in section(record, part)))


def _panels(
    found: Mapping[str, Sequence[Series]], noisy: bool = False
) -> tuple[dict[str, Sequence[Line]], tuple[int, ...]]:
    """Return curves by title, without the titles that have none, and the runs that have any."""
    drawn = {title: _lines(series, noisy) for title, series in found.items()}
    shown = {index for _, some in drawn.values() for index in some}
    return {title: lines for title, (lines, _) in drawn.items() if lines}, tuple(sorted(shown))


def _lines(found: Sequence[Series], noisy: bool = False) -> tuple[list[Line], tuple[int, ...]]:
    """Return a curve per run that has one, and these runs; equal curves are drawn once, in the colour of no run."""
    owners: dict[tuple[tuple[float, ...], tuple[float, ...]], list[int]] = {}
    for index, (steps, values) in enumerate(found):
        if steps:
            owners.setdefault((tuple(steps), tuple(values)), []).append(index)
    lines = [Line(*curve, some[0] if len(some) == 1 else None, noisy=noisy) for curve, some in owners.items()]
    return lines, tuple(sorted(index for some in owners.values() for index in some))


def _grey(*panels: Sequence[Line]) -> str:
    """Return the meaning of grey curves where there are any."""
    return " Grey: the same in several runs." if any(line.system is None for lines in panels for line in lines) else ""


def _ends(runs: Runs, found: Sequence[Series]) -> str:
    """Return the last values of the runs' curves, noise averaged out."""
    return ", ".join(
        f"{run.name} {short(float(f'{np.mean(values[-max(len(values) // 20, 1) :]):.3g}'))}"
        for run, (_, values) in zip(runs, found, strict=True)
        if values
    )


def _table(rows: Sequence[object]) -> FloatArray | None:
    """Return rows of equally many numbers as an array, None where they are anything else."""
    try:
        table = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return table if table.ndim == 2 and table.size and np.isfinite(table).all() else None
