"""Several processes of one job: shared results, a common failure, and freed memory kept."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning import distributed as processes
from hybrid_pruning.console import console
from hybrid_pruning.errors import InputError
from runs import finish, ranks, run_command


def exchange(folder):
    processes.start()
    here = processes.rank()
    values = np.array([1.0, np.nan, np.nan]) if here == 0 else np.array([np.nan, 2.0, np.nan])
    found = {
        "count": processes.count(),
        "main": processes.is_main(),
        "quiet": console.quiet,
        "average": processes.average([here, 10.0]),
        "lists": processes.join_lists([f"from {here}"]),
        "arrays": [None if np.isnan(value) else value for value in processes.join_arrays(values)],
        "from main": processes.from_main(lambda: f"by {here}"),
    }
    (Path(folder) / f"{here}.json").write_text(json.dumps(found))
    processes.stop()
    assert processes.count() == 1


def fail_in_turn(folder):
    processes.start()
    here = processes.rank()
    if here == 0:
        with pytest.raises(RuntimeError):
            processes.wait()
    (Path(folder) / f"{here}.json").write_text(json.dumps(processes.fail(2 if here else 1)))
    os._exit(0)


def read(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_share_results(tmp_path):
    assert finish(*ranks(exchange, [str(tmp_path)], tmp_path)) == [0, 0], (tmp_path / "rank0.txt").read_text()
    shared = {
        "count": 2,
        "average": [0.5, 10.0],
        "lists": ["from 0", "from 1"],
        "arrays": [1.0, 2.0, None],
        "from main": "by 0",
    }
    assert read(tmp_path) == [{**shared, "main": rank == 0, "quiet": rank == 1} for rank in range(2)]


def test_the_first_to_fail_prints_for_all(tmp_path):
    assert finish(*ranks(fail_in_turn, [str(tmp_path)], tmp_path)) == [0, 0], (tmp_path / "rank0.txt").read_text()
    assert read(tmp_path) == [[False, 2], [True, 2]]


def test_a_process_alone():
    processes.start()
    assert (processes.count(), processes.rank(), processes.is_main(), console.quiet) == (1, 0, True, False)
    assert processes.average([1.0]) == [1.0]
    assert processes.from_main(lambda: "done") == "done"
    assert processes.join_lists((1, 2)) == [1, 2]
    processes.wait()
    processes.stop()


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False)])
def test_before_they_have_met_all_fail_alike(rank, prints, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    assert processes.fail(2) == (prints, 2)


@pytest.mark.parametrize(
    ("size", "rank", "local", "expected"),
    [
        *[(size, "0", "0", f"^WORLD_SIZE={size}: expected a whole number") for size in ("two", "-1", "0", "2.0", "²")],
        ("2", "", "0", "^RANK=: expected a whole number"),
        ("2", None, "0", "^RANK=: expected .*start with torchrun"),
        ("2", "one", "0", "^RANK=one: expected"),
        ("2", "0", None, "^LOCAL_RANK=: expected"),
        ("2", "2", "0", "^RANK=2 and LOCAL_RANK=0 with WORLD_SIZE=2"),
        ("2", "0", "99", "^RANK=0 and LOCAL_RANK=99 with WORLD_SIZE=2"),
        ("2", "0", "0", "^WORLD_SIZE=2 without what goes with it .*MASTER_PORT"),
    ],
)
def test_an_absurd_environment_is_the_users_mistake(size, rank, local, expected, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    for name, value in (("WORLD_SIZE", size), ("RANK", rank), ("LOCAL_RANK", local)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=expected):
        processes.start()


def test_an_absurd_environment_is_a_line_and_only_for_verbs_with_processes(monkeypatch, cli):
    monkeypatch.setenv("WORLD_SIZE", "two")
    code, _, error = cli("train", "recipe.yaml", "--out", "run")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("hybrid-pruning: WORLD_SIZE=two: expected a whole number")
    assert cli("doctor", "--help").code == 0


def wait_for_ever(*_):
    processes.start()
    print("here", flush=True)
    time.sleep(120)


@pytest.mark.parametrize("terminated", [False, True])
def test_a_lost_process_is_named(tmp_path, terminated):
    """By a process that waits for it, and by one that torchrun ends because of it."""
    first, second = ranks(wait_for_ever if terminated else finish_alone, [], tmp_path)
    outputs = [tmp_path / f"rank{rank}.txt" for rank in range(2)]
    while not all(path.exists() and "here" in path.read_text() for path in outputs):
        time.sleep(0.05)
    second.kill()
    second.join()
    if terminated:
        first.terminate()
    (code,) = finish(first, seconds=60)
    printed = outputs[0].read_text()
    assert "rank 1 of 2 was killed, or died without a word; " in printed
    assert len(re.findall("^hybrid-pruning: ", printed, re.MULTILINE)) == 1
    assert code == (143 if terminated else 2)


def finish_alone(*_):
    """Reach the end of a job that the other process never reaches."""
    if os.environ["RANK"] == "1":
        wait_for_ever()
    processes.start()
    print("here", flush=True)
    run_command("--help")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_freed_memory_is_kept():
    program = "from hybrid_pruning.distributed import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_without_glibc_freed_memory_is_not_kept(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not processes.keep_freed_memory()
