"""Where the recipe leaves its files: in a folder, or in a repository of the hub."""

from collections.abc import Iterable
from pathlib import Path

from hybrid_pruning.errors import InputError
from hybrid_pruning.models import artifact
from hybrid_pruning.models.artifact import CONFIG
from hybrid_pruning.models.backbone.formats import describe_file

SUFFIXES = (".bin", ".pt", ".pth")
PRUNED, GATED, BACKBONE = "whole_pytorch_model.bin", "avg_model.pt", "pytorch_model.bin"
FOLDERS = {PRUNED: "pruned_model", GATED: "models", BACKBONE: "pruned_model"}
"""In which of the recipe's folders a file lies, unless it lies in the first one."""
DESCRIPTIONS = ("pruned_config.json", "config_pruned.yaml", "config.yaml")
"""Of encoder or recipe, told apart by what they hold; the first that says something counts."""
FIRST = (*DESCRIPTIONS, f"{FOLDERS[PRUNED]}/{PRUNED}", f"{FOLDERS[BACKBONE]}/{BACKBONE}")
INSTEAD = (f"{FOLDERS[GATED]}/{GATED}",)
"""Fetched from the hub only where the pruned model is not there: it is the larger one."""


def locate_model(name_or_path: str | Path) -> Path:
    """Return the folder or file of a model, ours or the recipe's, fetching no more of a repository than it takes.

    Raises:
        InputError: there is neither such a file or folder nor such a repository.
    """
    path = Path(name_or_path)
    if path.is_dir() or (path.is_file() and path.suffix in SUFFIXES):
        return path
    if path.is_file() and path.suffix != ".onnx" and (said := describe_file(path)):
        raise InputError(f"{path}: {said}")
    folder = artifact.locate(name_or_path, FIRST)
    if (folder / CONFIG).exists() or find_model(folder) is not None:
        return folder
    return artifact.locate(name_or_path, INSTEAD)


def find_model(place: Path) -> Path | None:
    """Return the recipe's whole model that a path means, the pruned one if there is one; None for anything else."""
    return _find(place, (PRUNED, GATED))


def find_backbone(place: Path) -> Path | None:
    """Return the foreign file that a path means an encoder by; None for anything else, transformers folders too."""
    return _find(place, (BACKBONE, PRUNED, GATED))


def neighbours(file: Path, names: Iterable[str]) -> list[Path]:
    """Return those of the named files that lie beside a file, in the recipe's folder above it, or in that one's."""
    root = file.parent.parent if file.parent.name in FOLDERS.values() else file.parent
    places = [folder / name for name in names for folder in _folders(root, name, file.parent)]
    return [place for place in dict.fromkeys(places) if place != file and place.is_file()]


def _folders(root: Path, name: str, first: Path) -> list[Path]:
    return [first, root, *([root / FOLDERS[name]] if name in FOLDERS else [])]


def _find(place: Path, names: Iterable[str]) -> Path | None:
    if place.is_file():
        return place if place.suffix in SUFFIXES else None
    if (place / CONFIG).exists():  # an artifact of ours, or a transformers folder
        return None
    files = [folder / name for name in names for folder in _folders(place, name, place)]
    return next((file for file in files if file.is_file()), None)
