"""Plain values read from JSON or YAML, any part of which may be missing or of another kind."""

import math
from collections.abc import Mapping
from typing import Any


def section(tree: Any, *keys: str) -> Mapping[str, Any]:
    """Return a part of plain values, empty where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}


def number(value: Any) -> float:
    """Return a number, 0 where the value is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
