"""Published systems, each figure with its source, and our runs beside them in a table and in a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from hybrid_pruning.console import Table
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.errors import InputError
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.run_files import LoggedRun, ModelSize
from hybrid_pruning.reporting.score_tables import ResultSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE_PARAMS_M, HEAD_PARAMS_M = 94.38, 1.25
"""WavLM Base (or Base+) and MHFA in millions, from which the size of a row follows that states its sparsity alone."""
PAPER = "Peng et al., ICASSP 2026"
"""Beginning of the sources of the paper's own rows."""
MARKERS = {"dense": "s", "Hybrid Pruning": "o", "DPHuBERT": "^", "post-hoc pruning": "v", "single system": "P"}
MIN_DCFS = {"min_dcf", "min_dcf_0.01"}
"""Of anti-spoofing, and of speaker verification, where the usual P(target) is 0.01."""
UNKNOWN = "–"
HEADINGS = ("system", "removed, %", "parameters, M", "G for 4 s", "EER, %", "minDCF", "source")


@dataclass(frozen=True, slots=True)
class Published:
    """A published system on a set, or a run of ours beside it; None is not stated.

    The family is its kind, or the method it was pruned by. Parameters are of the whole system, in millions, and perhaps
    derived from the sparsity; FLOPs for four seconds, in billions, and of ours the encoder's multiply-accumulates.
    """

    set: str
    system: str
    family: str
    sparsity: float | None
    params_m: float | None
    derived: bool
    flops_g: float | None
    eer: float
    min_dcf: float | None
    source: str

    def cells(self, error_form: str = ".2f") -> list[str]:
        """Return sparsity and EER in percent, size, operations and minDCF for a table, in the order of its columns."""
        removed = None if self.sparsity is None else 100 * self.sparsity
        values = ((removed, ".0f"), (self.params_m, ".1f"), (self.flops_g, ".1f"), (100 * self.eer, error_form))
        return [UNKNOWN if value is None else f"{value:{form}}" for value, form in (*values, (self.min_dcf, ".3f"))]


def read_published(corpus: str, optional: bool = False) -> list[Published]:
    """Return the published systems of a corpus; where they are `optional`, none of an unknown one."""
    with resources.as_file(resources.files("hybrid_pruning.reporting") / "published.tsv") as path:
        rows = [row for _, row in read_rows(path, ())]
    known = sorted({row["corpus"] for row in rows})
    if corpus not in known and not optional:
        raise InputError(f"report: no published systems of '{corpus}' are known; there are those of {', '.join(known)}")
    return [_parse(row) for row in rows if row["corpus"] == corpus]


def is_of_set(system: Published, name: str) -> bool:
    """Return whether an evaluation set has the name of a published system's, such as `eval` or `vox1-O`, in its own."""
    return system.set.lower() in name.lower()


def compare_published(
    others: Sequence[Published],
    runs: Sequence[LoggedRun],
    sizes: Sequence[ModelSize | str],
    sets: Sequence[ResultSet],
) -> list[dict[str, Any]]:
    """Return published systems beside our runs, evaluation set by evaluation set, as the template takes them."""
    found = []
    for place, name in enumerate(dict.fromkeys(other.set for other in others)):
        chosen = [other for other in others if other.set == name]
        results = next((results for results in sets if is_of_set(chosen[0], results.name)), None)
        ours = _find_ours(runs, sizes, results) if results else {}
        title = "Our runs among published systems: EER over size" if ours else "Smaller systems make more errors"
        svg = plots.to_inline_svg(draw_sizes(chosen, ours), f"published-{place}", f"EER over parameters, {name}")
        caption = "Both axes are logarithmic. Stars: measured here. Systems of unknown size are in the table alone."
        sources = list(dict.fromkeys(other.source for other in chosen))
        rows = [
            (row.system, *row.cells(), f"[{sources.index(row.source) + 1}]" if row.source in sources else row.source)
            for row in (*ours.values(), *(other for other in chosen if not other.derived))
        ]
        found.append(
            {
                "set": results.name if results and ours else "",
                "theirs": name,
                "table": Table(HEADINGS, rows),
                "ours": [*ours],
                "sweep": _tabulate_sweeps(chosen, sources),
                "sources": sources,
                "figure": plots.Captioned(title, svg, caption),
            }
        )
    return found


def draw_sizes(published: Sequence[Published], ours: Mapping[int, Published]) -> "Figure":
    """Draw EERs over sizes: published systems pale, a method pruned further joined; our runs, by their index, bold."""
    from matplotlib.ticker import FuncFormatter

    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, 0.8 * plots.WIDTH)
        for family, marker in MARKERS.items():
            label: str | None = family  # once, where there are both kinds
            for derived, style in ((True, "-"), (False, "none")):
                rows = [row for row in published if row.family == family and row.params_m and row.derived is derived]
                if rows:
                    look: dict[str, Any] = {"color": plots.MUTED, "linewidth": 0.8, "markersize": 4.5, "alpha": 0.75}
                    x, y = zip(*sorted((row.params_m, 100 * row.eer) for row in rows), strict=True)
                    axes.plot(x, y, linestyle=style, marker=marker, label=label, **look)
                    label = None
        for index, run in ours.items():
            label = plots.label_of(f"{run.system}, {run.source}")
            axes.plot(run.params_m or 0, 100 * run.eer, "*", color=plots.colour_of(index), markersize=13, label=label)
        axes.set(xscale="log", yscale="log", xlabel="parameters, millions", ylabel="EER, %")
        shown = [*published, *ours.values()]
        axes.set_xticks(_ticks([row.params_m for row in shown if row.params_m]), minor=False)
        axes.set_yticks(_ticks([100 * row.eer for row in shown]), minor=False)
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def _parse(row: dict[str, str]) -> Published:
    def known(name: str) -> float | None:
        return None if row[name] == "-" else float(row[name])

    sparsity, params = known("sparsity"), known("params_m")
    derived = params is None and sparsity is not None
    if params is None and sparsity is not None:
        params = DENSE_PARAMS_M * (1 - sparsity) + HEAD_PARAMS_M
    return Published(
        **{name: row[name] for name in ("set", "system", "family", "source")},
        sparsity=sparsity,
        params_m=params,
        derived=derived,
        flops_g=known("flops_g"),
        eer=float(row["eer_percent"]) / 100,
        min_dcf=known("min_dcf"),
    )


def _find_ours(runs: Sequence[LoggedRun], sizes: Sequence[ModelSize | str], results: ResultSet) -> dict[int, Published]:
    """Return our runs on an evaluation set that others have published results for by their index, the largest first."""
    found = {}
    for index, evaluation in results.evaluations.items():
        size = sizes[index]
        if not isinstance(size, str):
            budget, metrics = size.units.budget, evaluation.metrics
            found[index] = Published(
                set=results.name,
                system=runs[index].name,
                family="ours",
                sparsity=float(budget.sparsity),
                params_m=(int(budget.params) + size.head_params) / 1e6,
                derived=False,
                flops_g=int(budget.macs) / 1e9,
                eer=metrics["eer"],
                min_dcf=metrics[min(set(metrics) & MIN_DCFS)],
                source="measured here",
            )
    return dict(sorted(found.items(), key=lambda item: -(item[1].params_m or 0)))


def _tabulate_sweeps(published: Sequence[Published], sources: Sequence[str]) -> Table | None:
    """Return the EER of methods that were published at every sparsity: a row per sparsity, a column per method."""
    swept = [other for other in published if other.derived]
    if not swept:
        return None
    methods = list(dict.fromkeys(other.family for other in swept))
    rates = {(other.sparsity, other.family): f"{100 * other.eer:.2f}" for other in swept}
    sparsities = sorted({other.sparsity for other in swept if other.sparsity is not None})
    rows = [[f"{100 * part:.0f}", *(rates.get((part, method), UNKNOWN) for method in methods)] for part in sparsities]
    numbers = sorted({sources.index(other.source) + 1 for other in swept})
    title = f"Published EER, %, at every sparsity [{', '.join(map(str, numbers))}]"
    return Table(("removed, %", *methods), rows, title)


def _ticks(values: list[float]) -> list[float]:
    """Return 1, 2, 5, 10, ... as far as the values reach."""
    ladder = [step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5)]
    low, high = min(values), max(values)
    return [tick for tick in ladder if low / 1.5 <= tick <= high * 1.5]
