"""Cells of a sweep side by side on one machine, such as one whose GPU a cell alone leaves idle (docs/study.md).

    PYTHONPATH=src python dev/study/side_by_side.py RECIPE OUT --sparsity 0,0.7 --method joint,taylor --seed 1,2,3 \
        --slots 15 --seconds 400 --only 'dense-*' '*-hp70-*'

Options of the grid are `sweep`'s. Cells are run in the order of --only, each in a process of its own with a log in
OUT/logs. A pruned cell waits until the dense cell of its seed, if that is wanted too, has trained the first stage.
When the seconds are over, the rest is ended: called again, it goes on. `sweep` with the same OUT then writes the table.
"""

import argparse
import fnmatch
import os
import signal
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from hybrid_pruning.config import load_config
from hybrid_pruning.jobs.grid import GridCell, lay_out, parse_axes
from hybrid_pruning.jobs.sweep import FINISHED, describe_state, run_cell
from hybrid_pruning.training.runs import Run


def main() -> None:
    """Run the cells whose names fit, and print each one's end."""
    asked = read_options()
    end, out = time.monotonic() + asked.seconds, asked.out
    axes = parse_axes(asked.sparsity, asked.method, asked.seed, asked.vary)
    grid = lay_out(load_config(asked.recipe, asked.set), axes)
    wanted = {cell.name: cell for name in asked.only for cell in grid if fnmatch.fnmatchcase(cell.name, name)}
    waiting = [cell for cell in wanted.values() if describe_state(cell, out) != FINISHED]
    running: dict[int, tuple[GridCell, float]] = {}
    (out / "logs").mkdir(parents=True, exist_ok=True)
    while (waiting or running) and time.monotonic() < end:
        for cell in [cell for cell in waiting if not cell.target or is_taught(cell, wanted.values(), out)]:
            if len(running) < asked.slots:
                waiting.remove(cell)
                running[start(cell, out)] = cell, time.monotonic()
        if not running:  # each waits for a dense cell that failed
            break
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.2)
            continue
        cell, began = running.pop(pid)
        print(f"{cell.name}: code {status}, {time.monotonic() - began:.0f} s, {describe_state(cell, out)}", flush=True)
    for pid, (cell, _) in running.items():
        os.killpg(pid, signal.SIGKILL)
        print(f"{cell.name}: ended, {describe_state(cell, out)}")
    print(f"left: {' '.join(cell.name for cell in waiting) or 'none'}")


def read_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sparsity", required=True)
    parser.add_argument("--method", default=())
    parser.add_argument("--seed", default=())
    for name in ("--vary", "--set"):
        parser.add_argument(name, action="append", default=[])
    parser.add_argument("--slots", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", nargs="+", default=["*"])
    return parser.parse_args()


def is_taught(cell: GridCell, wanted: Iterable[GridCell], out: Path) -> bool:
    """Return whether the dense cell of a cell's seed, if it is wanted, has trained the first stage."""
    dense = next((one for one in wanted if not one.target and one.config.seed == cell.config.seed), None)
    if dense is None or not dense.config.stages:
        return True
    name, changes = next(iter(dense.config.stages.items()))
    return Run(out / dense.name / "run" / name).trained_epochs() == changes["training"]["epochs"]


def start(cell: GridCell, out: Path) -> int:
    """Fork a process, the first of a group of its own, that runs a cell."""
    if pid := os.fork():
        return pid
    os.setpgrp()
    log = os.open(out / "logs" / f"{cell.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        run_cell(cell, out, True)
        print(flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
