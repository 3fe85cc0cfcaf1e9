"""What is wrong with a recipe whose values are each as they should be: the ones that do not go together."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from hybrid_pruning.config.recipe import Config, PruningConfig
from hybrid_pruning.errors import InputError

COSINES = ("am", "aam", "sphereface2")
"""Kinds of objective that have class weights as directions."""
MOST_SECONDS, MOST_WEIGHTS = 100_000, 2**30
"""Of audio in a batch, and of a head's largest layer: some gigabytes."""
RESERVED = ("checkpoints", "evaluation", "tensorboard")
"""Folders that a run has of its own."""
CARRIED: Mapping[str, Callable[[Config], Any]] = {
    "head": lambda config: config.head,
    "backbone.source": lambda config: config.backbone.source,
    "backbone.revision": lambda config: config.backbone.revision,
    "backbone.random": lambda config: config.backbone.random,
}
"""What the network of a later stage has from the first."""


def check_whole(config: Config, name: str) -> None:
    """Require that the values of one training go together; `name` stands in the error message.

    Raises:
        InputError: two of them do not; the message names both keys.
    """
    for fault in _faults(config):
        raise InputError(f"{name}: {fault}")


def check_order(stages: Mapping[str, Config], name: str) -> None:
    """Require that each stage can go on with the network that the one before leaves.

    Raises:
        InputError: it has another architecture, or is to prune what is cut already.
    """
    pruned = ""
    for stage, config in stages.items():
        if stage in RESERVED:
            raise InputError(f"{name}: stages: '{stage}' is a folder that every run has; give the stage another name")
        for key, of in CARRIED.items():
            if of(config) != of(next(iter(stages.values()))):
                raise InputError(f"{name}: stages.{stage}.{key} differs from the first stage's; the network goes on")
        if pruned and config.pruning.use_pruning_loss:
            raise InputError(
                f"{name}: stages.{stage}.pruning.use_pruning_loss is on and stage '{pruned}' has pruned already; "
                "turn it off for every stage after that, which trains the small model"
            )
        pruned = stage if config.pruning.use_pruning_loss else pruned


def _faults(config: Config) -> Iterator[str]:
    training, pruning = config.training, config.pruning
    if training.batch_size % training.accumulate:
        yield f"training.batch_size {training.batch_size} is no multiple of training.accumulate {training.accumulate}"
    seconds = training.batch_size * config.data.crop_seconds
    if seconds > MOST_SECONDS:
        yield (
            f"training.batch_size {training.batch_size} x data.crop_seconds {config.data.crop_seconds:g} is "
            f"{seconds:g} seconds a batch; expected at most {MOST_SECONDS}"
        )
    head = config.head
    if (weights := head.heads * head.compression * head.embedding) > MOST_WEIGHTS:
        yield f"head: heads x compression x embedding are {weights} weights; expected at most {MOST_WEIGHTS}"
    yield from _pruning_faults(pruning)
    if config.backbone.frozen and pruning.use_pruning_loss:
        yield "backbone.frozen and pruning.use_pruning_loss are both on; pruning trains the backbone, turn one off"
    for key in ("sampling", "speed_speakers") if config.task == "anti-spoofing" else ():
        if getattr(config.data, key) != type(config.data).model_fields[key].default:
            yield f"data.{key} is for task: speaker-verification, whose classes are speakers"
    yield from _objective_faults(config)


def _pruning_faults(pruning: PruningConfig) -> Iterator[str]:
    low, high, points = pruning.min_sparsity, pruning.target_sparsity, pruning.export_at
    if low > high:
        yield f"pruning.min_sparsity {low} is above pruning.target_sparsity {high}"
    if any(late <= early for early, late in pairwise((low, *points))) or max(points, default=high) > high:
        yield (
            f"pruning.export_at {list(points)}: expected rising values above pruning.min_sparsity {low}, up to "
            f"pruning.target_sparsity {high}"
        )
    if pruning.export_hold_epochs and not points:
        yield (
            f"pruning.export_hold_epochs {pruning.export_hold_epochs:g}: there is nothing to hold at; give "
            "pruning.export_at, or leave it out"
        )


def _objective_faults(config: Config) -> Iterator[str]:
    objective = config.objective
    if config.task == "anti-spoofing" and objective.kind != "softmax":
        yield f"objective.kind {objective.kind} is for task: speaker-verification; anti-spoofing has softmax alone"
    unused = {"inter_top_k": ("am", "aam"), "sub_centres": COSINES, "margin_warmup_epochs": COSINES}
    for key, kinds in unused.items():
        if getattr(objective, key) != type(objective).model_fields[key].default and objective.kind not in kinds:
            yield f"objective.{key} goes with objective.kind {' or '.join(kinds)}, not {objective.kind}"
    if config.task == "speaker-verification" and "dev" not in config.data.trials:
        yield "data.trials.dev is missing; speaker verification is validated on trials over data.dev: give their file"
