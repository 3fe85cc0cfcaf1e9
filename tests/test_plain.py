"""Plain values of any kind: a section or a number where there is one, nothing where there is not."""

from typing import Any

import pytest

from hybrid_pruning.plain import number, section


@pytest.mark.parametrize("tree", [None, [], "text", 3, {}, {"a": 1}, {"a": {"b": []}}, {"a": [{"b": {}}]}])
def test_what_is_no_section_is_an_empty_one(tree: Any) -> None:
    assert section(tree, "a", "b") == {}


def test_a_section_is_found() -> None:
    assert section({"a": {"b": {"c": 1}}}, "a", "b") == {"c": 1}


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (0.5, 0.5), ("3", 0.0), (None, 0.0), (float("nan"), 0.0)])
def test_what_is_no_number_is_zero(value: Any, expected: float) -> None:
    assert number(value) == expected
