"""Whatever is wrong with a user's input, numbers included: exit code 2, one line, and no file touched."""

import inspect
import re
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

from bad_audio import AUDIO, FFMPEG, FORMATS
from bad_input import read_cases
from corpus import files_below
from hybrid_pruning.cli import app
from logged_runs import draw_nothing
from world import copy_world, hurry

CASES = AUDIO | read_cases()


def read_all(world):
    """Return the content of every file but those that `score` leaves: of finished and of failed recordings."""
    files = {path.relative_to(world).as_posix(): path for path in files_below(world)}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("new.tsv.")}


MANY = {name for name in AUDIO if name.partition(",")[0] in {*FORMATS, *FFMPEG} - {"wav", "flac", "mp3", "m4a"}}
"""Formats whose damage the tests of `audio` go through."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * (name in MANY)) for name in CASES])
def test_bad_input_is_one_line_and_leaves_nothing(cli, world, name):
    case = CASES[name]
    case.damage(world)
    before = read_all(world)
    found = cli(*case.command.split())
    assert (found.code, found.out) == (2, ""), found.err
    assert re.fullmatch(r"hybrid-pruning: [^\n]+\n", found.err), found.err
    assert re.search(case.expected, found.err), found.err
    assert read_all(world) == before


VALUES = ("0", "-1", "nan", "inf", "1e308", str(10**18), "")
LISTS = {"sparsity", "seed", "seconds", "batch"}
"""Options of several numbers, separated by commas."""
NO_CORPUS = "--set data.train=nowhere.tsv"
"""So that no value starts a job of minutes."""
SPEAKERS = "speakers/manifest.tsv"
COMMANDS = {
    "run": f"recipe.yaml --out new {NO_CORPUS}",
    "sweep": f"recipe.yaml --sparsity 0.5 --out new {NO_CORPUS}",
    "prepare": "folder --root dev --out new --dev-share 0.5 --workers 1",
    "audit": "dev/manifest.tsv --workers 0",
    "train": f"recipe.yaml --out new {NO_CORPUS}",
    "export": "run --out new",
    "score": f"verifier {SPEAKERS} --trials speakers/trials --cohort {SPEAKERS} --top-n 2 --out new.tsv",
    "cohort": f"verifier {SPEAKERS} --workers 0 --out new --top-n 2",
    "embed": "model dev/manifest.tsv --workers 0 --out new.npz",
    "evaluate": "scores.tsv dev/manifest.tsv --track1 --bootstrap 40",
    "calibrate": "model scores.tsv dev/manifest.tsv --out new",
    "fuse": "scores.tsv --keys dev/manifest.tsv --out new.json",
    "detect": "dev/bonafide-00.flac --model model --workers 0",
    "verify": "speakers/id00000/00.wav speakers/id00000/01.wav --model verifier",
    "serve": "recipe.yaml",
    "web": "model --out new --runtime nowhere",
    "report": "run --bootstrap 0 --out new.html",
    "benchmark": "model --engines torch --seconds 0.1 --batch 1 --rounds 1",
}
"""Verb -> arguments with which it runs, or soon refuses another one."""


def numeric_options():
    """Return each verb with each of its options that takes a number, from the command line's own declarations."""
    found = []
    for verb, command in get_command(app).commands.items():
        hints = get_type_hints(inspect.unwrap(command.callback))  # the verb's own
        for option in command.params:
            kind = hints.get(option.name)
            if {kind, *get_args(kind)} & {int, float} or option.name in LISTS:
                found.append((verb, max(option.opts, key=len)))
    return found


def test_a_number_is_accepted_or_refused_in_one_line(pristine, tmp_path, cli, monkeypatch):
    hurry(monkeypatch)
    draw_nothing(monkeypatch)
    copy_world(pristine, tmp_path)
    options = numeric_options()
    assert len(options) > 30
    for index, (verb, option) in enumerate(options):
        for place, value in enumerate(VALUES):
            words = COMMANDS[verb].replace("new", f"new{index}-{place}").split()
            found = cli(verb, *words, f"{option}={value}")
            typed = f"{verb} {option}={value}: {found.err}"
            assert found.code in (0, 2), typed
            if found.code == 2:
                assert re.fullmatch(r"hybrid-pruning: (?!internal)[^\n]+\n", found.err), typed
