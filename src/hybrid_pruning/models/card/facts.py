"""What a card says of a model: read from the model itself and from its provenance; what is not known is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from hybrid_pruning.models import hub
from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.calibration import Calibration
from hybrid_pruning.models.size import SECONDS, count_kept, count_parameters
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.tasks import TaskName
from hybrid_pruning.trees import number, section

FAMILIES = {"wavlm": "WavLM", "hubert": "HuBERT", "wav2vec2": "wav2vec 2.0", "whisper": "Whisper encoder"}
UNITS = {
    "conv": "convolution channels",
    "head": "attention heads",
    "attlayer": "attention layers",
    "interm": "FFN neurons",
    "ffnlayer": "FFN layers",
}


COUNTED = {"params": "parameters", "macs": "MACs"}


class Counted(Protocol):
    """Classes and how often each was trained on."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Training utterances of each."""


class Described(Protocol):
    """What a card needs of a model; `SpeechModel` is one."""

    backbone: Backbone
    head: Any
    classifier: nn.Module
    provenance: dict[str, Any]
    calibration: Calibration | None

    @property
    def task(self) -> TaskName:
        """What it was trained for."""

    @property
    def classes(self) -> Counted | None:
        """What it tells apart; None for speaker verification."""


@dataclass(frozen=True, slots=True)
class Base:
    """The encoder that a model was made from.

    Args:
        family: its architecture's name.
        name: as the recipe has it; empty where that is not known.
        is_on_hub: whether that name is an id of the hub.
        random: whether only its shape was taken, with fresh weights.
    """

    family: str
    name: str
    is_on_hub: bool
    random: bool


@dataclass(frozen=True, slots=True)
class Size:
    """One row of the table of sizes: now, dense, and the fraction removed."""

    title: str
    now: str
    dense: str = ""
    removed: str = ""


def find_base(model: Described) -> Base:
    """Return where a model's backbone came from."""
    backbone = section(model.provenance, "recipe", "backbone")
    source, kind = str(backbone.get("source") or ""), str(model.backbone.config.model_type)
    on_hub = _is_on_hub(source)
    name = source if on_hub else Path(source).name
    return Base(FAMILIES.get(kind, kind), name, on_hub, bool(backbone.get("random")))


def measure_sizes(model: Described) -> list[Size]:
    """Return the exact size of a model beside the dense original."""
    budget = count_kept(model.backbone).budget
    rows = [
        Size(title, f"{int(now):,}", f"{int(dense):,}", f"{float(removed):.1%}")
        for title, now, dense, removed in (
            ("backbone parameters", budget.params, budget.dense_params, budget.sparsity),
            (f"backbone MACs for {SECONDS:g} s", budget.macs, budget.dense_macs, budget.macs_sparsity),
        )
    ]
    return [*rows, Size("head parameters", f"{count_parameters(model.head) + count_parameters(model.classifier):,}")]


def describe_pruning(model: Described) -> str:
    """Say what could be cut, and what the recipe aimed at."""
    shape = shape_of(model.backbone)
    if shape is None:
        return ""
    pruning = section(model.provenance, "recipe", "pruning")
    goal = number(model.provenance.get("snapshot_at", pruning.get("target_sparsity")))
    counted = COUNTED.get(str(pruning.get("constraint")))
    aim = f"; the target was {goal:.0%} of the {counted}" if goal and counted else ""
    return f"{', '.join(UNITS.get(unit, unit) for unit in shape.units)} could be cut{aim}"


def describe_data(model: Described) -> list[tuple[str, str]]:
    """Return what is known of the data that a model learnt from, title and value."""
    recipe = section(model.provenance, "recipe")
    data, augment = section(recipe, "data"), section(recipe, "augment")
    kinds = [name for name, value in augment.items() if isinstance(value, Mapping)]
    augmented = f"{number(augment.get('probability')):.0%} of the examples: {', '.join(kinds)}" if kinds else "none"
    classes = model.classes
    counts = () if classes is None else zip(classes.labels, classes.counts, strict=True)
    rows = {
        "corpus": section(recipe, "corpus").get("name"),
        "trained on": _file(data.get("train")),
        "training utterances": ", ".join(f"{count:,} {label}" for label, count in counts),
        "validated on": _file(data.get("dev")),
        "length of an example": f"{data['crop_seconds']} s" if data.get("crop_seconds") else None,
        "augmentation": augmented if recipe else None,
    }
    return [(title, str(value)) for title, value in rows.items() if value]


def describe_training(model: Described) -> list[tuple[str, str]]:
    """Return what is known of the training, title and value."""
    recipe = section(model.provenance, "recipe")
    training = section(recipe, "training")
    rows = {
        "epochs": training.get("epochs"),
        "batch": f"{training['batch_size']} utterances a process" if training.get("batch_size") else None,
        "pruning": describe_pruning(model),
        "seed": recipe.get("seed"),
        "checkpoints averaged": model.provenance.get("averaged_checkpoints"),
    }
    return [(title, str(value)) for title, value in rows.items() if value not in (None, "")]


def calibrated_on(model: Described) -> Sequence[str]:
    """Return the names of the sets that the calibration was fitted on, as their key files have them."""
    return [] if model.calibration is None else [Path(fit.keys).stem for fit in model.calibration.fits]


def _file(path: Any) -> str:
    """A path's last two parts: what lies before them is nobody's business but the author's."""
    return "/".join(Path(str(path)).parts[-2:]) if path else ""


def _is_on_hub(source: str) -> bool:
    return source.count("/") == 1 and hub.is_repo_id(source) and not Path(source).exists()
