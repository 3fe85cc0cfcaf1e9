"""Hours of audio that models score in a minute of a core, decoding and resampling included, beside decoding alone.

A core's time is what the process had of it, so that others on the machine count little.
Usage: OMP_NUM_THREADS=1 python dev/throughput.py FOLDER MODEL... [--files 2000] [--workers 2]
"""

import argparse
import time
from pathlib import Path

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.scoring.engine import Engine, load_embedder
from hybrid_pruning.scoring.verdicts import find_audio
from hybrid_pruning.serving.served import Served


def main() -> None:
    """Print a row for decoding, and one for each model."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("models", nargs="+", metavar="MODEL")
    options.add_argument("--files", type=int, default=2000)
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    paths = find_audio(given.folder)[: given.files]
    started = time.process_time()
    hours = sum(len(read_audio(path)) for path in paths) / SAMPLE_RATE_HZ / 3600
    spent = time.process_time() - started
    print(f"{len(paths)} files, {hours:.2f} hours\n")
    print("| model | engine | weights | s of a core | hours a minute | times real time | padding | waiting for audio |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| decoding alone | | | {spent:.1f} | {60 * hours / spent:.2f} | {3600 * hours / spent:.0f} | | |", flush=True
    )
    for name in given.models:
        model = load_embedder(name)
        about = Served.load(name, model, 30.0).about()
        engine = Engine(model, workers=given.workers)
        started = time.process_time()
        engine.run_paths(paths, "scores")
        spent, clock = time.process_time() - started, engine.throughput
        cells = [Path(name).name, about["engine"], about["weights"], f"{spent:.1f}", f"{60 * hours / spent:.2f}"]
        cells.append(f"{3600 * hours / spent:.0f}")
        cells.append(f"{1 - clock.audio_seconds / clock.computed_seconds:.1%}")
        cells.append(f"{clock.waiting_seconds / clock.wall_seconds:.1%}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
