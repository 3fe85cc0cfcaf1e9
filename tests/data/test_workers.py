"""Worker processes: results in order, whole; one that dies in any way ends the work with a line; no /dev/shm."""

import ctypes
import errno
import faulthandler
import multiprocessing
import operator
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import configure, write_world
from hybrid_pruning.data.trainset import TrainSet, read_set
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError

LARGE = 300_000


def square(item: int) -> int:
    return item * item


def pack(item: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    return torch.full((LARGE,), float(item)), {"a": np.arange(item), "two": np.ones((3, 2), np.float32).T}


@pytest.mark.parametrize(("workers", "count"), [(0, 7), (1, 0), (1, 1), (3, 7), (9, 7)])
def test_results_come_in_order(workers: int, count: int):
    assert list(work_in_processes(square, range(count), workers)) == [square(item) for item in range(count)]


def test_workers_need_not_be_forked():
    assert list(work_in_processes(operator.neg, range(3), 1, "spawn")) == [0, -1, -2]


def test_tensors_and_arrays_arrive_whole_and_may_be_written_to():
    for item, (tensor, arrays) in enumerate(work_in_processes(pack, range(4), 2, "fork")):
        assert torch.equal(tensor, pack(item)[0])
        assert arrays["a"].tolist() == list(range(item))
        assert arrays["two"].shape == (2, 3)
        tensor.add_(1)
        arrays["two"] += 1


def test_work_that_nobody_waits_for_any_more_ends():
    results = work_in_processes(pack, range(100), 2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


ENDINGS: dict[str, tuple[Callable[[], object], str]] = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed by signal 9 \(Killed\)"),
    "terminated": (lambda: os.kill(os.getpid(), signal.SIGTERM), r"was killed by signal 15 \(Terminated\)"),
    "a fault of a library": (lambda: ctypes.string_at(0), r"was killed by signal 11 \(Segmentation fault\)"),
    "aborted": (os.abort, r"was killed by signal 6 \(Aborted\)"),
    "left": (lambda: os._exit(3), "ended with exit code 3"),
    "left in good order": (lambda: sys.exit(0), "ended with exit code 0"),
    "out of memory": (lambda: np.empty(2**62, np.uint8), "ran out of memory"),
}


@pytest.mark.parametrize(("how", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_a_worker_that_dies_ends_the_work_with_a_line(how: Callable[[], object], expected: str):
    faulthandler.disable()  # pytest's, whose traceback is not needed

    def die(item: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        if item == 3:
            how()
        return pack(item)

    results = work_in_processes(die, range(8), 2)
    assert [len(next(results)[0]) for _ in range(3)] == [LARGE] * 3
    with pytest.raises(InputError, match=rf"^a worker process {expected}; .* goes on with --resume$"):
        next(results)


def test_an_error_of_the_action_is_raised():
    def fail(item: int) -> int:
        raise BrokenPipeError("its own") if item else InputError("wave.wav: cannot be decoded")

    with pytest.raises(InputError, match=r"^wave.wav: cannot be decoded$"):
        list(work_in_processes(fail, range(2), 2))
    with pytest.raises(RuntimeError, match="BrokenPipeError: its own") as caught:
        list(work_in_processes(fail, [1], 1))
    assert "in fail" in caught.value.__notes__[0]


def test_workers_that_cannot_be_started_are_a_line(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(InputError, match=r"9 worker processes cannot be started .*temporarily unavailable"):
        list(work_in_processes(square, range(9), 9, "fork"))


FULL = "dd if=/dev/zero of=/dev/shm/full bs=4k"
FILL = f"mount --make-rprivate / && mount -t tmpfs -o size=64k tmpfs /dev/shm && ! {FULL} 2>/dev/null"
NEW_MOUNTS, IMPOSSIBLE = 0x20000, 77


def test_training_data_needs_no_shared_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Docker gives 64 MB, here not a byte is left."""
    config = configure(write_world(tmp_path), data__workers=2)

    def load() -> None:
        if ctypes.CDLL(None).unshare(NEW_MOUNTS) or os.system(FILL):
            os._exit(IMPOSSIBLE)
        batches = TrainSet(read_set(config.data.train), config).batches(0)
        os._exit(0 if sum(len(batch.wave) for batch in batches) == 24 else 1)

    child = multiprocessing.get_context("fork").Process(target=load)
    child.start()
    child.join(60)
    if child.exitcode == IMPOSSIBLE:
        pytest.skip("a file system cannot be mounted here")
    assert (child.exitcode, *capfd.readouterr()) == (0, "", "")
