"""Peak memory, of a process of its own: this module, run, loads a model and computes one batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from hybrid_pruning.benchmarks.engines import ENGINES
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError

KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""glibc then keeps no large block that was freed."""


def peak_elsewhere(module: str, *arguments: str) -> int:
    """Run a module that prints its peak, in a process of its own: a process never forgets its peak.

    Raises:
        InputError: it failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **KEEP})
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise InputError(f"measuring memory failed ({said}); is there enough of it?")
    return int(done.stdout)


def high_water_bytes() -> int:
    """Return this process's peak of resident memory so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage, on Linux, starts from the peak of the process that launched this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(engine: str, path: str, batch: str, samples: str) -> None:
    """Load a model, compute once, and print the peak in bytes."""
    wave = np.random.default_rng(0).normal(size=(int(batch), int(samples))).astype(np.float32)
    ENGINES[engine](path)(wave)
    say(str(high_water_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
