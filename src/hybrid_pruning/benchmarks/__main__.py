"""`python -m hybrid_pruning.benchmarks`, run by `make bench`: a gated training step, and models cut at random.

Usage: python -m hybrid_pruning.benchmarks [--quick] [--threads N] [--markdown], or with --gpu what `gpu.py` measures.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hybrid_pruning.benchmarks.comparison import benchmark, print_table, set_threads
from hybrid_pruning.benchmarks.engines import high_water_bytes, peak_elsewhere
from hybrid_pruning.benchmarks.timing import Ratio, interleaved, ratio
from hybrid_pruning.benchmarks.workloads import BASE, CLASSES, TINY, Scale, shrunk, training_step
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.console import Table, say
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.speech_model import SpeechModel

GOAL = 1.05
"""Gated over dense training step that the project holds itself to."""
MODES = ("dense", "gated")
MODULE = "hybrid_pruning.benchmarks"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m hybrid_pruning.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows that it runs, says nothing on speed")
    parser.add_argument("--threads", type=int, default=2, help="threads that everything computes with (default 2)")
    parser.add_argument("--engines", default="", help="as `hybrid-pruning benchmark` takes them")
    parser.add_argument(
        "--removed", default="0.7", help="share of the MACs that the model lacks, or several: 0,0.5,0.7"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables, for README and dev/LOG.md")
    parser.add_argument("--peak-memory", choices=MODES, help=argparse.SUPPRESS)
    graphics = parser.add_argument_group("on a GPU, in place of the above")
    graphics.add_argument("--gpu", action="store_true", help="check and time training and inference on a GPU")
    graphics.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu with --quick tries the program alone")
    graphics.add_argument("--out", type=Path, default=Path("gpu"), help="folder of gpu.md and gpu.json (default gpu)")
    graphics.add_argument("--minutes", type=float, default=7.5, help="after which the rest is left out (default 7.5)")
    graphics.add_argument("--die", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.gpu:
        from hybrid_pruning.benchmarks import correctness, gpu

        try:
            device = gpu.prepare(options.device)
        except InputError as error:
            parser.error(f"--gpu: {error}")
        if options.die:
            correctness.train(options.die, (gpu.QUICK if options.quick else gpu.FULL).killed, correctness.DEATH)
        elif not gpu.measure(device, options.quick, options.out, options.minutes * 60):
            raise SystemExit(1)
        return
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: at least 1 is needed")
    scale = TINY if options.quick else BASE
    with set_threads(options.threads):
        if options.peak_memory:
            say(str(peak_bytes(scale, options.peak_memory == "gated")))
            return
        flags = ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
        print_table(measure_training(scale, flags), options.markdown)
    engines = [name.strip() for name in options.engines.split(",") if name]
    with models(scale, [float(share) for share in options.removed.split(",")]) as places:
        found = benchmark(places, None, engines, scale.seconds, (1,), scale.repeats, options.threads)
    for table in found.tables():
        print_table(table, options.markdown)
    say(f"{scale.name}, random weights; {found.machine()}")


def measure_training(scale: Scale, flags: Sequence[str] = ()) -> Table:
    """Return the cost of gates in a training step, in time and in memory; `flags` go to the processes of the latter."""
    peaks = {mode: peak_elsewhere(MODULE, "--peak-memory", mode, *flags) for mode in MODES}
    keep_freed_memory()
    times = interleaved({mode: training_step(scale, mode == "gated") for mode in MODES}, scale.steps)
    time_ratio = ratio(times["gated"], times["dense"])
    spread = f"{time_ratio.median:.3f} ({time_ratio.low:.3f}-{time_ratio.high:.3f})"
    rows = [
        ("time", spread, f"{time_ratio.fastest:.3f}", f"<= {GOAL}: {judge(time_ratio)}"),
        ("peak memory", f"{peaks['gated'] / peaks['dense']:.3f}", "", "1"),
    ]
    note = (
        f"{scale.name}, batch of {scale.batch} x {scale.crop_seconds:g} s, float32, {scale.steps} steps of each in "
        "turn: sampling, forward, Lagrangian, backward, clipping, both optimisers; freed memory is kept, as `train` "
        "does. The gates' cost does not grow with the batch, so larger batches come out lower. Memory is what each "
        "adds to a process that has all imported."
    )
    return Table(("", "ratio", "fastest", "goal"), rows, "training step: gated over dense", note)


def judge(found: Ratio) -> str:
    """Return whether a ratio is within the goal, where its quartiles agree."""
    if found.low <= GOAL <= found.high:
        return "undecided, rounds differ too much"
    return "within" if found.high < GOAL else "above"


def peak_bytes(scale: Scale, gated: bool) -> int:
    """Return the rise of this process's peak of resident memory by two training steps."""
    before = high_water_bytes()
    step = training_step(scale, gated)
    for _ in range(2):  # from the second on, Adam's moments are there
        step()
    return high_water_bytes() - before


@contextmanager
def models(scale: Scale, shares: Sequence[float]) -> Iterator[dict[str, Path]]:
    """Yield artifacts by name: the model of a shape with shares of the MACs removed at random."""
    torch.manual_seed(0)
    dense = scale.backbone().eval()
    with TemporaryDirectory() as folder:
        paths = {}
        for share in shares:
            name, backbone = f"{share:.0%} removed", shrunk(dense, share, constraint="macs")[0] if share else dense
            paths[name] = Path(folder) / name
            SpeechModel.build(backbone, HeadConfig(**scale.head), CLASSES).save_pretrained(paths[name])
        yield paths


if __name__ == "__main__":
    main()
