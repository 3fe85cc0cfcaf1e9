"""The tables of a sweep: a row a cell and set as TSV, and for people the means over seeds beside the dense model's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hybrid_pruning import markdown
from hybrid_pruning.console import Cell, Table, say, say_table
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.jobs.grid import GridCell
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.metrics.bootstrap import Interval, over_replicas
from hybrid_pruning.metrics.measures import TITLES
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting.published import Published, is_of_set
from hybrid_pruning.reporting.run_files import count
from hybrid_pruning.reporting.score_tables import METRICS

UNCALIBRATED = "*: not calibrated, since lower dev scores speak for the positive class or all are the same."
PAPERS_HEADINGS = ("set", "system", "removed %", "parameters, M", "FLOPs, G", "EER %", "minDCF")
MOST_NAMED = 12
"""Missing cells that a note names."""


@dataclass(frozen=True, slots=True, eq=False)
class SetFigures:
    """A cell's figures on one evaluation set.

    Args:
        metrics: fractions, bits, and the numbers of trials.
        drawn: metric -> [rounds] its values in the resamples, which are the same for all cells.
        resampled: the units that were drawn, in words.
        main: the metrics to show.
    """

    metrics: Mapping[str, float]
    drawn: Mapping[str, FloatArray]
    resampled: str
    main: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """A finished cell.

    Args:
        removed: the fraction of the encoder's parameters.
        params: of encoder and head.
        macs: of the encoder, for `SECONDS` of audio.
        sets: its figures by evaluation set, in the order to show them in.
        calibrated: False where the dev scores were inverted or all the same.
        command: that makes it again.
    """

    cell: GridCell
    removed: float
    params: int
    macs: int
    sets: Mapping[str, SetFigures]
    calibrated: bool = True
    command: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, and its 95% interval over seeds and over what else was resampled."""

    mean: float
    interval: Interval


def group(swept: Iterable[Swept], key: Callable[[GridCell], str]) -> dict[str, list[Swept]]:
    """Return cells by a part of their names, in the order of their first."""
    found: dict[str, list[Swept]] = {}
    for one in swept:
        found.setdefault(key(one.cell), []).append(one)
    return found


def estimate(seeds: Sequence[Swept], name: str, metric: str) -> Estimate:
    """Return a metric on an evaluation set over cells that differ in their seeds alone."""
    found = [one.sets[name] for one in seeds]
    values = np.stack([its.drawn[metric] for its in found])
    return Estimate(float(np.mean([its.metrics[metric] for its in found])), over_replicas(values))


def estimate_difference(seeds: Sequence[Swept], swept: Sequence[Swept], name: str, metric: str) -> Estimate | None:
    """Return a metric less that of the dense cell of the same seed; None for the dense, and without any.

    Both are measured on the same resamples. A seed whose dense cell is not finished does not count.
    """
    dense = {one.cell.name: one for one in swept if one.cell.target == 0}
    pairs = [(one.sets[name], dense[one.cell.dense].sets[name]) for one in seeds if one.cell.dense in dense]
    if not pairs or seeds[0].cell.target == 0:
        return None
    values = np.stack([ours.drawn[metric] - theirs.drawn[metric] for ours, theirs in pairs])
    mean = np.mean([ours.metrics[metric] - theirs.metrics[metric] for ours, theirs in pairs])
    return Estimate(float(mean), over_replicas(values))


def list_sets(swept: Sequence[Swept]) -> list[str]:
    """Return the names of all evaluation sets."""
    return list(dict.fromkeys(name for one in swept for name in one.sets))


def print_sweep(swept: Sequence[Swept], missing: Sequence[str]) -> None:
    """Print the table, intervals and differences below their figures."""
    table = lay_out_table(swept, missing)
    say_table(replace(table, note=""), box="rule")
    say(table.note)


def to_markdown(swept: Sequence[Swept], missing: Sequence[str] = (), published: Sequence[Published] = ()) -> str:
    """Return the table in Markdown, and below it the paper's figures on the same sets."""
    theirs = []
    for name in list_sets(swept):
        for row in (row for row in published if is_of_set(row, name)):
            removed = None if row.sparsity is None else 100 * row.sparsity
            values = (removed, row.params_m, row.flops_g, 100 * row.eer, row.min_dcf)
            forms = (".0f", ".1f", ".1f", ".3f" if row.eer <= 0.001 else ".2f", ".3f")
            cells = ("–" if value is None else format(value, form) for value, form in zip(values, forms, strict=True))
            theirs.append((name, row.system, *cells))
    text = markdown.to_markdown(lay_out_table(swept, missing))
    if theirs:
        text += "\nAs the paper has them (arXiv 2508.16232), not measured here:\n\n"
        text += markdown.to_markdown(Table(PAPERS_HEADINGS, theirs))
    return text


def lay_out_table(swept: Sequence[Swept], missing: Sequence[str] = ()) -> Table:
    """Return the table: a row for each set and cells that differ in their seeds alone, sets together."""
    groups = group(swept, lambda cell: cell.group)
    several = any(one.cell.name != one.cell.group for one in swept)
    rows: list[list[str | Cell]] = []
    for name in list_sets(swept):
        for title, seeds in groups.items():
            if name not in seeds[0].sets:
                continue
            removed, params, macs = (
                np.mean([getattr(one, key) for one in seeds]) for key in ("removed", "params", "macs")
            )
            marked = title if all(one.calibrated for one in seeds) else f"{title} *"
            row: list[str | Cell] = [name, marked, *([str(len(seeds))] if several else [])]
            row += [f"{100 * removed:.1f}", count(round(params)), count(round(macs))]
            row += [_show(seeds, swept, name, metric) for metric in seeds[0].sets[name].main]
            rows.append(row)
    main = next(iter(swept[0].sets.values())).main
    headings = ("set", "model", *(["seeds"] if several else []), "cut %", "size", "MACs")
    return Table([*headings, *(TITLES[metric] for metric in main)], rows, note=_explain(swept, missing), left=2)


def write_tsv(swept: Sequence[Swept], path: Path) -> None:
    """Write a row for each cell and set: fractions and counts, each metric with the ends of its 95% interval."""
    axes = list(dict.fromkeys(axis for one in swept for axis in one.cell.values))
    metrics = list(dict.fromkeys(metric for one in swept for its in one.sets.values() for metric in its.metrics))
    drawn = {metric for one in swept for its in one.sets.values() for metric in its.drawn}
    ends = [(metric, end) for metric in metrics for end in (("", "_low", "_high") if metric in drawn else ("",))]
    rows = []
    for name in list_sets(swept):
        for one in (one for one in swept if name in one.sets):
            found: dict[tuple[str, str], object] = {}
            for metric, value in one.sets[name].metrics.items():
                found[metric, ""] = value
                if metric in one.sets[name].drawn:
                    interval = estimate([one], name, metric).interval
                    found[metric, "_low"], found[metric, "_high"] = interval.low, interval.high
            chosen = [one.cell.values.get(axis, "") for axis in axes]
            sizes = (one.cell.target, one.removed, one.params, one.macs)
            figures = [found.get(place, "") for place in ends]
            seed, calibrated = one.cell.config.seed, str(one.calibrated).lower()
            rows.append((name, one.cell.name, *chosen, seed, *sizes, *figures, calibrated, one.command))
    columns = ("set", "model", *axes, "seed", "target_sparsity", "sparsity", "params", "macs")
    write_table(path, (*columns, *("".join(place) for place in ends), "calibrated", "command"), rows)


def _show(seeds: Sequence[Swept], swept: Sequence[Swept], name: str, metric: str) -> Cell:
    """Return a figure, its interval, and its difference from the dense model, bold where that is more than chance."""
    _, factor, digits = METRICS[metric]  # the decimals of the report
    found, change = estimate(seeds, name, metric), estimate_difference(seeds, swept, name, metric)
    low, high = (f"{factor * end:.{digits}f}" for end in (found.interval.low, found.interval.high))
    shown = Cell(f"{factor * found.mean:.{digits}f}", f"{low}–{high}")
    if change is None:
        return shown
    values = (change.mean, change.interval.low, change.interval.high)
    mean, low, high = (f"{factor * value:+.{digits}f}".replace("-", "−") for value in values)
    difference = f"{mean}: {low} to {high}"
    surely = change.interval.low > 0 or change.interval.high < 0
    return shown._replace(further=(difference, "bold") if surely else difference)


def _explain(swept: Sequence[Swept], missing: Sequence[str]) -> str:
    drawn = {name: one.sets[name].resampled for one in swept for name in one.sets}
    units = "; ".join(f"{name}: {resampled}" for name, resampled in drawn.items())
    units = next(iter(drawn.values())) if len(set(drawn.values())) == 1 else units
    seeds = {len(cells) for cells in group(swept, lambda cell: cell.group).values()}
    paired = any(one.cell.target for one in swept) and any(not one.cell.target for one in swept)
    note = (
        f"Cut: of the encoder's parameters. Size: parameters of encoder and head. MACs: the encoder's, {SECONDS:g} s. "
        "Below or behind each figure its 95% interval"
        + (", then its difference from the dense model of the same seed, with its own" if paired else "")
        + ("" if seeds == {1} else "; figures are means over seeds")
        + f". Intervals by resampling {'' if seeds == {1} else 'seeds and '}{units}."
        + (" One training each: how much another seed would change is in no interval." if seeds == {1} else "")
        + (" Where there is one seed, its interval has no seeds in it." if 1 in seeds and len(seeds) > 1 else "")
    )
    if not all(one.calibrated for one in swept):
        note += f" {UNCALIBRATED}"
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        note += f" Not finished, and not in this table: {', '.join(missing[:MOST_NAMED])}{more}."
    return note
