"""A model: its kept units on the terminal and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_pruning.console import Span, Spans, Table, say, say_table, takes_blocks
from hybrid_pruning.models.size import SECONDS, KeptUnits, count_kept, count_parameters
from hybrid_pruning.reporting import plots
from hybrid_pruning.training.runs import Run
from hybrid_pruning.trees import portable, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hybrid_pruning.models.speech_model import SpeechModel

CONV_COLUMNS = {"conv": "channels"}
LAYER_COLUMNS = {"head": "heads", "attlayer": "attention", "interm": "FFN neurons", "ffnlayer": "FFN"}
SUBLAYERS = {"head": "attlayer", "interm": "ffnlayer"}
"""Kind of unit -> the gate of its whole sub-layer: while that is closed, the unit's own gate has no effect."""
BAR_WIDTH = 10
HEAT = ("magenta", "blue", "cyan", "green", "yellow")
"""From nearly all removed to all kept, as viridis has it."""
ROW, BAR = 19.0, 13.0
"""Height of a row of the picture and of the boxes in it, in points."""
LEFT, HEADS, FEED_FORWARD, RIGHT, COUNTS = 24.0, 150.0, 200.0, plots.WIDTH - 62.0, float(plots.WIDTH)
"""Beginning of the boxes, end of the heads, beginning and end of the neurons' bars, end of the counts."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The size of a model (head and classifier together), and in words its state, training labels and origin.

    `mixtures` are the head's learnt weights of the hidden states, which sum to 1, by the name of the mixture.
    """

    units: KeptUnits
    head_params: int
    state: str
    labels: str
    origin: str
    mixtures: Mapping[str, Sequence[float]]

    def without_units(self, state: int) -> list[str]:
        """Return the kinds of sub-layers without units in the layer that a hidden state comes from, none for 0."""
        if state == 0:
            return []
        return [SUBLAYERS[unit] for unit in SUBLAYERS if not active_units(self.units, f"{unit}.{state - 1}")]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        budget, states = self.units.budget, max(map(len, self.mixtures.values()), default=0)
        return {
            **{name: getattr(self, name) for name in ("state", "labels", "origin", "head_params")},
            "backbone": {name: int(getattr(budget, name)) for name in ("params", "dense_params", "macs", "dense_macs")},
            "kept": dict(self.units.kept),
            "sizes": dict(self.units.sizes),
            "hidden_states": [
                {
                    **{name: weights[k] for name, weights in self.mixtures.items()},
                    "without_units": self.without_units(k),
                }
                for k in range(states)
            ],
        }


def inspect_model(model: "str | Path | SpeechModel", out: str | Path | None = None) -> Inspection:
    """Return size, kept units and origin of a model; `out` also draws them: .svg, .png or .pdf.

    The model is a folder, a hub id, or a finished run, of which it is what `export` would write.
    """
    from hybrid_pruning.models.speech_model import SpeechModel
    from hybrid_pruning.pruning import shape_of
    from hybrid_pruning.training.export import build_export

    if not isinstance(model, SpeechModel):
        model = build_export(model) if Run(model).config.exists() else SpeechModel.from_pretrained(str(model))
    units, shape = count_kept(model.backbone), shape_of(model.backbone)
    if out is not None:
        plots.save_figure(draw_kept_units(units), out)
    labels = "none: for speaker verification, where embeddings are compared"
    if model.classes is not None:
        pairs = zip(model.classes.labels, model.classes.counts, strict=True)
        labels = f"{', '.join(f'{label} ({count})' for label, count in pairs)}; in brackets those of a training epoch"
    state = "dense: everything is kept, nothing had gates"
    if shape is not None:
        state = f"pruned: {', '.join(shape.units)} had gates"
    head_params = count_parameters(model.head, model.classifier)
    return Inspection(units, head_params, state, labels, _origin(model.provenance), model.head.mixtures())


def print_inspection(found: Inspection) -> None:
    """Print a heat map of the kept units, then the model's size beside the dense one and its origin."""
    units, budget = found.units, found.units.budget
    for title, columns in (("conv", CONV_COLUMNS), ("layer", LAYER_COLUMNS)):
        count = len(_slots(units, next(iter(columns))))
        digits = len(str(count - 1))
        cells = [(f"{index:{digits}d}", *(_cell(unit, index, units) for unit in columns)) for index in range(count)]
        say_table(Table((title, *columns.values()), cells, left=1 + len(columns)), box="none")
        say()
    rows = [
        (name, _short(int(now), dense), _short(dense, dense), f"{float(removed):.1%}")
        for name, now, dense, removed in (
            ("backbone parameters", budget.params, budget.dense_params, budget.sparsity),
            (f"backbone MACs, {SECONDS:g} s", budget.macs, budget.dense_macs, budget.macs_sparsity),
        )
    ]
    head = ("head parameters", _short(found.head_params, found.head_params))
    say_table(Table(("", "now", "dense", "removed"), [*rows, head]), box="none")
    say()
    if found.mixtures:
        print_mixtures(found)
    for name in ("state", "labels", "origin"):
        say(f"{name:<8}{getattr(found, name)}")


def print_mixtures(found: Inspection) -> None:
    """Print each hidden state's weights, bars against the largest, and the sub-layers without units in its layer."""
    rows: list[list[Spans]] = []
    for state in range(max(map(len, found.mixtures.values()))):
        row: list[Spans] = [f"{state}"]
        for weights in found.mixtures.values():
            row.append([f"{weights[state]:6.1%} ", *share_bar(weights[state] / max(weights))])
        gone = " and ".join(LAYER_COLUMNS[unit] for unit in found.without_units(state))
        rows.append([*row, f"{gone} without units" if gone else ""])
    headings = ("hidden state", *found.mixtures, "its layer")
    say_table(Table(headings, rows, left=len(headings)), box="none")
    say()


def describe_size(model: "SpeechModel") -> str:
    """Return parameters and MACs of a model's backbone in a line, and the shares of them that are removed."""
    found = count_kept(model.backbone).budget
    params, macs = _short(int(found.params), found.dense_params), _short(int(found.macs), found.dense_macs)
    return (
        f"backbone of {params} parameters ({float(found.sparsity):.1%} removed) and {macs} MACs in {SECONDS:g} s "
        f"({float(found.macs_sparsity):.1%} removed)"
    )


def active_units(units: KeptUnits, name: str) -> int:
    """Return how many units of a slot are kept: none where their whole sub-layer is closed."""
    unit, _, layer = name.partition(".")
    return units.kept[name] if units.kept.get(f"{SUBLAYERS.get(unit)}.{layer}", 1) else 0


def draw_kept_units(units: KeptUnits, colour: str = plots.COLOURS[0]) -> "Figure":
    """Draw kept units filled, removed ones pale: a bar per convolution; per layer a cell per head, a bar of neurons."""
    from matplotlib.figure import Figure

    convolutions = _slots(units, "conv")
    layers = [name.partition(".")[2] for name in _slots(units, "head")]
    height = ROW * (len(layers) + 1 + (len(convolutions) + 1.5 if convolutions else 0)) + 2
    kept: list[plots.Box] = []
    gone: list[plots.Box] = []
    top = 0.0
    with plots.styled():
        figure = Figure(figsize=(plots.WIDTH / 72, height / 72))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, plots.WIDTH), ylim=(height, 0))
        axes.axis("off")

        def write(x: float, text: str, align: str = "left", colour: str = plots.MUTED) -> None:
            axes.text(x, top + BAR / 2, text, va="center_baseline", ha=align, color=colour, size=10)

        def bar(left: float, right: float, share: float) -> None:  # full or empty only where all or nothing is kept
            width = right - left
            filled = share * width if share in (0, 1) else min(max(share * width, 1.5), width - 1.5)
            kept.extend([(left, top, filled, BAR)] if filled else [])
            gone.extend([(left + filled, top, width - filled, BAR)] if filled < width else [])

        def without_units(left: float, right: float, sublayer: str) -> None:  # while open, it still adds its bias
            gone.append((left, top, right - left, BAR))
            write((left + right) / 2, "bias only" if units.kept.get(sublayer, 1) else "closed", "center")

        if convolutions:
            write(LEFT, "convolutions", colour=plots.INK)
            write(COUNTS, "channels", "right")
            widest = max(units.sizes[name] for name in convolutions)
            for name in convolutions:
                top += ROW
                write(LEFT - 8, name.partition(".")[2], "right")
                bar(LEFT, LEFT + (RIGHT - LEFT) * units.sizes[name] / widest, units.kept[name] / units.sizes[name])
                write(COUNTS, f"{units.kept[name]}/{units.sizes[name]}", "right")
            top += 1.5 * ROW
        write(LEFT, "attention heads", colour=plots.INK)
        write(FEED_FORWARD, "feed-forward", colour=plots.INK)
        write(COUNTS, "neurons", "right")
        for layer in layers:
            top += ROW
            write(LEFT - 8, layer, "right")
            heads, neurons = active_units(units, f"head.{layer}"), active_units(units, f"interm.{layer}")
            size, width = units.sizes[f"head.{layer}"], units.sizes[f"interm.{layer}"]
            pitch = min((HEADS - LEFT) / size, BAR + 2)
            for unit in range(size if heads else 0):
                (kept if unit < heads else gone).append((LEFT + unit * pitch, top, pitch - 2, BAR))
            if not heads:
                without_units(LEFT, max(LEFT + size * pitch - 2, LEFT + 58), f"attlayer.{layer}")
            write(COUNTS, f"{neurons}/{width}", "right")
            if neurons:
                bar(FEED_FORWARD, RIGHT, neurons / width)
            else:
                without_units(FEED_FORWARD, RIGHT, f"ffnlayer.{layer}")
        plots.fill_boxes(axes, gone, plots.GRID)
        plots.fill_boxes(axes, kept, colour)
    return figure


def _slots(units: KeptUnits, unit: str) -> list[str]:
    return [name for name in units.sizes if name.partition(".")[0] == unit]


def _cell(unit: str, index: int, units: KeptUnits) -> Spans:
    """Return kept/size and a bar for units, `-` for those of a closed sub-layer; open or closed for a sub-layer."""
    name = f"{unit}.{index}"
    if unit in SUBLAYERS.values():
        inner = next(kind for kind, layer in SUBLAYERS.items() if layer == unit)
        if not units.kept[name]:
            return "closed", "dim"
        return ("open", HEAT[-1]) if units.kept[f"{inner}.{index}"] else ("bias only", "dim")
    if unit in SUBLAYERS and not units.kept[f"{SUBLAYERS[unit]}.{index}"]:
        return "-", "dim"
    kept, size = units.kept[name], units.sizes[name]
    digits = len(str(max(units.sizes[slot] for slot in _slots(units, unit))))
    return [f"{kept:>{digits}}/{size:<{digits}} ", *share_bar(kept / size)]


def share_bar(share: float) -> tuple[Span, Span]:
    """Return a bar that is full only where all is kept and empty only where nothing is."""
    full, empty = ("█", "░") if takes_blocks() else ("#", ".")
    filled = round(share * BAR_WIDTH)
    filled = min(max(filled, 1), BAR_WIDTH - 1) if 0 < share < 1 else filled
    heat = HEAT[min(int(share * len(HEAT)), len(HEAT) - 1)]
    return (full * filled, heat), (empty * (BAR_WIDTH - filled), "dim")


def _short(count: int, scale: int) -> str:
    """Return 94381936 as '94.38 M', in the unit that suits `scale`, so that numbers side by side share it."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if scale >= factor:
            return f"{count / factor:.2f} {suffix}"
    return str(count)


def _origin(provenance: Mapping[str, Any]) -> str:
    """Return the origin of a model; provenance is free-form, so that nothing in it can be relied on."""
    if converted := section(provenance, "converted"):
        return f"converted from {converted.get('file')} ({converted.get('form')})"
    recipe = provenance.get("recipe")
    if not isinstance(recipe, Mapping):
        return "not recorded"
    pruning, backbone = (section(recipe, part) for part in ("pruning", "backbone"))
    target = "no pruning"
    if pruning.get("use_pruning_loss"):
        point = provenance.get("snapshot_at", pruning.get("target_sparsity"))
        target = f"target: {point} of the {pruning.get('constraint')} removed"
    source = portable(backbone.get("source", "an unnamed backbone"))
    weights = "random weights in the shape of " if backbone.get("random") else ""
    averaged = provenance.get("averaged_checkpoints")
    mean = f"; mean of {averaged} checkpoints" if averaged else ""
    return f"{weights}{source}; {target}; seed {recipe.get('seed')}{mean}"
