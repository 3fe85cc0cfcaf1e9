"""Whatever is wrong with a user's input: exit code 2, one line that names the culprit, and no file touched.

`PYTHONPATH=tests:tests/support python tests/cli/test_bad_input.py > TABLE.md` writes them with their lines as a table.
"""

import contextlib
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from bad_artifacts import ARTIFACTS
from bad_audio import AUDIO, FFMPEG, FORMATS
from bad_manifests import MANIFESTS
from bad_recipes import RECIPES, TRAIN, at, given
from bad_trials import TRIALS
from corpus import files_below
from world import Case, Result, copy_world, make_world, read_cases, run_main

TYPED = {
    row["case"]: Case(lambda _: None, row["command"].replace("LONG", "n" * 300), row["message"])
    for row in read_cases("bad_commands.tsv")
}
SETTINGS = {
    row["case"]: Case(given(row["key"], yaml.safe_load(row["value"])), TRAIN, at(row["message"]))
    for row in read_cases("bad_settings.tsv")
}
CASES = {**AUDIO, **MANIFESTS, **RECIPES, **SETTINGS, **ARTIFACTS, **TYPED, **TRIALS}


def read_all(world: Path) -> dict[str, bytes]:
    """Return the content of every file but those that `score` leaves: of finished and of failed recordings."""
    files = {path.relative_to(world).as_posix(): path for path in files_below(world)}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("new.tsv.")}


def run(case: Case, world: Path) -> Result:
    """Run a case's command in a world, which is damaged already."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run_main(case.command.split(), world)
    return Result(code, out.getvalue(), err.getvalue())


MANY = {name for name in AUDIO if name.partition(",")[0] in {*FORMATS, *FFMPEG} - {"wav", "flac", "mp3", "m4a"}}
"""Formats whose damage the tests of `audio` go through."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * (name in MANY)) for name in CASES])
def test_bad_input_is_one_line_and_leaves_nothing(world: Path, name: str):
    case = CASES[name]
    if case.needs and shutil.which(case.needs) is None:
        pytest.skip(f"{case.needs} is not installed")
    case.damage(world)
    before = read_all(world)
    found = run(case, world)
    assert (found.code, found.out) == (2, ""), found.err
    assert re.fullmatch(r"hybrid-pruning: [^\n]+\n", found.err), found.err
    assert re.search(case.expected, found.err), found.err
    assert read_all(world) == before


def write_table() -> None:
    """Run all cases in copies of one world and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        pristine, copy = Path(folder) / "pristine", Path(folder) / "copy"
        pristine.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            make_world(pristine)
        sys.stdout.write("| case | command | exit code | message |\n|---|---|---|---|\n")
        for name, case in CASES.items():
            if case.needs and shutil.which(case.needs) is None:
                continue
            case.damage(copy_world(pristine, copy))
            found = run(case, copy)
            cells = (name, case.command, str(found.code), found.err.strip().replace(f"{copy}/", ""))
            short = (cell if len(cell) <= 400 else f"{cell[:200]} ... {cell[-150:]}" for cell in cells)
            line = " | ".join(cell.replace("|", "\\|").replace("\x1b", "\\x1b") for cell in short)
            sys.stdout.write(f"| {line} |\n".encode("ascii", "backslashreplace").decode())
            shutil.rmtree(copy)


if __name__ == "__main__":
    write_table()
