"""Published systems to compare with: a table of figures, each with its source."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.errors import InputError
from hybrid_pruning.reporting import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE_PARAMS_M, HEAD_PARAMS_M = 94.38, 1.25
"""WavLM Base (or Base+) and MHFA in millions, from which the size of a row follows that states its sparsity alone."""
PAPER = "Peng et al., ICASSP 2026"
"""Beginning of the sources of the paper's own rows."""
MARKERS = {"dense": "s", "Hybrid Pruning": "o", "DPHuBERT": "^", "post-hoc pruning": "v", "single system": "P"}
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Published:
    """A published system on a set; None is not stated.

    Args:
        family: its kind, or the method it was pruned by.
        params_m: parameters of the whole system, in millions.
        derived: whether the parameters were computed from the sparsity.
        flops_g: for four seconds, in billions, as published.
        eer: a fraction, as is the sparsity.
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


@dataclass(frozen=True, slots=True)
class Ours:
    """A run of this report on the same set: index, parameters of backbone and head in millions, EER (a fraction)."""

    name: str
    system: int
    params_m: float
    eer: float


def read_published(corpus: str) -> list[Published]:
    """Return the published systems of a corpus."""
    with resources.as_file(resources.files("hybrid_pruning.reporting") / "published.tsv") as path:
        rows = [row for _, row in read_rows(path, ())]
    known = sorted({row["corpus"] for row in rows})
    if corpus not in known:
        raise InputError(f"report: no published systems of '{corpus}' are known; there are those of {', '.join(known)}")
    return [_parse(row) for row in rows if row["corpus"] == corpus]


def is_known(corpus: str) -> bool:
    """Return whether there are published systems of a corpus."""
    try:
        return bool(read_published(corpus))
    except InputError:
        return False


def is_of_set(system: Published, name: str) -> bool:
    """Return whether an evaluation set has the name of a published system's, such as `eval` or `vox1-O`, in its own."""
    return system.set.lower() in name.lower()


def draw_sizes(published: Sequence[Published], ours: Sequence[Ours]) -> "Figure":
    """Draw the EER over the size: published systems pale, joined where one method was pruned further; ours bold."""
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
        for run in ours:
            star: dict[str, Any] = {"color": plots.colour_of(run.system), "markersize": 13}
            axes.plot(run.params_m, 100 * run.eer, "*", label=plots.label_of(f"{run.name}, measured here"), **star)
        axes.set(xscale="log", yscale="log", xlabel="parameters, millions", ylabel="EER, %")
        sizes = [row.params_m for row in published if row.params_m] + [run.params_m for run in ours]
        axes.set_xticks(_ticks(sizes), minor=False)
        axes.set_yticks(_ticks([100 * row.eer for row in published] + [100 * run.eer for run in ours]), minor=False)
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def _parse(row: dict[str, str]) -> Published:
    sparsity, stated = _number(row["sparsity"]), _number(row["params_m"])
    derived = stated is None and sparsity is not None
    params = DENSE_PARAMS_M * (1 - sparsity) + HEAD_PARAMS_M if derived and sparsity is not None else stated
    names = {name: row[name] for name in ("set", "system", "family", "source")}
    eer, min_dcf, flops = float(row["eer_percent"]) / 100, _number(row["min_dcf"]), _number(row["flops_g"])
    return Published(
        **names, sparsity=sparsity, params_m=params, derived=derived, flops_g=flops, eer=eer, min_dcf=min_dcf
    )


def _number(text: str) -> float | None:
    return None if text == ABSENT else float(text)


def _ticks(values: list[float]) -> list[float]:
    """Return 1, 2, 5, 10, ... as far as the values reach."""
    ladder = [step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5)]
    low, high = min(values), max(values)
    return [tick for tick in ladder if low / 1.5 <= tick <= high * 1.5]
