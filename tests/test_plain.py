"""Plain values of any kind: a section or a number where there is one, nothing where there is not."""

from pathlib import Path
from typing import Any

import pytest

from hybrid_pruning.plain import number, portable, section, without_folders


@pytest.mark.parametrize("tree", [None, [], "text", 3, {}, {"a": 1}, {"a": {"b": []}}, {"a": [{"b": {}}]}])
def test_what_is_no_section_is_an_empty_one(tree: Any) -> None:
    assert section(tree, "a", "b") == {}


def test_a_section_is_found() -> None:
    assert section({"a": {"b": {"c": 1}}}, "a", "b") == {"c": 1}


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (0.5, 0.5), ("3", 0.0), (None, 0.0), (float("nan"), 0.0)])
def test_what_is_no_number_is_zero(value: Any, expected: float) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warning: /home/me/dev.tsv: 3 files", "warning: dev.tsv: 3 files"),
        ("'~/a/b.wav', C:\\me\\c.wav (/d/e)", "'b.wav', c.wav (e)"),
        ("</style></svg> 1/2 and/or https://x.y/z a/b.tsv", "</style></svg> 1/2 and/or https://x.y/z a/b.tsv"),
    ],
)
def test_of_absolute_paths_the_names_are_left(text: str, expected: str):
    assert without_folders(text) == expected


def test_values_that_leave_the_machine_name_no_place_of_it():
    tree = {"a": ["/home/me/x.tsv", str(Path.cwd() / "data" / "y.tsv"), "data/z.tsv", "org/model", 1], "b": "~/w"}
    assert portable(tree) == {"a": ["x.tsv", "data/y.tsv", "data/z.tsv", "org/model", 1], "b": "w"}
