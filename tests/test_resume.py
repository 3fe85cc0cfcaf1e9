"""A run killed anywhere ends as if it had not been; a full disk leaves the last good checkpoint and nothing else."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corpus import configure, write_world
from hybrid_pruning.config import save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import STEP, Run, read_checkpoint
from runs import assert_same_run, kill_at_random, run_command, start

Recipe = dict[str, Any]
SHORT = {"training__epochs": 6, "training__checkpoint_steps": 2}
LONG = {"training__epochs": 60, "training__checkpoint_steps": 2}
CROWDED = {"training__checkpoint_steps": 1, "training__keep_checkpoints": 100}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return write_world(tmp_path_factory.mktemp("world"))


class Command:
    """`hybrid-pruning train` on one recipe, with the interpreter started anew or forked off a warm one."""

    def __init__(self, recipe: Path, output: Path, anew: bool) -> None:
        self.recipe, self.output, self.anew = recipe, output, anew

    def start(self, run: Path, workers: int, more: Sequence[str] = ()) -> Any:
        arguments = ["train", str(self.recipe), "--out", str(run), "--set", f"data.workers={workers}", *more]
        return Popen(arguments, self.output) if self.anew else start(run_command, arguments, self.output)

    def run(self, run: Path, more: Sequence[str] = ()) -> None:
        process = self.start(run, 0, more)
        process.join()
        assert process.exitcode == 0, self.output.read_text()


class Popen:
    """A real command line with the face of a multiprocessing process."""

    def __init__(self, arguments: Sequence[str], output: Path) -> None:
        with output.open("ab") as handle:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_pruning.cli", *arguments],
                stdout=handle,
                stderr=handle,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def exitcode(self) -> int | None:
        return self.process.poll()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()

    def join(self, timeout: float | None = None) -> None:
        self.process.wait(timeout)


def survive(train_into: Command, folder: Path, kills: int, seed: int, steps: int) -> None:
    """Kill a training at random points, workers or not in turn, and compare it with one that was left alone."""
    chance = random.Random(seed)
    killed, whole = folder / "killed", folder / "whole"
    for number in range(1, kills + 1):
        workers = 2 * (number % 2)
        where = kill_at_random(lambda more, w=workers: train_into.start(killed, w, more), killed, chance, steps)
        print(f"kill {number:>2} of {kills}, {workers} workers: {where}", flush=True)
    train_into.run(killed, ["--resume"])
    train_into.run(whole)
    assert_same_run(killed, whole)
    leftovers = [path.name for path in killed.rglob(".*")]
    assert leftovers == []
    print(f"killed {kills} times: weights, optimisers, gates, multipliers and log equal the uninterrupted run's")


def test_a_run_killed_three_times_ends_as_if_it_had_not(recipe: Recipe, tmp_path: Path):
    save_config(configure(recipe, **SHORT), tmp_path / "recipe.yaml")
    survive(Command(tmp_path / "recipe.yaml", tmp_path / "output.txt", anew=False), tmp_path, 3, seed=1, steps=5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_run_killed_twenty_times_ends_as_if_it_had_not(recipe: Recipe, tmp_path: Path):
    """As a user has it: the command line, started anew each time."""
    seed = int(os.environ.get("SOAK_SEED", "1"))
    print(f"\nsoak: 20 kills at random points, seed {seed}")
    save_config(configure(recipe, **LONG), tmp_path / "recipe.yaml")
    survive(Command(tmp_path / "recipe.yaml", tmp_path / "output.txt", anew=True), tmp_path, 20, seed, steps=12)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for three checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a file system needs Linux and root")
def test_a_full_disk_leaves_the_last_good_checkpoint(recipe: Recipe, tmp_path: Path, small_disk: Path):
    config, folder = configure(recipe, **CROWDED), small_disk / "run"
    with pytest.raises(InputError, match=r"run\S+: cannot be written \(No space left on device\); make room"):
        train(config, folder)
    assert_sound(folder)
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    train(config, folder, resume=True)
    assert_same_run(folder, train(config, tmp_path / "whole"))


def assert_sound(folder: Path) -> None:
    """No half-written file, and every checkpoint whole."""
    assert not list(folder.rglob("*.tmp"))
    paths = [*Run(folder).list_checkpoints(), *Run(folder).list_checkpoints(STEP)]
    assert paths
    for path in paths:
        read_checkpoint(path)
