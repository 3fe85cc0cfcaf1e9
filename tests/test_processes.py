"""Several processes of one job: what they share, and how they fail together."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning import processes
from hybrid_pruning.errors import InputError
from hybrid_pruning.terminal import console
from runs import finish, ranks


def exchange(folder: str) -> None:
    """What each of two processes does; they write down what they have found."""
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


def fail_in_turn(folder: str) -> None:
    """Rank 1 fails with exit code 2, and rank 0 loses it."""
    processes.start()
    here = processes.rank()
    if here == 0:
        with pytest.raises(RuntimeError):
            processes.wait()
    (Path(folder) / f"{here}.json").write_text(json.dumps(processes.fail(2 if here else 1)))
    os._exit(0)


def read(folder: Path) -> list[object]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_find_the_same(tmp_path: Path):
    assert finish(*ranks(exchange, [str(tmp_path)], tmp_path)) == [0, 0], (tmp_path / "rank0.txt").read_text()
    shared = {
        "count": 2,
        "average": [0.5, 10.0],
        "lists": ["from 0", "from 1"],
        "arrays": [1.0, 2.0, None],
        "from main": "by 0",
    }
    assert read(tmp_path) == [{**shared, "main": rank == 0, "quiet": rank == 1} for rank in range(2)]


def test_the_first_to_fail_speaks_for_all(tmp_path: Path):
    assert finish(*ranks(fail_in_turn, [str(tmp_path)], tmp_path)) == [0, 0], (tmp_path / "rank0.txt").read_text()
    assert read(tmp_path) == [[False, 2], [True, 2]]


def test_a_process_alone_needs_nobody():
    processes.start()
    assert (processes.count(), processes.rank(), processes.is_main(), console.quiet) == (1, 0, True, False)
    assert processes.average([1.0]) == [1.0]
    assert processes.from_main(lambda: "done") == "done"
    assert processes.join_lists((1, 2)) == [1, 2]
    processes.wait()
    processes.stop()


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_before_they_have_met_all_fail_alike(rank: str, speaks: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", rank)
    assert processes.fail(2) == (speaks, 2)


def test_half_an_environment_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"WORLD_SIZE=2 without what goes with it .*RANK.*; start with torchrun"):
        processes.start()
