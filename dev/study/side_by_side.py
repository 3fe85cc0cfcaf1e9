"""Cells of the study side by side on one machine, such as one with a GPU that a cell alone leaves idle.

    python dev/study/side_by_side.py OUT SLOTS SECONDS CELL... [-- KEY=VALUE...]

In the order given, each in a process of its own with a log in OUT/logs; CELL is a name of `sweep --list`, with * for any
letters. A cell waits until the dense cell of its seed has trained its teacher. When the seconds are over, the rest is
ended: called again, it goes on. Checkpoints of finished pruned cells are removed.
"""

import fnmatch
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from hybrid_pruning.config import load_config
from hybrid_pruning.jobs.grid import lay_out, parse_axes
from hybrid_pruning.jobs.sweep import FINISHED, _run_cell, describe_state
from hybrid_pruning.training.runs import Run

RECIPE, TEACHER = "dev/study/whisper-tiny.yaml", ["distillation=null,{teacher: dense}"]
AXES = ("0,0.5,0.7,0.8,0.9", "joint,taylor,truncation", "1,2,3,4,5", TEACHER)


def main(out: Path, slots: int, seconds: float, wanted: list[str], overrides: list[str]) -> None:
    """Run the cells whose names fit, and print each one's end."""
    end, grid = time.monotonic() + seconds, lay_out(load_config(RECIPE, overrides), parse_axes(*AXES))
    found = {cell.name: cell for one in wanted for cell in grid if fnmatch.fnmatchcase(cell.name, one)}
    waiting = [cell for cell in found.values() if describe_state(cell, out) != FINISHED]
    running: dict[int, tuple] = {}
    (out / "logs").mkdir(parents=True, exist_ok=True)
    while (waiting or running) and time.monotonic() < end:
        for cell in waiting[:]:
            if len(running) < slots and (cell.target == 0 or taught(cell, grid, out)):
                waiting.remove(cell)
                running[start(cell, out)] = cell, time.monotonic()
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if pid:
            cell, began = running.pop(pid)
            print(f"{cell.name}: code {status}, {time.monotonic() - began:.0f} s, {describe_state(cell, out)}", flush=True)
            if status == 0 and cell.target:
                for folder in (out / cell.name / "run").glob("*/checkpoints"):
                    shutil.rmtree(folder)
        elif not running:  # each waits for a teacher that failed
            break
        else:
            time.sleep(0.2)
    for pid, (cell, _) in running.items():
        os.killpg(pid, signal.SIGKILL)
        print(f"{cell.name}: ended, {describe_state(cell, out)}", flush=True)
    print(f"left: {' '.join(cell.name for cell in waiting) or 'none'}", flush=True)


def taught(cell, grid, out: Path) -> bool:
    """Return whether the dense stage of a cell's seed is trained."""
    seed = cell.name.rpartition("-s")[2]
    dense = next(one for one in grid if one.target == 0 and one.name.endswith(f"-s{seed}"))
    stage = Run(out / dense.name / "run" / "dense")
    return stage.folder.exists() and stage.trained_epochs() == dense.config.stages["dense"]["training"]["epochs"]


def start(cell, out: Path) -> int:
    """Fork a process that runs a cell."""
    if pid := os.fork():
        return pid
    os.setpgrp()
    log = os.open(out / "logs" / f"{cell.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        _run_cell(cell, out, True)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    words, _, changes = " ".join(sys.argv[4:]).partition(" -- ")
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), words.split(), changes.split())
