"""Warnings where a training is likely to go wrong, or its figures to mislead; nothing here stops it."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hybrid_pruning.config import Config, PruningConfig, TrainingConfig, is_changed, listed
from hybrid_pruning.console import say
from hybrid_pruning.data.checks import check_overlap, shown
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.metrics import FloatArray, eer
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning.gate import open_probability
from hybrid_pruning.tasks import TaskName
from hybrid_pruning.training.objective import peak_rate, target_growth

LEAST_MOVE = 0.01
"""Of the weights' root mean square: an optimiser that can move them by less in the whole training moves nothing."""
LEAST_SGD_RATE = 1e-3
"""Of the head: below it is a rate for AdamW."""
SAMPLED = ("initial_reg_lr", "drop_rate", "clamp_lambda1")
"""Options of sampled gates and their multipliers."""
LARGEST_LAG = 0.03
"""Between expected sparsity and target after the training, as fractions removed."""
HIGH_ACCURACY, NEAR_CHANCE, CHANCE = 0.8, 0.6, 0.4
"""An accuracy that looks good, and a balanced accuracy and an EER that do not."""


def check_before(
    config: Config, model: SpeechModel, steps: int, trainset: Sequence[Utterance], devset: Sequence[Utterance]
) -> list[str]:
    """Return the warnings before a training of so many optimiser steps, one line each."""
    pruning, verification = config.pruning, config.task == "speaker-verification"
    return [
        *check_learning_rates(config.training, model, steps),
        *check_objective(config),
        *(check_pruning(pruning, config.training.epochs, steps) if pruning.gated else ()),
        *check_overlap(trainset, devset, listed(config.data.dev)),
        *(check_speakers(trainset, listed(config.data.train)) if verification else ()),
    ]


def check_after(
    scores: FloatArray,
    positive: npt.NDArray[np.bool_],
    task: TaskName,
    expected_sparsity: float | None,
    target_sparsity: float,
) -> list[str]:
    """Return the warnings after a training, one line each, from the [N] scores and classes of its last validation."""
    check = check_scores if task == "anti-spoofing" else check_cosines
    found = [*check(scores[positive], scores[~positive])]
    return found if expected_sparsity is None else found + check_sparsity(expected_sparsity, target_sparsity)


def print_warnings(lines: Sequence[str]) -> None:
    """Print warnings, each on a line of its own."""
    for line in lines:
        say(f"warning: {line}", style="yellow")


def check_objective(config: Config) -> Iterator[str]:
    """Warn of a loss without margins for verification, and of margins that never reach their size."""
    objective, epochs, start = config.objective, config.training.epochs, config.objective.margin_start_epochs
    if config.task == "speaker-verification" and objective.kind == "softmax":
        yield "objective.kind is softmax, which leaves no margin between speakers; aam is usual"
    if start + objective.margin_warmup_epochs > epochs:
        late = f", after margin_start_epochs {start:g}," if start else ""
        asked = f"objective.margin_warmup_epochs is {objective.margin_warmup_epochs:g}{late}"
        advice = "the margins never reach their size; shorten the warm-up, or train longer"
        yield f"{asked} and training.epochs {epochs}: {advice}"


def check_learning_rates(training: TrainingConfig, model: SpeechModel, steps: int) -> Iterator[str]:
    """Warn of learning rates that move nothing, never reach their peak, or rise where they should fall.

    Adam moves a weight by about the learning rate in a step, so that `steps` of them reach lr x steps at most; SGD by
    the learning rate times the gradient, of which nothing is known before.
    """
    peak, scaled = peak_rate(training), "" if training.lr_batch is None else ", scaled by training.lr_batch,"
    parts = {
        "head": (f"training.lr{scaled}", peak, [*model.head.parameters(), *model.classifier.parameters()]),
        "backbone": (
            f"training.lr x training.backbone_lr_ratio{scaled}",
            peak * training.backbone_lr_ratio,
            [*model.backbone.parameters()],
        ),
    }
    if training.optimizer == "sgd" and peak < LEAST_SGD_RATE:
        low = f"training.lr{scaled} is {peak:g}, a rate for adamw"
        yield f"{low}; sgd moves weights by the rate times the gradient, and 0.01 to 0.1 is usual"
    for part, (key, lr, parameters) in parts.items() if training.optimizer == "adamw" else ():
        chosen = [p.detach().double() for p in parameters if p.requires_grad and p.dim() > 1]
        squares, count = sum(float(p.square().sum()) for p in chosen), sum(p.numel() for p in chosen)
        size = math.sqrt(squares / count) if count else 0.0
        if 0 < lr * steps < LEAST_MOVE * size:
            yield (
                f"{key} is {lr:g}: in {steps} steps it moves a weight of the {part} by {lr * steps:.1g} at most, and "
                f"they are {size:.1g} in size, so that it learns nothing; raise it, or train longer"
            )
    if not training.backbone_lr_ratio and not model.backbone.frozen:
        still = "training.backbone_lr_ratio is 0: the backbone's weights stay as they are"
        yield f"{still}, and only the head and the gates learn; 0.05 is usual where the backbone is to be fine-tuned"
    if training.lr_warmup_epochs > training.epochs:
        asked = f"training.lr_warmup_epochs is {training.lr_warmup_epochs:g} and training.epochs {training.epochs}"
        yield f"{asked}: the learning rate never reaches training.lr; shorten the warm-up, or train longer"
    if training.final_lr > training.lr:
        asked = f"training.final_lr {training.final_lr:g} is above training.lr {training.lr:g}"
        yield f"{asked}: the learning rate rises to the end; it usually falls to a tenth"


def check_pruning(pruning: PruningConfig, epochs: int, steps: int) -> Iterator[str]:
    """Warn of a target that the schedule does not reach, and of gates that are too slow to shut."""
    rests = pruning.export_hold_epochs * len(pruning.snapshots)
    held = f", with {rests:g} held at pruning.export_at," if rests else ""
    last = target_growth(pruning, steps / epochs).target(steps - 1)
    rates = pruning.drop_rate
    rate = rates if isinstance(rates, float) else max(rates.values(), default=0.01)
    even = -float(torch.logit(open_probability(torch.zeros(()))))  # the log_alpha of a gate that is open half the time
    idle = [key for key in SAMPLED if pruning.binary and is_changed(pruning, key)]
    reach, distance = pruning.initial_reg_lr * steps, max(math.log((1 - rate) / rate) - even, 0.0)
    if pruning.sparsity_warmup_epochs + rests > epochs:
        asked = f"pruning.sparsity_warmup_epochs is {pruning.sparsity_warmup_epochs:g}{held}"
        low = f"the target only grows to {last:.1%}, not {pruning.target_sparsity:.1%}"
        yield f"{asked} and training.epochs {epochs}: {low}; shorten the warm-up, or train longer"
    if pruning.constraint_solver == "lagrangian" and pruning.target_sparsity > 0 and reach < distance:
        slow = f"pruning.initial_reg_lr is {pruning.initial_reg_lr:g}: in {steps} steps it moves a gate by {reach:.2g}"
        more = "raise it, train longer, or raise pruning.drop_rate"
        yield f"{slow} at most, and shutting one takes {distance:.2g}; {more}"
    if idle:
        none = f"pruning.{', pruning.'.join(idle)}: of sampled gates, which the solver exact does not have"
        yield f"{none}; for the paper's set pruning.constraint_solver to lagrangian"


def check_sparsity(expected: float, target: float, when: str = "at the end") -> list[str]:
    """Warn where the gates are far from the target, which an export then cuts to all the same."""
    line = f"the gates expect {expected:.1%} to be removed {when}, the target is {target:.1%}"
    advice = "not what was trained; train longer, or raise pruning.initial_reg_lr"
    lags = abs(expected - target) > LARGEST_LAG
    return [f"{line}: an export cuts to the target all the same, but {advice}"] if lags else []


def check_scores(bonafide: FloatArray, spoof: FloatArray) -> Iterator[str]:
    """Warn of [P] and [N] log-likelihood ratios that look inverted, or an accuracy that counts the larger class."""
    rate, total = eer(bonafide, spoof), bonafide.size + spoof.size
    accepted, rejected = float(np.mean(bonafide >= 0)), float(np.mean(spoof < 0))
    accuracy, balanced = (accepted * bonafide.size + rejected * spoof.size) / total, (accepted + rejected) / 2
    larger, share = max((("bona fide", bonafide.size), ("spoofed", spoof.size)), key=lambda pair: pair[1])
    if rate > 0.5:
        found = f"the dev set's EER is {rate:.1%}, worse than chance"
        yield f"{found}: the scores look inverted; check that the labels of neither manifest are swapped"
    elif accuracy >= HIGH_ACCURACY and (balanced < NEAR_CHANCE or rate > CHANCE):
        found = f"the accuracy of {accuracy:.1%} on the dev set says little, as {share / total:.1%} of it are {larger}"
        advice = "judge by these, balance the training data (data.balance)"
        yield f"{found}: the balanced accuracy is {balanced:.1%}, the EER {rate:.1%}; {advice}"


def check_cosines(target: FloatArray, nontarget: FloatArray) -> Iterator[str]:
    """Warn of embeddings whose [P] cosines of one speaker and [N] of two are alike."""
    if (rate := eer(target, nontarget)) > CHANCE:
        found = f"the dev trials' EER is {rate:.1%}, {'worse than' if rate > 0.5 else 'close to'} chance"
        yield f"{found}: check the labels of data.trials.dev and the column speaker of data.train, or train longer"


def check_speakers(trainset: Sequence[Utterance], name: str) -> Iterator[str]:
    """Warn of speakers with a single training utterance."""
    counts = Counter(utterance.speaker for utterance in trainset)
    if single := [speaker for speaker, count in counts.items() if count == 1]:
        found = f"{name}: {len(single)} of {len(counts)} speakers have a single utterance ({shown(single)})"
        yield f"{found}: its room is learnt with the voice; leave them out, or give more of each"
