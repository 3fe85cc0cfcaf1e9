"""Cost and memory over the length of a recording: python dev/time_length.py MODEL... [--seconds 1,4,10,30,60,600].

Each model (an artifact's folder or an .onnx file) and length has a process of its own, which scores a file of noise
twice with one thread and tells the processor time of the second pass and its peak memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.scoring.engine import load_embedder
from hybrid_pruning.scoring.scores import score_paths


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seconds", default="1,4,10,30,60,600")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.models[0], Path(options.one))
        return
    lengths = [float(text) for text in options.seconds.split(",")]
    for model in options.models:
        print(f"\n{model}\n\n| seconds of audio | CPU ms for each | peak MB |\n|---|---|---|")
        for seconds in lengths:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "noise.flac"
                noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE_HZ)) * 0.1
                soundfile.write(file, noise, SAMPLE_RATE_HZ)
                command = [sys.executable, __file__, model, "--one", str(file)]
                one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
                found = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
            milliseconds, peak = map(float, found.stdout.split())
            print(f"| {seconds:g} | {milliseconds / seconds:.0f} | {peak:.0f} |", flush=True)


def measure(model: str, file: Path) -> None:
    """Print milliseconds of processor time and megabytes at most."""
    keep_freed_memory()
    embedder = load_embedder(model, "cpu")
    score_paths(embedder, [file], workers=0)
    started = time.process_time()
    score_paths(embedder, [file], workers=0)
    spent = time.process_time() - started
    print(1000 * spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


if __name__ == "__main__":
    main()
