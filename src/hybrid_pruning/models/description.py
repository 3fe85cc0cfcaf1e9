"""A backbone <-> the plain values that an artifact describes it by; an encoder alone as an artifact."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from hybrid_pruning.errors import InputError
from hybrid_pruning.models import artifact
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.pruning import narrow, plan_for, shape_of

BACKBONE = "backbone."
"""What the names of an encoder's weights begin with."""
BACKBONE_ALONE = "none"
"""The task of an artifact that has no head."""

MOST_UNITS = 1 << 20
"""In one slot, by far: what a damaged description claims is not written out in memory."""


def save_backbone(backbone: Backbone, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write an encoder alone as an artifact, which `load_backbone` and `backbone.source` in a recipe take.

    Raises:
        InputError: the folder cannot be written to.
    """
    about = {"task": BACKBONE_ALONE, "backbone": describe_backbone(backbone), "provenance": dict(provenance)}
    weights = {f"{BACKBONE}{name}": tensor for name, tensor in backbone.state_dict().items()}
    artifact.write_artifact(Path(folder), about, weights)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return all that is needed to build a backbone again, as plain values."""
    shape = shape_of(backbone)
    return {
        "config": backbone.config.to_diff_dict(),
        "normalize": backbone.normalize,
        "origin": backbone.origin,
        "units": None if shape is None else list(shape.units),
        "kept": None if shape is None else {name: _to_ranges(kept) for name, kept in shape.kept.items()},
    }


def build_backbone(about: Mapping[str, Any]) -> Backbone:
    """Return a backbone of the given description with fresh weights: the dense skeleton, cut to its shape."""
    backbone = skeleton(about["config"], bool(about["normalize"]))
    backbone.origin = dict(about.get("origin", {}))
    if about["kept"] is not None:
        kept = {name: _from_ranges(ranges) for name, ranges in about["kept"].items()}
        narrow(backbone, plan_for(backbone).only(about["units"]), kept)
    return backbone


@contextmanager
def understanding(folder: Path) -> Iterator[None]:
    """Turn what building a model of a nonsensical description raises into the user's error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{folder / artifact.CONFIG}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{folder / artifact.CONFIG}: cannot be understood ({problem})") from error


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Turn what loading another model's weights raises into the user's error, and let one from reading pass."""
    try:
        yield
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: config.json and model.safetensors do not belong together: {problem}") from error


def _to_ranges(kept: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) -> '0-2,5', which a person can read in config.json."""
    runs: list[list[int]] = []
    for unit in kept:
        if runs and unit == runs[-1][1] + 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _from_ranges(text: str) -> tuple[int, ...]:
    runs = [run.partition("-") for run in text.split(",") if run]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in runs]
    if any(len(units) > MOST_UNITS for units in ranges):
        raise ValueError(f"kept units {text[:40]}: no slot has more than {MOST_UNITS}")
    return tuple(unit for units in ranges for unit in units)
