"""The figures of the trainings: each has one idea, and a title that states the result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from hybrid_pruning.reporting.figures import DASHED, DOTTED, Line, draw_curves, draw_gates, draw_panels, short
from hybrid_pruning.reporting.overview import METRICS
from hybrid_pruning.reporting.plots import colour_of, to_inline_svg
from hybrid_pruning.reporting.run_files import LoggedRun, Series
from hybrid_pruning.trees import number, section

UNITS = {
    "conv": "channels",
    "head": "heads",
    "attlayer": "attention sub-layers",
    "interm": "FFN neurons",
    "ffnlayer": "FFN sub-layers",
}
MOST_COLUMNS = 24
"""Validations that a picture of the gates shows; of more, evenly spaced ones."""
DECIDED = 0.1
"""A gate is decided that is open, or closed, with all but this probability."""
Runs = Sequence[LoggedRun]


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
        *_gates(runs),
    )
    notes = [f"{run.name}: no training step is logged yet." for run in runs if not run.log.steps]
    notes += [f"{run.name}: not validated yet." for run in runs if run.log.steps and not run.log.validations]
    dense = [run.name for run in runs if run.log.steps and not run.is_pruned]
    if dense:
        notes.append(f"{', '.join(dense)}: trained without pruning: no sparsity, multipliers or gates to show.")
    return PageSection(figures, notes)


def _sparsity(runs: Runs) -> Iterator[Captioned]:
    lines, exact, shown, ends = [], [], [], []
    for index, run in enumerate(runs):
        (steps, expected), target, rounded = (run.series("sparsity", kind) for kind in ("expected", "target", "exact"))
        if not steps:
            continue
        lines.append(Line(target[0], _percent(target[1]), None, DASHED, 1.1))
        lines.append(Line(steps, _percent(expected), index))
        exact.append(Line(rounded[0], _percent(rounded[1]), index, DOTTED, 1.3))
        shown.append(index)
        if target[1]:
            ends.append(f"{run.name} {100 * abs(expected[-1] - target[1][-1]):.1f}")
    if not shown:
        return
    has_exact = any(line.steps for line in exact)
    dotted = " Dotted: the exact count if every gate were rounded on its own." if has_exact else ""
    words = {"params": "parameters", "macs": "multiply-accumulates"}
    constraints = {str(section(runs[index].config, "pruning").get("constraint", "params")) for index in shown}
    counted = " or ".join(sorted(words.get(constraint, constraint) for constraint in constraints))
    figure = draw_curves([*exact, *lines], "removed, %", unit_interval=True)
    yield Captioned(
        f"The sparsity follows its target; points between them at the end: {', '.join(ends)}",
        to_inline_svg(figure, "sparsity", "Sparsity over steps"),
        f"Solid: expected. Dashed: the target of the schedule.{dotted} Of what the target counts: {counted}.",
        tuple(shown),
    )


def _loss(runs: Runs, name: str, place: str) -> Iterator[Captioned]:
    found = [run.series("loss", name) for run in runs]
    lines, shown = _lines(found, noisy=True)
    if lines:
        same = " Grey: the same in several runs." if any(line.system is None for line in lines) else ""
        yield Captioned(
            f"The {name} loss at the end: {_ends(runs, found)}",
            to_inline_svg(draw_curves(lines, f"{name} loss"), place, f"{name} loss over steps"),
            f"Faint: as logged. Bold: running mean.{same}",
            shown,
        )


def _dev(runs: Runs) -> Iterator[Captioned]:
    found = {}
    for name, (title, factor, _) in METRICS.items():
        series = [run.validated("dev", name) for run in runs]
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
            "Validated after every epoch, with the model that would be exported then.",
            shown,
        )


def _multipliers(runs: Runs) -> Iterator[Captioned]:
    found = {name.replace("lambda", "λ"): series for name, series in _parts(runs, "multipliers").items()}
    panels, shown = _panels(found)
    if panels:
        last = next(reversed(found))
        yield Captioned(
            f"The multipliers press on the sparsity; {last} at the end: {_ends(runs, found[last])}",
            to_inline_svg(draw_panels(panels), "multipliers", "Multipliers over steps"),
            "λ1 weighs the distance from the target, λ2 its square.",
            shown,
        )


def _gradient_norms(runs: Runs) -> Iterator[Captioned]:
    found = _parts(runs, "gradient_norm") or {"network": [run.series("gradient_norm") for run in runs]}  # earlier logs
    panels, shown = _panels(found, noisy=True)
    if not panels:
        return
    clip = number(section(runs[shown[0]].config, "training").get("clip_norm"))
    norms = [value for _, values in found.get("network", ()) for value in values]
    share = sum(norm > clip for norm in norms) / max(len(norms), 1)
    figure = draw_panels(panels, log=True, mark={"network": clip} if clip else {})
    yield Captioned(
        f"Gradients were clipped in {share:.0%} of the logged steps" if clip and norms else "Gradient norms",
        to_inline_svg(figure, "gradients", "Gradient norms"),
        f"Before clipping; dashed: {clip:g}, where the network's is clipped." if clip else "Before clipping.",
        shown,
    )


def _learning_rates(runs: Runs) -> Iterator[Captioned]:
    found = _parts(runs, "learning_rate")
    panels, shown = _panels({name: series for name, series in found.items() if not name.endswith(".no_decay")})
    if panels:
        peaks = [(name, max(max(line.values) for line in lines)) for name, lines in panels.items()]
        yield Captioned(
            f"Learning rates peak at {', '.join(f'{short(peak)} ({name})' for name, peak in peaks)}",
            to_inline_svg(draw_panels(panels), "rates", "Learning rates over steps"),
            "One curve where several runs have the same.",
            shown,
        )


def _gates(runs: Runs) -> Iterator[Captioned]:
    for index, run in enumerate(runs):
        records = [record for record in run.log.validations if section(record, "gates")]
        if not records:
            continue
        places = np.linspace(0, len(records) - 1, min(len(records), MOST_COLUMNS)).round().astype(int)
        chosen = [records[place] for place in places]
        epochs = [number(record.get("epoch")) for record in chosen]
        history: dict[str, tuple[list[float], list[Any]]] = {}
        ends = total = 0.0
        for unit in section(chosen[0], "gates"):
            table = [section(record, "gates").get(unit) for record in chosen]
            if _is_table(table):
                history[UNITS.get(unit, unit)] = epochs, table
                last = np.asarray(table[-1], dtype=np.float64)
                reach = max(round(DECIDED * last.size), 1)
                ends += last[:reach].sum() + last[-reach:].sum()
                total += last.sum()
        if history:
            figure = draw_gates(history, colour_of(index))
            yield Captioned(
                f"{run.name}: {ends / max(total, 1):.0%} of the gates are decided",
                to_inline_svg(figure, f"gates-{index}", "Histograms of open probabilities"),
                "Per epoch, the probability that the gates of each kind are open: the darker, the more of them (on a "
                f"square-root scale). Decided: open, or closed, with all but {DECIDED:.0%}.",
            )


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


def _ends(runs: Runs, found: Sequence[Series]) -> str:
    """Return the last values of the runs' curves, noise averaged out."""
    return ", ".join(
        f"{run.name} {short(float(f'{np.mean(values[-max(len(values) // 20, 1) :]):.3g}'))}"
        for run, (_, values) in zip(runs, found, strict=True)
        if values
    )


def _is_table(rows: Sequence[object]) -> bool:
    """Return whether all rows are lists of as many numbers."""
    lengths = {len(row) if isinstance(row, list) else 0 for row in rows}
    numbers = all(isinstance(count, int | float) for row in rows if isinstance(row, list) for count in row)
    return len(lengths) == 1 and 0 not in lengths and numbers


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]
