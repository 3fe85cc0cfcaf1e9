"""`python -m hybrid_pruning.benchmarks`, run by `make bench`: a training step, and models cut at random.

Usage: python -m hybrid_pruning.benchmarks [--quick] [--threads N] [--markdown]
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hybrid_pruning.benchmarks import timing
from hybrid_pruning.benchmarks.comparison import benchmark, print_table
from hybrid_pruning.benchmarks.gated_step import MODES, measure_training, peak_bytes
from hybrid_pruning.benchmarks.shapes import BASE, TINY, Scale, shrunk
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.console import say
from hybrid_pruning.data.trainset import LABELS
from hybrid_pruning.models.backbone import skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel

TARGETS = (0.5, 0.7)
"""Fractions of the MACs to remove."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m hybrid_pruning.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows that it runs, says nothing on speed")
    parser.add_argument("--threads", type=int, default=2, help="threads that everything computes with (default 2)")
    parser.add_argument("--engines", default="", help="as `hybrid-pruning benchmark` takes them")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables, for README and dev/LOG.md")
    parser.add_argument("--peak-memory", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: at least 1 is needed")
    scale = TINY if options.quick else BASE
    with timing.threads(options.threads):
        if options.peak_memory:
            say(str(peak_bytes(scale, options.peak_memory == "gated")))
            return
        flags = ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
        print_table(measure_training(scale, flags), options.markdown)
    engines = [name.strip() for name in options.engines.split(",") if name]
    with models(scale) as folders:
        found = benchmark(folders, None, engines, scale.seconds, (1,), scale.repeats, options.threads)
    for table in found.tables():
        print_table(table, options.markdown)
    say(f"{scale.name}, random weights; {found.machine()}")


@contextmanager
def models(scale: Scale) -> Iterator[list[Path]]:
    """Yield folders of artifacts: the dense model of a shape, and copies with a share of the MACs removed at random."""
    torch.manual_seed(0)
    dense = skeleton(dict(scale.config), False).eval()
    backbones = {"dense": dense}
    for target, align in (*((target, 1) for target in TARGETS), (TARGETS[-1], scale.align)):
        name = f"{target:.0%} of the MACs removed" + (f", widths of {align}" if align > 1 else "")
        backbones[name] = shrunk(dense, target, constraint="macs", align=align)[0]
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in backbones]
        for path, backbone in zip(paths, backbones.values(), strict=True):
            SpeechModel.build(backbone, HeadConfig(**scale.head), Classes(LABELS, (1, 1))).save_pretrained(path)
        yield paths


if __name__ == "__main__":
    main()
