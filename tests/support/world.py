"""A recipe, a run, a model and scores on disk, made by the commands a user would type, for tests to break."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import hybrid_pruning.jobs.run
import hybrid_pruning.jobs.sweep
from corpus import (
    configure,
    describe_asvspoof5,
    describe_voxceleb,
    write_asvspoof5,
    write_voxceleb,
    write_wavlm,
    write_world,
)
from hybrid_pruning.cli import main
from hybrid_pruning.config import Config
from hybrid_pruning.jobs import steps
from hybrid_pruning.jobs.run import run
from logged_runs import draw_nothing
from speakers import tiny_verifier, write_speakers, write_voxceleb_trials


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def run_main(arguments: Sequence[str], folder: Path) -> int:
    """Run a command in this process and that folder, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hybrid-pruning", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    return int(caught.value.code or 0)


def make_world(folder: Path) -> Path:
    """Write train and dev sets, an encoder and a recipe, train, export, score and evaluate; return the folder.

    Beside that, a model for speaker verification, recordings of three speakers, and trials of them.
    """
    (folder / "recipe.yaml").write_text(yaml.safe_dump(write_world(folder)))
    # a process of its own, as the user has, shows every warning that the libraries below us would print
    program = [sys.executable, "-W", "error", "-m", "hybrid_pruning.cli"]
    arguments = ["train", "recipe.yaml", "--out", "run", "--set", "training.epochs=1"]
    found = subprocess.run([*program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    for command in (
        "export run --out model",
        "score model dev/manifest.tsv --out scores.tsv --batch-size 3",
        "evaluate scores.tsv dev/manifest.tsv --track1 --json table.json",
    ):
        assert run_main(command.split(), folder) == 0, command
    tiny_verifier(folder / "encoder").save_pretrained(folder / "verifier")
    write_speakers(folder / "speakers", 3, 2)
    write_voxceleb_trials(folder / "speakers" / "trials", 3, 2)
    return folder


STAGES = {
    "head": {"backbone": {"frozen": True}, "training": {"epochs": 1}, "pruning": {"use_pruning_loss": False}},
    "joint": {"pruning": {"use_pruning_loss": True, "target_sparsity": 0.4}},
}


def hurry(patch: pytest.MonkeyPatch, report: bool = False) -> None:
    """Make whole jobs quick: few rounds of resampling and, where `report` is false, an empty page."""
    for module in (steps, hybrid_pruning.jobs.run, hybrid_pruning.jobs.sweep):
        patch.setattr(module, "ROUNDS", 50)
        if not report and hasattr(module, "report"):
            patch.setattr(module, "report", lambda runs, out, **_: Path(out).write_text(f"{runs}"))


def make_spoofing_job(folder: Path) -> None:
    write_asvspoof5(folder / "corpus")
    _do_job(configure(describe_asvspoof5(folder)), folder)


def make_verification_job(folder: Path) -> None:
    """Write a corpus in VoxCeleb's layout and an encoder, and do the whole job on it, in two stages."""
    write_voxceleb(folder / "corpus")
    _do_job(configure(describe_voxceleb(folder), stages=STAGES), folder)


def _do_job(recipe: Config, folder: Path) -> None:
    write_wavlm(folder / "wavlm")
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch, report=True)
        draw_nothing(patch)  # of the report, whose text alone these jobs are asked for
        run(recipe, folder / "out")


def copy_world(pristine: Path, folder: Path) -> Path:
    """Copy a world whose recipes then name the copy's files."""
    shutil.copytree(pristine, folder, dirs_exist_ok=True)
    for name in ("recipe.yaml", "run/config.yaml"):
        recipe = (folder / name).read_text().replace(f"{pristine}/", "")
        (folder / name).write_text(recipe)
    return folder
