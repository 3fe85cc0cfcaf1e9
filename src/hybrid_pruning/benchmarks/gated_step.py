"""The cost of gates in training: a gated step beside a dense one, in time and in memory."""

from collections.abc import Sequence

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.engines import high_water_bytes, peak_elsewhere
from hybrid_pruning.benchmarks.shapes import Scale
from hybrid_pruning.benchmarks.timing import Ratio, Task, interleaved, ratio
from hybrid_pruning.config import check_config
from hybrid_pruning.console import Table
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.data.trainset import LABELS
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.models.backbone import skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.training.objective import Optimizers, build_objective, sum_losses

GOAL = 1.05
"""Gated over dense training step that the project holds itself to."""
TRAINING_TARGET = 0.5
MODES = ("dense", "gated")
MODULE = "hybrid_pruning.benchmarks"


def measure_training(scale: Scale, flags: Sequence[str] = ()) -> Table:
    """Return the cost of gates in a training step, in time and in memory; `flags` go to the processes of the latter."""
    peaks = {mode: peak_elsewhere(MODULE, "--peak-memory", mode, *flags) for mode in MODES}
    keep_freed_memory()
    times = interleaved({mode: training_step(scale, mode == "gated") for mode in MODES}, scale.steps)
    time_ratio = ratio(times["gated"], times["dense"])
    spread = f"{time_ratio.median:.3f} ({time_ratio.low:.3f}-{time_ratio.high:.3f})"
    rows = [
        ("time", spread, f"{time_ratio.fastest:.3f}", f"<= {GOAL}: {_verdict(time_ratio)}"),
        ("peak memory", f"{peaks['gated'] / peaks['dense']:.3f}", "", "1"),
    ]
    note = (
        f"{scale.name}, batch of {scale.batch} x {scale.crop_seconds:g} s, float32, {scale.steps} steps of each in "
        "turn: sampling, forward, Lagrangian, backward, clipping, both optimisers; freed memory is kept, as `train` "
        "does. The gates' cost does not grow with the batch, so larger batches come out lower. Memory is what each "
        "adds to a process that has all imported."
    )
    return Table(("", "ratio", "fastest", "goal"), rows, "training step: gated over dense", note)


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
    model = SpeechModel.build(skeleton(dict(scale.config), False), config.head, Classes(LABELS, (1, 1)))
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


def _verdict(found: Ratio) -> str:
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
