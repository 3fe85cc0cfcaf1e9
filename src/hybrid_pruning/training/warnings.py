"""Warnings where a training is likely to go wrong, or its figures to mislead: one line each, what and what to do.

Nothing here stops a training. What cannot work at all is an `InputError` elsewhere.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_pruning.config import Config, PruningConfig, TrainingConfig
from hybrid_pruning.console import say
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.overlap import check_overlap, shown
from hybrid_pruning.metrics import FloatArray, eer
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning.gate import open_probability
from hybrid_pruning.tasks import TaskName
from hybrid_pruning.training.snapshots import early_points, growth

LEAST_MOVE = 0.01
"""Of the weights' root mean square: an optimiser that can move them by less in the whole training moves nothing."""
LEAST_SGD_RATE = 1e-3
"""Of the head: what is below is a rate for AdamW."""
LARGEST_LAG = 0.03
"""Between expected sparsity and target after the training, as fractions removed."""
HIGH_ACCURACY, NEAR_CHANCE, CHANCE = 0.8, 0.6, 0.4
"""An accuracy that looks good, and a balanced accuracy and an EER that do not."""


def check_before(
    config: Config, model: SpeechModel, steps: int, trainset: Sequence[Utterance], devset: Sequence[Utterance]
) -> list[str]:
    """Return what a person should know before a training, one line each.

    Args:
        config: the recipe.
        model: what is to be trained.
        steps: optimiser steps of the whole training.
        trainset: what it is trained on.
        devset: what it is validated on.
    """
    return [
        *check_learning_rates(config.training, model, steps),
        *check_objective(config),
        *(check_pruning(config.pruning, config.training.epochs, steps) if config.pruning.use_pruning_loss else []),
        *check_overlap(trainset, devset, str(config.data.dev)),
        *(check_speakers(trainset, str(config.data.train)) if config.task == "speaker-verification" else []),
    ]


def check_after(
    scores: FloatArray,
    positive: npt.NDArray[np.bool_],
    task: TaskName,
    expected_sparsity: float | None,
    target_sparsity: float,
) -> list[str]:
    """Return what a person should know after a training, one line each.

    Args:
        scores: [N] log-likelihood ratios of the dev set, or the cosines of the trials over it.
        positive: [N] whether each is of bona fide speech, or of a target trial.
        task: which of the two.
        expected_sparsity: of the gates as they ended; None without gates.
        target_sparsity: what it was to be.
    """
    check = check_scores if task == "anti-spoofing" else check_cosines
    found = check(scores[positive], scores[~positive])
    if expected_sparsity is not None:
        found += check_sparsity(expected_sparsity, target_sparsity)
    return found


def print_warnings(lines: Sequence[str]) -> None:
    """Print warnings, each on a line of its own."""
    for line in lines:
        say(f"warning: {line}", style="yellow")


def check_objective(config: Config) -> list[str]:
    """Warn of a loss that verification is worse with, and of margins that never reach their size."""
    objective, epochs = config.objective, config.training.epochs
    found = []
    if config.task == "speaker-verification" and objective.kind == "softmax":
        found.append("objective.kind is softmax, which leaves no margin between speakers; aam is usual")
    if objective.margin_warmup_epochs > epochs:
        found.append(
            f"objective.margin_warmup_epochs is {objective.margin_warmup_epochs:g} and training.epochs {epochs}: the "
            "margins never reach their size; shorten the warm-up, or train longer"
        )
    return found


def check_learning_rates(training: TrainingConfig, model: SpeechModel, steps: int) -> list[str]:
    """Warn of learning rates that move nothing, never reach their peak, or rise where they should fall.

    Adam moves a weight by about the learning rate in a step, so that `steps` of them reach lr x steps at most; SGD by
    the learning rate times the gradient, of which nothing is known before.
    """
    found = []
    if training.optimizer == "sgd" and training.lr < LEAST_SGD_RATE:
        found.append(
            f"training.lr is {training.lr:g}, a rate for adamw; sgd moves weights by the rate times the gradient, and "
            "0.01 to 0.1 is usual"
        )
    parts: dict[str, tuple[str, float, list[nn.Module]]] = {
        "head": ("training.lr", training.lr, [model.head, model.classifier]),
        "backbone": (
            "training.lr x training.backbone_lr_ratio",
            training.lr * training.backbone_lr_ratio,
            [model.backbone],
        ),
    }
    for part, (key, lr, modules) in parts.items():
        scale = _scale([p for module in modules for p in module.parameters() if p.requires_grad and p.dim() > 1])
        if training.optimizer == "adamw" and lr and lr * steps < LEAST_MOVE * scale:
            found.append(
                f"{key} is {lr:g}: in {steps} steps it moves a weight of the {part} by {lr * steps:.1g} at most, and "
                f"they are {scale:.1g} in size, so that it learns nothing; raise it, or train longer"
            )
    if not training.backbone_lr_ratio and not model.backbone.frozen:
        found.append(
            "training.backbone_lr_ratio is 0: the backbone's weights stay as they are, and only the head and the gates "
            "learn; 0.05 is usual where the backbone is to be fine-tuned"
        )
    if training.lr_warmup_epochs > training.epochs:
        found.append(
            f"training.lr_warmup_epochs is {training.lr_warmup_epochs:g} and training.epochs {training.epochs}: the "
            "learning rate never reaches training.lr; shorten the warm-up, or train longer"
        )
    if training.final_lr > training.lr:
        found.append(
            f"training.final_lr {training.final_lr:g} is above training.lr {training.lr:g}: the learning rate rises to "
            "the end; it usually falls to a tenth"
        )
    return found


def check_pruning(pruning: PruningConfig, epochs: int, steps: int) -> list[str]:
    """Warn of a target that the schedule does not reach, and of gates that are too slow to shut."""
    found = []
    rests = pruning.export_hold_epochs * len(early_points(pruning))
    if pruning.sparsity_warmup_epochs + rests > epochs:
        last = growth(pruning, steps / epochs).target(steps - 1)
        held = f", with {rests:g} held at pruning.export_at," if rests else ""
        found.append(
            f"pruning.sparsity_warmup_epochs is {pruning.sparsity_warmup_epochs:g}{held} and training.epochs {epochs}: "
            f"the target only grows to {last:.1%}, not {pruning.target_sparsity:.1%}; shorten the warm-up, or train "
            "longer"
        )
    reach, distance = pruning.initial_reg_lr * steps, _way_to_shut(pruning)
    if pruning.target_sparsity and reach < distance:
        found.append(
            f"pruning.initial_reg_lr is {pruning.initial_reg_lr:g}: in {steps} steps it moves a gate by {reach:.2g} at "
            f"most, and shutting one takes {distance:.2g}; raise it, train longer, or raise pruning.drop_rate"
        )
    return found


def check_sparsity(expected: float, target: float, when: str = "at the end") -> list[str]:
    """Warn where the gates are far from the target, which an export then cuts to all the same."""
    if abs(expected - target) <= LARGEST_LAG:
        return []
    return [
        f"the gates expect {expected:.1%} to be removed {when}, the target is {target:.1%}: an export cuts to the "
        "target all the same, but not what was trained; train longer, or raise pruning.initial_reg_lr"
    ]


def check_scores(bonafide: FloatArray, spoof: FloatArray) -> list[str]:
    """Warn of scores that look inverted, and of an accuracy that only counts the larger class.

    Args:
        bonafide: [P] log-likelihood ratios of bona fide speech.
        spoof: [N] of spoofs.
    """
    rate = eer(bonafide, spoof)
    if rate > 0.5:
        return [
            f"the dev set's EER is {rate:.1%}, worse than chance: the scores look inverted; check that the labels of "
            "neither manifest are swapped"
        ]
    accepted, rejected = float(np.mean(bonafide >= 0)), float(np.mean(spoof < 0))
    total = bonafide.size + spoof.size
    accuracy, balanced = (accepted * bonafide.size + rejected * spoof.size) / total, (accepted + rejected) / 2
    if accuracy >= HIGH_ACCURACY and (balanced < NEAR_CHANCE or rate > CHANCE):
        larger, share = max((("bona fide", bonafide.size), ("spoofed", spoof.size)), key=lambda pair: pair[1])
        return [
            f"the accuracy of {accuracy:.1%} on the dev set says little, as {share / total:.1%} of it are {larger}: "
            f"the balanced accuracy is {balanced:.1%}, the EER {rate:.1%}; judge by these, balance the training data"
        ]
    return []


def check_cosines(target: FloatArray, nontarget: FloatArray) -> list[str]:
    """Warn of embeddings that tell nobody apart.

    Args:
        target: [P] cosines of trials of one speaker.
        nontarget: [N] of two.
    """
    rate = eer(target, nontarget)
    if rate <= CHANCE:
        return []
    return [
        f"the dev trials' EER is {rate:.1%}, {'worse than' if rate > 0.5 else 'close to'} chance: check the labels of "
        "data.trials.dev and the column speaker of data.train, or train longer"
    ]


def check_speakers(trainset: Sequence[Utterance], name: str) -> list[str]:
    """Warn of speakers who are trained on with a single utterance."""
    counts = Counter(utterance.speaker for utterance in trainset)
    single = [speaker for speaker, count in counts.items() if count == 1]
    if not single:
        return []
    return [
        f"{name}: {len(single)} of {len(counts)} speakers have a single utterance ({shown(single)}): its room is "
        "learnt with the voice; leave them out, or give more of each"
    ]


def _scale(parameters: Sequence[torch.Tensor]) -> float:
    """Return the root mean square of all weights together."""
    count = sum(parameter.numel() for parameter in parameters)
    squares = sum(float(parameter.detach().double().square().sum()) for parameter in parameters)
    return math.sqrt(squares / count) if count else 0.0


def _way_to_shut(pruning: PruningConfig) -> float:
    """Return how far the log_alpha of the gates that start least open is from an even chance to be open."""
    rates = pruning.drop_rate
    rate = rates if isinstance(rates, float) else max(rates.values(), default=0.01)
    start = math.log((1 - rate) / rate)
    even = -float(torch.logit(open_probability(torch.zeros(()))))
    return max(start - even, 0.0)
