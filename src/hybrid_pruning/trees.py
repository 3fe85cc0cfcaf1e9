"""JSON and YAML files -> plain values, bounded in size, depth and expansion of aliases; access to parts of them.

Any part of plain values may be missing or of another kind, and none that leaves this machine may name its folders.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from hybrid_pruning.errors import InputError

MOST_BYTES = {".json": 1 << 26, ".yaml": 1 << 18}
MOST_VALUES, DEEPEST = 200_000, 64
DAMAGED = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, yaml.YAMLError)
"""Raised by PyYAML: beside its own errors whatever a tag such as `!!int` makes of a text that is none."""


def read_json(path: str | Path, missing: str = "check the path", damaged: str = "write it again") -> dict[str, Any]:
    """Read a JSON file of names with values; `missing` and `damaged` are the advice where that is impossible."""
    content = read_bytes(path, MOST_BYTES[".json"], missing)
    try:
        tree = parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); {damaged}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected names with values, found {type(tree).__name__}; {damaged}")
    return tree


def read_bytes(path: str | Path, most: int, missing: str = "check the path") -> bytes:
    """Read a file that should be small."""
    try:
        with Path(path).open("rb") as handle:
            content = handle.read(most + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); {missing}") from error
    if len(content) > most:
        raise InputError(f"{path}: is larger than {most:,} bytes, no file of this kind is; {missing}")
    return content


def parse_json(content: bytes | str, most: float = MOST_VALUES) -> Any:
    """Return the value of a JSON text; one that is none, nested too deeply or too large is a ValueError."""
    try:
        tree = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check(tree, most)
    return tree


def parse_yaml(content: bytes | str, most: float = MOST_VALUES) -> Any:
    """Return the value of a YAML text, as `parse_json`; a key that stands twice is a ValueError too.

    Aliases count with all their values.
    """
    if len(content) > MOST_BYTES[".yaml"]:
        raise ValueError(f"larger than {MOST_BYTES['.yaml']:,} bytes")
    try:
        tree = yaml.load(content, _Loader)
    except RecursionError as error:
        raise ValueError("nested too deeply, or within itself") from error
    except DAMAGED as error:
        raise ValueError(" ".join(str(error).split())) from error
    _check(tree, most)
    return tree


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what the next line would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{name}' stands twice", node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _check(tree: Any, most: float) -> None:
    """Require that a tree is small and shallow enough to be walked, and that its texts can be written."""
    waiting, left = [(tree, 0)], most
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if depth > DEEPEST:
            raise ValueError("nested too deeply, or within itself")
        if left < 0:
            raise ValueError(f"more than {most} values; aliases stand in for too much, write it out")
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple | set):
            waiting += [(part, depth + 1) for part in value]


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
