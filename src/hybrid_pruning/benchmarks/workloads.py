"""The work that benchmarks measure: models of a shape with random weights, cut at random, and steps of training."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.timing import Task
from hybrid_pruning.config import DistillationConfig, check_config
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.data.trainset import LABELS
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Budget, Constraint, Gates, attach, shrink
from hybrid_pruning.training.objective import Optimizers, Teacher, build_objective, sum_losses

CPU = torch.device("cpu")
TRAINING_TARGET = 0.5
CLASSES = Classes(LABELS, (1, 1))


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a benchmark: `batch`, `crop_seconds` and `steps` of training; `seconds` and `repeats` of latency.

    The backbone of the transformers config has random weights.
    """

    name: str
    config: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    crop_seconds: float = 3.0
    steps: int = 8
    seconds: tuple[float, ...] = (1.0, 2.0, 4.0)
    repeats: int = 8

    def backbone(self, device: str | torch.device = CPU) -> Backbone:
        """Return the dense backbone with random weights."""
        with torch.device(device):
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
)


def training_step(
    scale: Scale,
    gated: bool,
    device: torch.device = CPU,
    bf16: bool = False,
    solver: str = "lagrangian",
    taught: bool = False,
    compiled: bool = False,
) -> Task:
    """Return a function that takes one training step of a fresh model: the trainer's, on noise, with gates or dense.

    `solver` is that of the constraint, `taught` adds the losses against a teacher of the same shape, `compiled` puts
    the encoder through torch.compile.
    """
    torch.manual_seed(0)
    recipe = {
        "data": {"train": "-", "dev": "-"},
        "backbone": {"source": "-"},
        "head": dict(scale.head),
        "pruning": {"use_pruning_loss": gated, "target_sparsity": TRAINING_TARGET, "constraint_solver": solver},
    }
    config = check_config(recipe, "benchmark")
    model = SpeechModel.build(scale.backbone(device), config.head, CLASSES).to(device)
    objective = build_objective(config, model).to(device).train()
    if taught:
        teacher = SpeechModel.build(scale.backbone(device), config.head, CLASSES)
        objective.teacher = Teacher(teacher, DistillationConfig(teacher="-"))
    if compiled:
        model.backbone.compile()
    optimizers = Optimizers(objective, config.training, config.pruning.initial_reg_lr)
    index = torch.arange(scale.batch)
    wave = torch.randn(scale.batch, round(scale.crop_seconds * SAMPLE_RATE_HZ))
    batch = Batch(wave, None, index % len(LABELS), index)

    def step() -> None:  # as Trainer's between two batches, on one process and without the log
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            losses = objective(batch.to(device), TRAINING_TARGET)
        sum_losses(losses).backward()
        norms = optimizers.clip()
        torch.stack([*losses.values(), *norms.values()]).tolist()
        optimizers.step()

    return step


def shrunk(
    backbone: Backbone, target_sparsity: float, seed: int = 0, constraint: Constraint = "params", align: int = 1
) -> tuple[Backbone, Budget]:
    """Return a copy without a fraction of its parameters or MACs (4 s), and its exact size beside the dense one."""
    gated, gates = gate_at_random(backbone, target_sparsity, seed, constraint, align)
    kept = gates.kept(target_sparsity, constraint)
    return shrink(gated, gates, kept).eval(), gates.accounting.exact_kept(kept)


@torch.no_grad()
def gate_at_random(
    backbone: Backbone, target_sparsity: float, seed: int = 0, constraint: Constraint = "params", align: int = 1
) -> tuple[Backbone, Gates]:
    """Return a copy with gates at which the expected sparsity is the target.

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
    return gated, gates
