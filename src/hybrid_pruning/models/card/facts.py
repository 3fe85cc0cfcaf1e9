"""Facts of a model for its card, from the model itself and from its provenance; unknown ones are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_pruning.models import hub
from hybrid_pruning.models.size import SECONDS, count_kept, count_parameters
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.trees import number, section

if TYPE_CHECKING:
    from hybrid_pruning.models.speech_model import SpeechModel

FAMILIES = {"wavlm": "WavLM", "hubert": "HuBERT", "wav2vec2": "wav2vec 2.0", "whisper": "Whisper encoder"}
UNITS = {
    "conv": "convolution channels",
    "head": "attention heads",
    "attlayer": "attention layers",
    "interm": "FFN neurons",
    "ffnlayer": "FFN layers",
}
COUNTED = {"params": "parameters", "macs": "MACs"}


@dataclass(frozen=True, slots=True)
class Base:
    """The encoder that a model was made from.

    Args:
        family: name of its architecture.
        name: as in the recipe; empty where unknown.
        is_on_hub: whether that name is an id of the hub.
        random: whether only its shape was taken, with fresh weights.
    """

    family: str
    name: str
    is_on_hub: bool
    random: bool


def find_base(model: "SpeechModel") -> Base:
    """Return the origin of a model's backbone."""
    backbone = section(model.provenance, "recipe", "backbone")
    source, kind = str(backbone.get("source") or ""), str(model.backbone.config.model_type)
    on_hub = source.count("/") == 1 and hub.is_repo_id(source) and not Path(source).exists()
    return Base(FAMILIES.get(kind, kind), source if on_hub else Path(source).name, on_hub, bool(backbone.get("random")))


def measure_sizes(model: "SpeechModel") -> list[tuple[str, str, str, str]]:
    """Return the rows of the table of sizes: title, exact size, size of the dense original, fraction removed."""
    budget = count_kept(model.backbone).budget
    counts = (
        ("backbone parameters", budget.params, budget.dense_params, budget.sparsity),
        (f"backbone MACs for {SECONDS:g} s", budget.macs, budget.dense_macs, budget.macs_sparsity),
    )
    rows = [(title, f"{int(now):,}", f"{int(dense):,}", f"{float(cut):.1%}") for title, now, dense, cut in counts]
    return [
        *rows,
        ("head parameters", f"{count_parameters(model.head) + count_parameters(model.classifier):,}", "", ""),
    ]


def describe_pruning(model: "SpeechModel") -> str:
    """Return the kinds of units that could be cut, and the target; empty for a dense model."""
    shape = shape_of(model.backbone)
    if shape is None:
        return ""
    pruning = section(model.provenance, "recipe", "pruning")
    goal = number(model.provenance.get("snapshot_at", pruning.get("target_sparsity")))
    counted = COUNTED.get(str(pruning.get("constraint")))
    aim = f"; the target was {goal:.0%} of the {counted}" if goal and counted else ""
    return f"{', '.join(UNITS.get(unit, unit) for unit in shape.units)} could be cut{aim}"


def describe_data(model: "SpeechModel") -> list[tuple[str, str]]:
    """Return the known facts of the training data, title and value."""
    recipe = section(model.provenance, "recipe")
    data, augment = section(recipe, "data"), section(recipe, "augment")
    kinds = [name for name, value in augment.items() if isinstance(value, Mapping)]
    augmented = f"{number(augment.get('probability')):.0%} of the examples: {', '.join(kinds)}" if kinds else "none"
    counts = () if model.classes is None else zip(model.classes.labels, model.classes.counts, strict=True)
    return _known(
        {
            "corpus": section(recipe, "corpus").get("name"),
            "trained on": _file(data.get("train")),
            "training utterances": ", ".join(f"{count:,} {label}" for label, count in counts),
            "validated on": _file(data.get("dev")),
            "length of an example": f"{data['crop_seconds']} s" if data.get("crop_seconds") else None,
            "augmentation": augmented if recipe else None,
        }
    )


def describe_training(model: "SpeechModel") -> list[tuple[str, str]]:
    """Return the known facts of the training, title and value."""
    recipe = section(model.provenance, "recipe")
    training = section(recipe, "training")
    return _known(
        {
            "epochs": training.get("epochs"),
            "batch": f"{training['batch_size']} utterances a process" if training.get("batch_size") else None,
            "pruning": describe_pruning(model),
            "seed": recipe.get("seed"),
            "checkpoints averaged": model.provenance.get("averaged_checkpoints"),
        }
    )


def calibrated_on(model: "SpeechModel") -> Sequence[str]:
    """Return the names of the sets that the calibration was fitted on, those of their key files."""
    return [] if model.calibration is None else [Path(fit.keys).stem for fit in model.calibration.fits]


def _known(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(title, str(value)) for title, value in rows.items() if value not in (None, "")]


def _file(path: Any) -> str:
    """Return the last two parts of a path: the others are private to its author."""
    return "/".join(Path(str(path)).parts[-2:]) if path else ""
