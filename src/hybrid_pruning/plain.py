"""Plain values in JSON or YAML: any part may be missing or of another kind, and none should name this machine."""

import math
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any


def section(tree: Any, *keys: str) -> Mapping[str, Any]:
    """Return a part of plain values, empty where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}


def number(value: Any) -> float:
    """Return a number, 0 where the value is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def finite(tree: Any) -> Any:
    """Return plain values with None for numbers that are infinite or none, for which JSON has no word."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def portable(tree: Any) -> Any:
    """Return plain values whose absolute paths are relative to the working folder or, outside of it, names alone."""
    if isinstance(tree, Mapping):
        return {key: portable(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [portable(value) for value in tree]
    if not isinstance(tree, str) or not (tree.startswith(("/", "~")) or PureWindowsPath(tree).is_absolute()):
        return tree
    here = Path.cwd()
    return Path(tree).relative_to(here).as_posix() if Path(tree).is_relative_to(here) else PureWindowsPath(tree).name


def without_folders(text: str) -> str:
    """Return a text in which of every absolute path the name alone is left."""
    return re.sub(r"(?<![^\s'\"=(])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\:,;'\"]+)*[/\\](?=[^\s/\\])", "", text)
