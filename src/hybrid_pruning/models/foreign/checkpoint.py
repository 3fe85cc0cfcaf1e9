"""Files of other programs: where the public recipe leaves them, tensors and config in them; nothing is executed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from hybrid_pruning.errors import InputError, first_line
from hybrid_pruning.files import require_allowed
from hybrid_pruning.models import artifact
from hybrid_pruning.models.artifact import CONFIG, require_finite
from hybrid_pruning.models.backbone.formats import describe_file
from hybrid_pruning.models.backbone.loading import DAMAGED, read_pickle, to_new_name
from hybrid_pruning.trees import MOST_BYTES, parse_yaml, read_bytes, read_json

SUFFIXES = (".bin", ".pt", ".pth")
PRUNED, GATED, BACKBONE = "whole_pytorch_model.bin", "avg_model.pt", "pytorch_model.bin"
FOLDERS = {PRUNED: "pruned_model", GATED: "models", BACKBONE: "pruned_model"}
"""File -> its folder in the recipe's, unless it lies in that one itself."""
DESCRIPTIONS = ("pruned_config.json", "config_pruned.yaml", "config.yaml")
"""Of encoder or recipe, distinguished by their keys; the first that has them counts."""
FIRST = (*DESCRIPTIONS, f"{FOLDERS[PRUNED]}/{PRUNED}", f"{FOLDERS[BACKBONE]}/{BACKBONE}")
INSTEAD = (f"{FOLDERS[GATED]}/{GATED}",)
"""Fetched from the hub only where the pruned model is not there: it is the larger one."""
UPSTREAM = "frontend.upstream."
"""The recipe's prefix of the encoder's names."""
EXPECTED = "expected the {'state_dict', 'config'} of WeDefense, DPHuBERT or DiariZen, or a recipe's whole model"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a foreign file; tensors and the encoder's config, if any, have their own names."""

    file: Path
    encoder: Mapping[str, torch.Tensor]
    gates: Mapping[str, torch.Tensor]
    """log_alpha [units] of gates that were not cut out yet."""
    rest: Mapping[str, torch.Tensor]
    """Head and projection of a whole model."""
    config: Mapping[str, Any] | None

    @property
    def form(self) -> str:
        """In words: an encoder or a whole model, gated or cut."""
        return f"{'gated' if self.gates else 'pruned or dense'} {'model' if self.rest else 'encoder'}"


def locate_model(name_or_path: str | Path) -> Path:
    """Return the folder or file of a model, ours or the recipe's, fetching no more of a repository than it takes."""
    path = Path(name_or_path)
    require_allowed(path)
    if path.is_dir() or (path.is_file() and path.suffix in SUFFIXES):
        return path
    if path.is_file() and path.suffix != ".onnx" and (kind := describe_file(path)):
        raise InputError(f"{path}: {kind}")
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


def _find(place: Path, names: Iterable[str]) -> Path | None:
    if place.is_file():
        return place if place.suffix in SUFFIXES else None
    if (place / CONFIG).exists():  # an artifact of ours, or a transformers folder
        return None
    files = [folder / name for name in names for folder in _folders(place, name, place)]
    return next((file for file in files if file.is_file()), None)


def neighbours(file: Path, names: Iterable[str]) -> list[Path]:
    """Return those of the named files that lie beside a file, in the recipe's folder above it, or in that one's."""
    root = file.parent.parent if file.parent.name in FOLDERS.values() else file.parent
    places = [folder / name for name in names for folder in _folders(root, name, file.parent)]
    return [place for place in dict.fromkeys(places) if place != file and place.is_file()]


def _folders(root: Path, name: str, first: Path) -> list[Path]:
    return [first, root, *([root / FOLDERS[name]] if name in FOLDERS else [])]


def read_descriptions(file: Path) -> list[Mapping[str, Any]]:
    """Return the contents of the recipe's JSON and YAML files around a checkpoint."""
    found: list[Mapping[str, Any]] = []
    for path in neighbours(file, DESCRIPTIONS):
        if path.suffix == ".json":
            found.append(read_json(path, "fetch it again", "fetch it again"))
            continue
        try:
            found.append(parse_yaml(read_bytes(path, MOST_BYTES[".yaml"])))
        except ValueError as error:
            raise InputError(f"{path}: cannot be read ({first_line(error)}); fetch it again") from error
        if not isinstance(found[-1], Mapping):
            raise InputError(f"{path}: holds no names with values; is it the recipe's?")
    return found


def read_checkpoint(file: Path) -> Checkpoint:
    """Read and recognise a foreign file."""
    try:
        content, config = read_pickle(file), None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)})") from error
    except DAMAGED as error:
        problem = f"is damaged or cut short ({first_line(error)}); fetch it again"
        if isinstance(error, UnpicklingError):
            problem = f"is damaged, or holds more than tensors and plain values, which is never run; {EXPECTED}"
        raise InputError(f"{file}: {describe_file(file) or problem}") from error
    if isinstance(content, Mapping) and {"state_dict", "config"} <= set(content):
        content, config = content["state_dict"], content["config"]
        if not isinstance(config, Mapping):
            raise InputError(f"{file}: its 'config' is no mapping of names to values; {EXPECTED}")
    elif isinstance(content, Mapping):
        ours = [name for name in map(str, content) if name.startswith(UPSTREAM)]
        if all(name.startswith(f"{UPSTREAM}upstream.") for name in ours):  # ESPnet's
            names = ", ".join(map(str, list(content)[:3])) or "nothing"
            kind = describe_file(file) or f"holds {names:.80}: not a file that can be converted; {EXPECTED}"
            raise InputError(f"{file}: {kind}")
    state = _check_tensors(file, content)
    whole = any(name.startswith(UPSTREAM) for name in state)
    encoder: dict[str, torch.Tensor] = {}
    gates: dict[str, torch.Tensor] = {}
    rest: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        bare = to_new_name(name.removeprefix(UPSTREAM))
        group = gates if bare.endswith(".log_alpha") else encoder
        group = rest if whole and not name.startswith(UPSTREAM) else group
        group[bare] = tensor.float() if tensor.is_floating_point() else tensor
    return Checkpoint(file, encoder, gates, rest, config)


def _check_tensors(file: Path, content: Any) -> Mapping[str, torch.Tensor]:
    """Return the content of a file, which has to be named tensors of finite numbers and nothing else."""
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: holds a {type(content).__name__}; {EXPECTED}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(f"{file}: '{name}' is a {type(value).__name__}, no tensor with a name; {EXPECTED}")
    require_finite(file, content)
    return content
