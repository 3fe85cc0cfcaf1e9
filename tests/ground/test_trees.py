"""JSON and YAML from disk, however damaged: plain values or one line that names the file."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.trees import number, parse_json, parse_yaml, portable, read_json, section, without_folders

ALIASES = "a: &a [1, 2]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(8)
)
JSON, YAML = (
    b'{"a": [1, 2.5, null, {"b": "c\\n"}], "d": "\\u00e4"}',
    b"task: anti-spoofing\ndata: {train: a.tsv, dev: [1, 2.5, ~]}\nstages:\n  - &x {a: 'b', c: 1e-3}\n  - <<: *x\n",
)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[1]", b"{", b"\xff\xfe", b'{"a": "\\ud800"}', b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"),
        *(b'{"a":' * 70 + b"1" + b"}" * 70, b'{"a": [' + b"1," * 200_001 + b"1]}"),
    ],
    ids=lambda content: str(content[:12]),
)
def test_invalid_json_is_one_line_that_names_the_file(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config.json: (is not valid JSON \(.+\)|expected names .+); export again"):
        read_json(path, damaged="export again")


def test_files_that_are_not_there_or_too_large(tmp_path):
    with pytest.raises(InputError, match=r"a.json: cannot be read \(No such file or directory\); look"):
        read_json(tmp_path / "a.json", "look")
    with (tmp_path / "big.json").open("wb") as handle:
        handle.truncate(1 << 30)
    with pytest.raises(InputError, match=r"big.json: is larger than"):
        read_json(tmp_path / "big.json")


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 1_000, "{" * 1_000, "- " * 1_000, "a: &a [*a]", "a: 1\na: 2", "!!int ''", "!!float ''", "!!bool x"),
        *("!!timestamp x", "!!python/object/apply:os.system [ls]", "a: \x00", "2020-99-99", "a: b: c", "? {a: 1}: 2"),
        *(ALIASES, "a" * 300_000, "x: " + "9" * 5000, "\ud800", "? [*a]\n: &a 1"),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_invalid_yaml_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text, 10_000)


def test_aliases_and_merges_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}
    assert parse_json(b'\xef\xbb\xbf{"a": [1, null]}') == {"a": [1, None]}


def mutate(content, chance):
    """Return a content with some of its bytes cut, doubled, flipped or exchanged for syntax."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at, upto = sorted(chance.randrange(len(found) + 1) for _ in range(2))
        kind = chance.randrange(5)
        if kind == 0:
            del found[at : at + chance.randint(1, 40)]
        elif kind == 1:
            found[at:at] = found[at : min(upto, at + 200)] * chance.randint(1, 3)
        elif kind == 2 and found:
            found[min(at, len(found) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 3:
            words = b'null -1 1e400 NaN [] {} "" true &a *a !!int '.split(b" ")
            found[at : at + chance.randint(0, 12)] = chance.choice([*words, b"1" * 400])
        else:
            found[at:] = b""
    return bytes(found)


def test_random_damage_is_a_value_or_a_value_error():
    chance = random.Random(11)
    for _ in range(300):
        for parse, content in ((parse_json, JSON), (parse_yaml, YAML)):
            with suppress(ValueError):
                parse(mutate(content, chance))


def test_sections_and_numbers_that_are_none():
    for tree in (None, [], "text", 3, {}, {"a": 1}, {"a": {"b": []}}, {"a": [{"b": {}}]}):
        assert section(tree, "a", "b") == {}
    assert section({"a": {"b": {"c": 1}}}, "a", "b") == {"c": 1}
    for value, expected in ((3, 3.0), (0.5, 0.5), ("3", 0.0), (None, 0.0), (float("nan"), 0.0)):
        assert number(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warning: /home/me/dev.tsv: 3 files", "warning: dev.tsv: 3 files"),
        ("'~/a/b.wav', C:\\me\\c.wav (/d/e)", "'b.wav', c.wav (e)"),
        ("</style></svg> 1/2 and/or https://x.y/z a/b.tsv", "</style></svg> 1/2 and/or https://x.y/z a/b.tsv"),
    ],
)
def test_of_absolute_paths_the_names_are_left(text, expected):
    assert without_folders(text) == expected


def test_values_that_leave_the_machine_name_no_place_of_it():
    tree = {"a": ["/home/me/x.tsv", str(Path.cwd() / "data" / "y.tsv"), "data/z.tsv", "org/model", 1], "b": "~/w"}
    assert portable(tree) == {"a": ["x.tsv", "data/y.tsv", "data/z.tsv", "org/model", 1], "b": "w"}
