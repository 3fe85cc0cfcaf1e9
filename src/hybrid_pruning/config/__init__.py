"""A recipe: YAML + `--set a.b=c` -> one checked, complete configuration."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from hybrid_pruning.config.rules import check_order, find_faults, is_changed
from hybrid_pruning.config.sections import (
    GATED,
    TRAINED_FIRST,
    AugmentConfig,
    CodecConfig,
    CodecName,
    Config,
    DataConfig,
    DistillationConfig,
    Files,
    HeadConfig,
    Method,
    ObjectiveConfig,
    PruningConfig,
    RawBoostConfig,
    TrainingConfig,
    by_name,
    listed,
)
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, has_control_characters
from hybrid_pruning.trees import MOST_BYTES, parse_yaml, read_bytes

__all__ = [
    "GATED",
    "TRAINED_FIRST",
    "AugmentConfig",
    "CodecConfig",
    "CodecName",
    "Config",
    "DataConfig",
    "DistillationConfig",
    "Files",
    "HeadConfig",
    "Method",
    "ObjectiveConfig",
    "PruningConfig",
    "RawBoostConfig",
    "TrainingConfig",
    "by_name",
    "change_config",
    "check_config",
    "expand_stages",
    "is_changed",
    "listed",
    "load_config",
    "save_config",
]

MOST_VALUES = 10_000  # more are a mistake, or meant to exhaust the memory
SHARED = ("base", "corpus", "stages", "task")  # keys that a stage cannot have of its own


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe; ``a.b=c`` settings win over the file, and that over the one beside it that its `base:` names."""
    tree = _read(Path(path))
    for override in overrides:
        _merge(tree, _parse_override(tree, override))
    return check_config(tree, str(path))


def check_config(tree: Mapping[str, Any], name: str) -> Config:
    """Return the configuration of a tree of plain values; `name` stands in the error messages."""
    config = _validate(tree, name)
    stages = expand_stages(config, name)
    trainings = {f"{name}: stages.{stage}": found for stage, found in stages.items()} or {name: config}
    for place, training in trainings.items():
        for fault in find_faults(training):
            raise InputError(f"{place}: {fault}")
    check_order(stages, name)
    return config


def change_config(config: Config, changes: Mapping[str, Any], name: str) -> Config:
    """Return a recipe with other values at keys such as `training.lr`; `name` stands in the error messages."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        _merge(tree, _nest(tree, key, value, name))
    return check_config(tree, name)


def expand_stages(config: Config, name: str = "recipe") -> dict[str, Config]:
    """Return the complete recipe of each stage by its name, in order; none where the recipe has none."""
    found = {}
    for stage, changes in config.stages.items():
        if fixed := next((key for key in changes if key in SHARED), None):
            raise InputError(f"{name}: key 'stages.{stage}.{fixed}': all stages have the same; give it at the top")
        tree = config.model_dump(mode="json", exclude={"stages"})
        _merge(tree, changes)
        found[stage] = _validate(tree, name, f"stages.{stage}.")
    return found


def save_config(config: Config, path: str | Path) -> None:
    """Write a configuration as YAML that `load_config` reads back."""
    with atomic_write(path) as handle:
        yaml.safe_dump(config.model_dump(mode="json"), handle, sort_keys=False)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    content = read_bytes(path, MOST_BYTES[".yaml"], "check the path of the recipe")
    try:
        tree = parse_yaml(content, MOST_VALUES)
    except ValueError as error:
        raise InputError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected keys and values, found {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str) or has_control_characters(base):
        raise InputError(f"{path}: base {base!r}, expected the name of a file beside the recipe")
    source = (path.parent / base).resolve()
    if source in seen:
        raise InputError(f"{path}: base '{base}' leads back to itself")
    merged = _read(source, (*seen, source))
    _merge(merged, tree)
    return merged


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _parse_override(tree: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Return the changes of a setting."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: expected key=value, e.g. pruning.target_sparsity=0.7")
    try:
        value = parse_yaml(text, MOST_VALUES)
    except ValueError as error:
        raise InputError(f"--set {override}: the value is not valid YAML") from error
    return _nest(tree, key, value, f"--set {override}")


def _nest(tree: Mapping[str, Any], key: str, value: Any, name: str) -> dict[str, Any]:
    """Return a value below its key `a.b`; refuse a stage that the recipe lacks, which would be one more training."""
    *parents, last = key.strip().split(".")
    changes = {last: deepcopy(value)}
    for part in reversed(parents):
        changes = {part: changes}
    asked = changes.get("stages")
    there = found if isinstance(found := tree.get("stages"), dict) else {}
    if isinstance(asked, dict) and (new := sorted(asked.keys() - there.keys())):
        known = ", ".join(there) or "none"
        raise InputError(f"{name}: there is no stage '{new[0]}'; the recipe's stages: {known}")
    return changes


def _validate(tree: Mapping[str, Any], name: str, prefix: str = "") -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{name}: {_explain(error, prefix)}") from error


def _explain(error: ValidationError, prefix: str) -> str:
    """Return one line for the first thing wrong; the prefix is the part of the recipe that its keys stand in."""
    errors = error.errors()
    # a key that may be of several types has an error for each: the deepest got furthest
    first = max((e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]), key=lambda e: len(e["loc"]))
    path = [
        str(part)
        for part in first["loc"]
        if not str(part).startswith(("constrained-", "dict[", "[key]", "lax-or-strict["))
    ]
    key = prefix + ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"key '{key}' is unknown; {_nearest(path)}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, found {short.repr(first['input'])}"


def _nearest(path: list[str]) -> str:
    section: Any = Config
    for part in path[:-1]:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    names = list(section.model_fields)
    close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known there: {', '.join(names)}"
