"""Whatever is wrong with what a user gives: exit code 2, one line that names the culprit, and no file touched."""

import re
import shutil
from pathlib import Path

import pytest

from bad_artifacts import ARTIFACTS
from bad_audio import AUDIO
from bad_commands import COMMANDS
from bad_manifests import MANIFESTS
from bad_recipes import RECIPES
from bad_trials import TRIALS
from corpus import files_below
from world import Cli

CASES = {**AUDIO, **MANIFESTS, **RECIPES, **ARTIFACTS, **COMMANDS, **TRIALS}


def read_all(world: Path) -> dict[str, bytes]:
    """Return what is in every file, but for what `score` says it leaves: what it has done, and what it could not."""
    files = {path.relative_to(world).as_posix(): path for path in files_below(world)}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("new.tsv.")}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(cli: Cli, world: Path, name: str):
    case = CASES[name]
    if case.needs and shutil.which(case.needs) is None:
        pytest.skip(f"{case.needs} is not installed")
    case.damage(world)
    before = read_all(world)
    found = cli(*case.command.split())
    assert (found.code, found.out) == (2, ""), found.err
    assert re.fullmatch(r"hybrid-pruning: [^\n]+\n", found.err), found.err
    assert re.search(case.expected, found.err), found.err
    assert read_all(world) == before
