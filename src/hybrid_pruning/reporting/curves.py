"""How the trainings went, figure by figure: each has one idea, and a title that says what is seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from hybrid_pruning.reporting.figures import (
    DASHED,
    DOTTED,
    Line,
    colour_of,
    draw_curves,
    draw_gates,
    draw_panels,
    short,
)
from hybrid_pruning.reporting.inline import to_inline_svg
from hybrid_pruning.reporting.run_files import Run
from hybrid_pruning.trees import number, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
"""A gate that is open, or shut, with all but this probability has made up its mind."""
RATES = {
    "eer": "EER, %",
    "min_dcf": "minDCF",
    "min_dcf_0.01": "minDCF, P(target) 0.01",
    "min_dcf_0.05": "minDCF, P(target) 0.05",
    "act_dcf": "actDCF",
    "cllr": "Cllr, bits",
}
PERCENT = ("eer",)


@dataclass(frozen=True, slots=True)
class Card:
    """A figure with its words.

    Args:
        title: what is seen, a sentence.
        svg: the figure.
        caption: what a reader needs to read it.
        runs: indices of the runs whose colours it shows.
        classes: whether it shows both classes in their colours instead.
    """

    title: str
    svg: Markup
    caption: str = ""
    runs: tuple[int, ...] = ()
    classes: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Figures on one subject, and what is missing of them."""

    cards: Sequence[Card] = ()
    notes: Sequence[str] = field(default_factory=list)


def describe_training(runs: Sequence[Run]) -> Section:
    """Return the figures of how the trainings went."""
    makers: tuple[Callable[[Sequence[Run]], Iterator[Card]], ...] = (
        _sparsity,
        _task_loss,
        _dev,
        _other_losses,
        _multipliers,
        _gradient_norms,
        _learning_rates,
        _gates,
    )
    notes = [f"{run.name}: no training step is logged yet." for run in runs if not run.log.steps]
    notes += [f"{run.name}: not validated yet." for run in runs if run.log.steps and not run.log.validations]
    dense = [run.name for run in runs if run.log.steps and not run.is_pruned]
    if dense:
        notes.append(f"{', '.join(dense)}: trained without pruning: no sparsity, multipliers or gates to show.")
    return Section([card for make in makers for card in make(runs)], notes)


def _sparsity(runs: Sequence[Run]) -> Iterator[Card]:
    lines, exact, shown, ends = [], [], [], []
    for index, run in enumerate(runs):
        steps, expected = run.series("sparsity", "expected")
        if not steps:
            continue
        target = run.series("sparsity", "target")
        lines.append(Line(target[0], _percent(target[1]), None, DASHED, 1.1))
        exact_steps, values = run.series("sparsity", "exact")
        exact.append(Line(exact_steps, _percent(values), index, DOTTED, 1.3))
        lines.append(Line(steps, _percent(expected), index))
        shown.append(index)
        if target[1]:
            ends.append(f"{run.name} {100 * abs(expected[-1] - target[1][-1]):.1f}")
    if not lines:
        return
    has_exact = any(line.steps for line in exact)
    dotted = " Dotted: the exact count if every gate were rounded on its own." if has_exact else ""
    yield Card(
        f"The sparsity follows its target; points between them at the end: {', '.join(ends)}",
        _svg(draw_curves([*exact, *lines], "removed, %", unit_interval=True), "sparsity", "Sparsity over steps"),
        f"Solid: expected. Dashed: the target of the schedule.{dotted} Of what the target counts: "
        f"{_counted(runs, shown)}.",
        tuple(shown),
    )


def _task_loss(runs: Sequence[Run]) -> Iterator[Card]:
    yield from _loss(runs, "task", "The task loss at the end", "loss-task")


def _other_losses(runs: Sequence[Run]) -> Iterator[Card]:
    for place, name in enumerate(_names(runs, "loss")):
        if name != "task":
            yield from _loss(runs, name, f"The {name} loss at the end", f"loss-{place}")


def _loss(runs: Sequence[Run], name: str, title: str, place: str) -> Iterator[Card]:
    lines, shown, same = _lines(runs, lambda run: run.series("loss", name), noisy=True)
    if lines:
        yield Card(
            f"{title}: {_ends(runs, shown, lambda run: run.series('loss', name))}",
            _svg(draw_curves(lines, f"{name} loss"), place, f"{name} loss over steps"),
            f"Faint: as logged. Bold: running mean.{same}",
            shown,
        )


def _dev(runs: Sequence[Run]) -> Iterator[Card]:
    panels, shown = _panels(runs, RATES, "dev", validated=True)
    if not panels:
        return
    best = []
    for index in shown:
        steps, rates = runs[index].validated("dev", "eer")
        if rates:
            at = int(np.argmin(rates))
            best.append(f"{runs[index].name} {100 * rates[at]:.1f}% at step {steps[at]:,.0f}")
    yield Card(
        f"The lowest EER on the dev set: {', '.join(best)}" if best else "Figures of the dev set",
        _svg(draw_panels(panels), "dev", "Figures of the dev set over steps"),
        "Validated after every epoch, with the model that would be exported then.",
        shown,
    )


def _multipliers(runs: Sequence[Run]) -> Iterator[Card]:
    names = {name: name.replace("lambda", "λ") for name in _names(runs, "multipliers")}
    panels, shown = _panels(runs, names, "multipliers")
    if panels:
        last = next(reversed(names))
        yield Card(
            f"The multipliers press on the sparsity; {names[last]} at the end: "
            f"{_ends(runs, shown, lambda run: run.series('multipliers', last))}",
            _svg(draw_panels(panels), "multipliers", "Multipliers over steps"),
            "λ1 weighs the distance from the target, λ2 its square.",
            shown,
        )


def _gradient_norms(runs: Sequence[Run]) -> Iterator[Card]:
    if any(isinstance(record.get("gradient_norm"), Mapping) for run in runs for record in run.log.steps):
        names = {name: name for name in _names(runs, "gradient_norm")}
        panels, shown = _panels(runs, names, "gradient_norm", noisy=True)
    else:  # an earlier version's logs have the network's alone
        lines, shown, _ = _lines(runs, lambda run: run.series("gradient_norm"), noisy=True)
        panels = {"network": lines} if lines else {}
    if not panels:
        return
    clip = number(section(runs[shown[0]].config, "training").get("clip_norm"))
    norms = [value for index in shown for value in _network_norms(runs[index])]
    share = sum(norm > clip for norm in norms) / max(len(norms), 1)
    clipped = f"Gradients were clipped in {share:.0%} of the logged steps" if clip and norms else "Gradient norms"
    yield Card(
        clipped,
        _svg(draw_panels(panels, log=True, mark={"network": clip} if clip else {}), "gradients", "Gradient norms"),
        f"Before clipping; dashed: {clip:g}, where the network's is clipped." if clip else "Before clipping.",
        shown,
    )


def _learning_rates(runs: Sequence[Run]) -> Iterator[Card]:
    names = {name: name for name in _names(runs, "learning_rate") if not name.endswith(".no_decay")}
    panels, shown = _panels(runs, names, "learning_rate")
    if panels:
        peaks = [(name, max(max(line.values) for line in lines)) for name, lines in panels.items()]
        yield Card(
            f"Learning rates peak at {', '.join(f'{short(peak)} ({name})' for name, peak in peaks)}",
            _svg(draw_panels(panels), "rates", "Learning rates over steps"),
            "One curve where several runs have the same.",
            shown,
        )


def _gates(runs: Sequence[Run]) -> Iterator[Card]:
    for index, run in enumerate(runs):
        records = [record for record in run.log.validations if section(record, "gates")]
        if not records:
            continue
        places = np.unique(np.linspace(0, len(records) - 1, min(len(records), MOST_COLUMNS)).round().astype(int))
        chosen = [records[place] for place in places]
        history: dict[str, tuple[list[float], list[Any]]] = {
            UNITS.get(unit, unit): (
                [number(record.get("epoch")) for record in chosen],
                [section(record, "gates").get(unit) for record in chosen],
            )
            for unit in section(chosen[0], "gates")
        }
        whole = {unit: table for unit, table in history.items() if _is_table(table[1])}
        if whole:
            yield Card(
                f"{run.name}: {_decided(whole)} of the gates have made up their minds",
                _svg(draw_gates(whole, colour_of(index)), f"gates-{index}", "Histograms of open probabilities"),
                "Per epoch, how likely the gates of each kind are open: the darker, the more of them (on a square-root "
                f"scale). Decided: open, or shut, with all but {DECIDED:.0%}.",
            )


def _panels(
    runs: Sequence[Run], names: Mapping[str, str], part: str, validated: bool = False, noisy: bool = False
) -> tuple[dict[str, Sequence[Line]], tuple[int, ...]]:
    """Return panels of the named numbers of a part, and the runs that have any."""
    panels: dict[str, Sequence[Line]] = {}
    shown: dict[int, None] = {}
    for name, title in names.items():
        factor = 100.0 if name in PERCENT else 1.0

        def read(run: Run, name: str = name, factor: float = factor) -> tuple[list[float], list[float]]:
            steps, values = (run.validated if validated else run.series)(part, name)
            return steps, [factor * value for value in values]

        lines, some, _ = _lines(runs, read, noisy)
        if lines:
            panels[title] = lines
            shown.update(dict.fromkeys(some))
    return panels, tuple(sorted(shown))


def _lines(
    runs: Sequence[Run], read: Callable[[Run], tuple[list[float], list[float]]], noisy: bool = False
) -> tuple[list[Line], tuple[int, ...], str]:
    """Return a curve per run that has one; what several runs share is drawn once, in nobody's colour, and said."""
    found: dict[tuple[tuple[float, ...], tuple[float, ...]], list[int]] = {}
    for index, run in enumerate(runs):
        steps, values = read(run)
        if steps:
            found.setdefault((tuple(steps), tuple(values)), []).append(index)
    lines = [
        Line(steps, values, owners[0] if len(owners) == 1 else None, noisy=noisy)
        for (steps, values), owners in found.items()
    ]
    shown = tuple(sorted(index for owners in found.values() for index in owners))
    same = " Grey: the same in several runs." if any(len(owners) > 1 for owners in found.values()) else ""
    return lines, shown, same


def _ends(runs: Sequence[Run], shown: Sequence[int], read: Callable[[Run], tuple[list[float], list[float]]]) -> str:
    """Return where the curves end, noise averaged out."""
    return ", ".join(
        f"{runs[index].name} {short(float(f'{np.mean(values[-max(len(values) // 20, 1) :]):.3g}'))}"
        for index in shown
        if (values := read(runs[index])[1])
    )


def _names(runs: Sequence[Run], part: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.names(part)))


def _network_norms(run: Run) -> list[float]:
    return run.series("gradient_norm", "network")[1] or run.series("gradient_norm")[1]


def _counted(runs: Sequence[Run], shown: Sequence[int]) -> str:
    constraints = {section(runs[index].config, "pruning").get("constraint", "params") for index in shown}
    words = {"params": "parameters", "macs": "multiply-accumulates"}
    return " or ".join(sorted(words.get(str(constraint), str(constraint)) for constraint in constraints))


def _decided(history: Mapping[str, tuple[list[float], list[Any]]]) -> str:
    """Return the share of gates whose last histogram lies at its ends."""
    ends = total = 0.0
    for _, table in history.values():
        last = np.asarray(table[-1], dtype=np.float64)
        reach = max(round(DECIDED * last.size), 1)
        ends += last[:reach].sum() + last[-reach:].sum()
        total += last.sum()
    return f"{ends / max(total, 1):.0%}"


def _is_table(rows: Sequence[object]) -> bool:
    """Whether all rows are lists of as many numbers."""
    lengths = {len(row) if isinstance(row, list) else 0 for row in rows}
    numbers = all(isinstance(count, int | float) for row in rows if isinstance(row, list) for count in row)
    return len(lengths) == 1 and 0 not in lengths and numbers


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _svg(figure: "Figure", name: str, label: str) -> Markup:
    return to_inline_svg(figure, name, label)
