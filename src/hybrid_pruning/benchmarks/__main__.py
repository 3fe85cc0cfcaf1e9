"""`python -m hybrid_pruning.benchmarks`, run by `make bench`: a gated training step, and models cut at random.

Usage: python -m hybrid_pruning.benchmarks [--quick] [--threads N] [--markdown]
"""

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.comparison import Ratio, Task, benchmark, interleaved, print_table, ratio, set_threads
from hybrid_pruning.benchmarks.engines import high_water_bytes, peak_elsewhere
from hybrid_pruning.config import HeadConfig, check_config
from hybrid_pruning.console import Table, say
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.data.trainset import LABELS
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Budget, Constraint, attach, shrink
from hybrid_pruning.training.objective import Optimizers, build_objective, sum_losses

GOAL = 1.05
"""Gated over dense training step that the project holds itself to."""
TRAINING_TARGET = 0.5
TARGETS = (0.5, 0.7)
"""Fractions of the MACs to remove from the models whose latency is measured."""
MODES = ("dense", "gated")
MODULE = "hybrid_pruning.benchmarks"


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a benchmark: `batch`, `crop_seconds` and `steps` of training; `seconds` and `repeats` of latency.

    `align` divides the widths of one of the models. The backbone of the transformers config has random weights.
    """

    name: str
    config: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    crop_seconds: float = 3.0
    steps: int = 8
    seconds: tuple[float, ...] = (4.0,)
    repeats: int = 12
    align: int = 16

    def backbone(self) -> Backbone:
        """Return the dense backbone with random weights."""
        return skeleton(dict(self.config), False)


BASE = Scale("WavLM Base", {"model_type": "wavlm"})
TINY = Scale(
    "A tiny WavLM, too small to judge by",
    {
        "model_type": "wavlm",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
    head={"heads": 4, "compression": 8, "embedding": 16},
    batch=2,
    crop_seconds=0.5,
    steps=3,
    seconds=(0.5,),
    repeats=3,
    align=4,
)


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
    with set_threads(options.threads):
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


def training_step(scale: Scale, gated: bool) -> Task:
    """Return a function that takes one training step of a fresh model: the trainer's, on noise, with gates or dense."""
    torch.manual_seed(0)
    recipe = {
        "data": {"train": "-", "dev": "-"},
        "backbone": {"source": "-"},
        "head": dict(scale.head),
        "pruning": {"use_pruning_loss": gated, "target_sparsity": TRAINING_TARGET},
    }
    config = check_config(recipe, "benchmark")
    model = SpeechModel.build(scale.backbone(), config.head, Classes(LABELS, (1, 1)))
    objective = build_objective(config, model).train()
    optimizers = Optimizers(objective, config.training, config.pruning.initial_reg_lr)
    index = torch.arange(scale.batch)
    wave = torch.randn(scale.batch, round(scale.crop_seconds * SAMPLE_RATE_HZ))
    batch = Batch(wave, None, index % len(LABELS), index)

    def step() -> None:  # as Trainer's between two batches, on one process and without the log
        sum_losses(objective(batch, TRAINING_TARGET)).backward()
        optimizers.clip()
        optimizers.step()

    return step


def peak_bytes(scale: Scale, gated: bool) -> int:
    """Return the rise of this process's peak of resident memory by two training steps."""
    before = high_water_bytes()
    step = training_step(scale, gated)
    for _ in range(2):  # from the second on, Adam's moments are there
        step()
    return high_water_bytes() - before


@contextmanager
def models(scale: Scale) -> Iterator[list[Path]]:
    """Yield folders of artifacts: the dense model of a shape, and copies with a share of the MACs removed at random."""
    torch.manual_seed(0)
    dense = scale.backbone().eval()
    backbones = {"dense": dense}
    for target, align in (*((target, 1) for target in TARGETS), (TARGETS[-1], scale.align)):
        name = f"{target:.0%} of the MACs removed" + (f", widths of {align}" if align > 1 else "")
        backbones[name] = shrunk(dense, target, constraint="macs", align=align)[0]
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in backbones]
        for path, backbone in zip(paths, backbones.values(), strict=True):
            SpeechModel.build(backbone, HeadConfig(**scale.head), Classes(LABELS, (1, 1))).save_pretrained(path)
        yield paths


@torch.no_grad()
def shrunk(
    backbone: Backbone, target_sparsity: float, seed: int = 0, constraint: Constraint = "params", align: int = 1
) -> tuple[Backbone, Budget]:
    """Return a copy without a fraction of its parameters or MACs (4 s), and its exact size beside the dense one.

    The kept units are random, as after a training that pressed on channels, heads and neurons alike and closed no
    whole layer; trained gates may choose otherwise, and the time follows the MACs they keep. Widths are multiples of
    `align`.
    """
    gated = copy.deepcopy(backbone)
    gates = attach(gated, align=align)
    generator = torch.Generator().manual_seed(seed)
    chosen = [gate for gate in gates.values() if gate.slot.size > 1]
    noise = [torch.randn(gate.slot.size, generator=generator) for gate in chosen]
    low, high = -20.0, 20.0
    for _ in range(40):  # the level of all log_alpha at which the expected sparsity is the target
        level = (low + high) / 2
        for gate, values in zip(chosen, noise, strict=True):
            gate.log_alpha.copy_(values + level)
        low, high = (level, high) if gates.budget().removed(constraint) > target_sparsity else (low, level)
    kept = gates.kept(target_sparsity, constraint)
    return shrink(gated, gates, kept).eval(), gates.accounting.exact_kept(kept)


if __name__ == "__main__":
    main()
