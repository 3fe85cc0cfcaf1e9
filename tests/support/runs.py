"""Training runs of the tests: started in processes of their own, killed, read back and compared."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from hybrid_pruning.files import TEMPORARY
from hybrid_pruning.training.runs import EPOCH, STEP, Run, read_checkpoint

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "hybrid_pruning.cli",
        "hybrid_pruning.training.trainer",
        "torch._dynamo",  # the optimisers import it
        "tensorboard.compat.proto.event_pb2",
        "transformers.models.wavlm.modeling_wavlm",
    ]
)
"""Imports once what every command needs, and forks off processes that a test may kill."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the log without the figures that depend on the machine's load."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "per_second" not in key} for record in records]


def read_steps(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(folder) if "loss" in record]


def final_state(folder: Path) -> dict[str, Any]:
    return read_checkpoint(Run(folder).list_checkpoints()[-1])


def assert_same_run(found: Path, expected: Path) -> None:
    assert read_log(found) == read_log(expected)
    assert_same(final_state(found), final_state(expected))


def assert_same(found: Any, expected: Any, place: str = "state") -> None:
    """Compare nested states bit for bit."""
    assert type(found) is type(expected), place
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_same(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{place}.{index}")
    else:
        assert found == expected, place


def start(
    target: Callable[..., None], arguments: Sequence[Any], output: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Call a function of a test module in a process of its own, which writes what it prints to a file."""
    process = FORKSERVER.Process(target=_run, args=(target, tuple(arguments), str(output), dict(environment or {})))
    process.start()
    return process


def ranks(target: Callable[..., None], arguments: Sequence[Any], folder: Path, count: int = 2) -> list[BaseProcess]:
    """Do so as torchrun does, in several processes of one group; rank 1 prints to rank1.txt."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's outlives its processes, too
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    members = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        members.append(start(target, arguments, folder / f"rank{rank}.txt", shared | own))
        members[-1].store = store
    return members


def run_command(*arguments: str) -> None:
    sys.argv = ["hybrid-pruning", *arguments]
    from hybrid_pruning.cli import main

    main()


def finish(*processes: BaseProcess, seconds: float = 120) -> list[int | None]:
    """Wait for processes and return their exit codes; one that hangs is killed and has -9."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def kill_at_random(begin: Callable[[list[str]], Any], run: Path, chance: random.Random, steps: int) -> str:
    """Begin or resume the training of a run with further arguments, kill it at random, and return where, in words.

    Two kills of three fall anywhere within the given number of steps, one falls into the writing of a checkpoint.
    """
    log, old = run / "log.jsonl", set(_half_written(run))
    before = log.stat().st_ino if log.exists() else None
    process = begin(["--resume"] if (run / "config.yaml").exists() else [])
    writing, wanted = chance.random() < 1 / 3, chance.randint(0, steps)
    while process.is_alive() and not (log.exists() and log.stat().st_ino != before):
        time.sleep(0.001)
    first = len(log.read_text().splitlines()) if log.exists() else 0
    while process.is_alive():
        if set(_half_written(run)) - old if writing else len(log.read_text().splitlines()) >= first + wanted:
            break
        time.sleep(0.0005)
    if not writing:
        time.sleep(chance.random() * 0.05)
    process.kill()
    process.join()
    assert process.exitcode == -9, f"ended by itself with {process.exitcode}"
    half = ", a half-written file is left" if set(_half_written(run)) - old else ""
    kept = [path.name for kind in (EPOCH, STEP) for path in Run(run).list_checkpoints(kind)[-1:]]
    where = "writing a checkpoint" if writing else f"after {len(log.read_text().splitlines()) - first} records"
    return f"{where}{half}; newest checkpoints: {', '.join(kept) or 'none'}"


def _half_written(run: Path) -> list[Path]:
    return list(Run(run).checkpoints.glob(f".*{TEMPORARY}"))


def _run(target: Callable[..., None], arguments: Sequence[Any], output: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a command line on Linux: workers die with their parent
    target(*arguments)


@contextmanager
def another(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that runs some code within the folder, and waits; it is killed in the end."""
    text = f"import sys\nfrom hybrid_pruning.files import *\n{code}\n    print(flush=True)\n    sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", text], cwd=folder, text=True, **pipes) as process:
        assert process.stdout.readline() == "\n"
        yield process
        process.send_signal(signal.SIGKILL)
