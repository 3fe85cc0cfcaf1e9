"""YAML + `--set a.b=c` -> one checked, complete configuration."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from hybrid_pruning.config.checking import check_order, check_whole
from hybrid_pruning.config.recipe import Config
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, has_control_characters
from hybrid_pruning.trees import MOST_BYTES, parse_yaml, read_bytes

MOST_VALUES = 10_000
"""A recipe of more values than that is a mistake, or meant to exhaust the memory."""

FIXED = ("base", "corpus", "stages", "task")
"""What a stage cannot have of its own."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe.

    Args:
        path: a YAML file; its `base:` key, where present, names a recipe beside it that it builds on.
        overrides: ``a.b=c`` settings that win over the file; the value is YAML.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is of the wrong kind or range.
    """
    path = Path(path)
    tree = _read(path)
    for override in overrides:
        changes = _parse_override(override)
        _require_stage(tree, changes, override)
        _merge(tree, changes)
    return check_config(tree, str(path))


def check_config(tree: Mapping[str, Any], name: str) -> Config:
    """Return the configuration a tree of plain values describes; `name` stands in the error messages."""
    config = _validate(tree, name)
    stages = expand_stages(config, name)
    if not stages:
        check_whole(config, name)
    for stage, found in stages.items():
        check_whole(found, f"{name}: stages.{stage}")
    check_order(stages, name)
    return config


def expand_stages(config: Config, name: str = "recipe") -> dict[str, Config]:
    """Return the complete recipe of each stage by its name, in order; none where the recipe has none.

    Args:
        config: the recipe.
        name: stands in the error messages.

    Raises:
        InputError: a stage's key is unknown or cannot differ between stages, or a value is of the wrong kind or range.
    """
    found = {}
    for stage, changes in config.stages.items():
        if fixed := next((key for key in changes if key in FIXED), None):
            raise InputError(f"{name}: key 'stages.{stage}.{fixed}': all stages have the same; give it at the top")
        tree = config.model_dump(mode="json", exclude={"stages"})
        _merge(tree, changes)
        found[stage] = _validate(tree, name, f"stages.{stage}.")
    return found


def _validate(tree: Mapping[str, Any], name: str, prefix: str = "") -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{name}: {_explain(error, prefix)}") from error


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back."""
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


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: expected key=value, e.g. pruning.target_sparsity=0.7")
    try:
        value = parse_yaml(text, MOST_VALUES)
    except ValueError as error:
        raise InputError(f"--set {override}: the value is not valid YAML") from error
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _require_stage(tree: Mapping[str, Any], changes: Mapping[str, Any], override: str) -> None:
    """Refuse what would add a stage, and so one more training, by a slip of the pen."""
    there, asked = (part.get("stages") for part in (tree, changes))
    if isinstance(asked, dict) and (new := sorted(asked.keys() - (there if isinstance(there, dict) else {}).keys())):
        known = ", ".join(there) if isinstance(there, dict) else "none"
        raise InputError(f"--set {override}: there is no stage '{new[0]}'; the recipe's stages: {known}")


def _explain(error: ValidationError, prefix: str = "") -> str:
    """One line for the first thing wrong; the prefix says which part of the recipe its keys stand in."""
    errors = error.errors()
    # a key that may be of several types has an error for each: the deepest got furthest
    first = max((e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]), key=lambda e: len(e["loc"]))
    path = [str(part) for part in first["loc"] if not str(part).startswith(("constrained-", "dict[", "[key]"))]
    key = prefix + ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"key '{key}' is unknown; {_nearest(path)}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, found {_shown(first['input'])}"


def _shown(value: Any) -> str:
    """A value as it is written in Python, its middle left out where it is long."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    return short.repr(value)


def _nearest(path: list[str]) -> str:
    section: Any = Config
    for part in path[:-1]:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    names = list(section.model_fields)
    close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known there: {', '.join(names)}"
