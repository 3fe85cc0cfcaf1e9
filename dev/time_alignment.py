"""What rounding kept widths to a multiple buys: latency over that of unaligned widths, at equal MACs, in one run.

Usage: python dev/time_alignment.py [--removed 0.7] [--seconds 4] [--threads 2] [--rounds 24] [--seeds 2] [--clock wall]

On a busy machine `--threads 1 --clock cpu` is the steadier: time in which the processor did something else is left out.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from statistics import quantiles

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.__main__ import BASE, shrunk
from hybrid_pruning.benchmarks.timing import Task, interleaved, ratio
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.pruning import Budget

ALIGNMENTS = (1, 4, 8, 16, 32)
AGAIN = "1, again"
"""The unaligned model timed a second time in every round: what a difference has to exceed."""


def main() -> None:
    """Cut WavLM Base's shape with every alignment, time all of them in turn, and print the ratios to align 1."""
    options = parse()
    torch.set_num_threads(options.threads)
    print(f"WavLM Base shape, {options.removed:.0%} of the MACs removed, {options.seconds:g} s", flush=True)
    print(f"{'engine':<12}{'align':>10}{'params':>8}{'MACs':>8}  time / align 1 (quartiles)  fastest", flush=True)
    for engine in options.engines:
        for seed in range(options.seeds):
            time_seed(engine, seed, options)


def time_seed(engine: str, seed: int, options: argparse.Namespace) -> None:
    """Print one engine's rows for one choice of units."""
    torch.manual_seed(0)
    dense = skeleton(dict(BASE.config), False).eval()
    models = {str(align): shrunk(dense, options.removed, seed, "macs", align) for align in ALIGNMENTS}
    models[AGAIN] = models["1"]
    times = interleaved(prepare(engine, models, options.seconds), options.rounds, CLOCKS[options.clock])
    for name, (_, budget) in models.items():
        found = ratio(times[name], times["1"])
        left = f"{1 - float(budget.sparsity):>8.4f}{1 - float(budget.macs_sparsity):>8.4f}"
        spread = f"{found.median:.3f} ({found.low:.3f}-{found.high:.3f})"
        print(f"{engine:<12}{name:>10}{left}  {spread:<27} {found.fastest:.3f}", flush=True)
    low, middle, high = quantiles(times["1"], n=4)
    print(f"seed {seed}: align 1 itself, its quartiles over its median: {low / middle:.2f} and {high / middle:.2f}")


def prepare(engine: str, models: Mapping[str, tuple[Backbone, Budget]], seconds: float) -> dict[str, Task]:
    """Return what an engine does with one utterance of noise, model by model."""
    wave = torch.randn(1, round(seconds * SAMPLE_RATE_HZ))
    return {name: ENGINES[engine](backbone, wave) for name, (backbone, _) in models.items()}


def run_torch(backbone: Backbone, wave: torch.Tensor) -> Task:
    """Return one pass in torch, float32, as a loaded model computes: its linear layers through oneDNN."""
    backbone.pack()
    return torch.inference_mode()(lambda: backbone(wave))


def run_plain(backbone: Backbone, wave: torch.Tensor) -> Task:
    """Return one pass in torch, float32, its linear layers through BLAS, as a model in training computes."""
    backbone.pack(False)
    return torch.inference_mode()(lambda: backbone(wave))


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ENGINES: dict[str, Callable[[Backbone, torch.Tensor], Task]] = {"torch": run_torch, "torch-plain": run_plain}


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["torch"], help="what computes")
    parser.add_argument("--removed", type=float, default=0.7, help="fraction of the MACs removed")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the utterance")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch computes with")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="what is measured: the wall's, or the CPU's time"
    )
    parser.add_argument("--rounds", type=int, default=24, help="passes of each model, all in turn")
    parser.add_argument("--seeds", type=int, default=2, help="choices of surviving units")
    return parser.parse_args()


if __name__ == "__main__":
    main()
