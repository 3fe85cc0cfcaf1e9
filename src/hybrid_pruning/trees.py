"""JSON and YAML files -> plain values, bounded in size, depth, and what a few aliases may stand for."""

import json
from pathlib import Path
from typing import Any

import yaml

from hybrid_pruning.errors import InputError

MOST_BYTES = {".json": 1 << 26, ".yaml": 1 << 18}
MOST_VALUES, DEEPEST = 200_000, 64
DAMAGED = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, yaml.YAMLError)
"""Raised by PyYAML: beside its own errors whatever a tag such as `!!int` makes of a text that is none."""


def read_json(path: str | Path, missing: str = "check the path", damaged: str = "write it again") -> dict[str, Any]:
    """Read a JSON file of names with values.

    Args:
        path: the file.
        missing: what to do where it cannot be read, for the message.
        damaged: what to do where it is no such file.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    content = read_bytes(path, MOST_BYTES[".json"], missing)
    try:
        tree = parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); {damaged}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected names with values, found {type(tree).__name__}; {damaged}")
    return tree


def read_bytes(path: str | Path, most: int, missing: str = "check the path") -> bytes:
    """Read a file that should be small.

    Raises:
        InputError: it cannot be read, or is larger than `most` bytes.
    """
    try:
        with Path(path).open("rb") as handle:
            content = handle.read(most + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); {missing}") from error
    if len(content) > most:
        raise InputError(f"{path}: is larger than {most:,} bytes, no file of this kind is; {missing}")
    return content


def parse_json(content: bytes | str, most: float = MOST_VALUES) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: it is none, nested too deeply, or has more values than `most`.
    """
    try:
        tree = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check(tree, most)
    return tree


def parse_yaml(content: bytes | str, most: float = MOST_VALUES) -> Any:
    """Return the value that a YAML text stands for; aliases count as what they stand for.

    Raises:
        ValueError: it is none, has a key twice, or is nested too deeply or within itself; or it has more values than
            `most`, or more bytes than people write.
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
