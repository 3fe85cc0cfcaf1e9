"""Warnings where a training is likely to go wrong, or its figures to mislead: one line each, what and what to do.

Nothing here stops a training. What cannot work at all is an `InputError` elsewhere.
"""

import filecmp
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hybrid_pruning.config import Config, PruningConfig, TaskName, TrainingConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.family import early_points, growth
from hybrid_pruning.manifest import UNKNOWN, Utterance, read_manifest
from hybrid_pruning.metrics import FloatArray, eer
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.pruning.gate import open_probability
from hybrid_pruning.terminal import console

LEAST_MOVE = 0.01
"""Of the weights' root mean square: an optimiser that can move them by less in the whole training moves nothing."""
LEAST_SGD_RATE = 1e-3
"""Of the head: what is below is a rate for AdamW."""
LARGEST_LAG = 0.03
"""Between expected sparsity and target after the training, as fractions removed."""
HIGH_ACCURACY, NEAR_CHANCE, CHANCE = 0.8, 0.6, 0.4
"""An accuracy that looks good, and a balanced accuracy and an EER that do not."""
MOST_READ = 4000
"""Files of either set that are compared with each other, evenly spaced where there are more."""
TAIL = 4096
"""Bytes at the end of a file by which it is told from others of its size, before all of it is compared."""
SHOWN = 3


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


def check_scored(provenance: Mapping[str, Any], manifest: str | Path) -> list[str]:
    """Return what a person should know of scores on a manifest by a model that tells what it was trained on.

    Args:
        provenance: the model's; free-form, and its manifest may be gone.
        manifest: what was scored.
    """
    recipe = provenance.get("recipe")
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    train = data.get("train") if isinstance(data, Mapping) else None
    if not isinstance(train, str) or not Path(train).is_file():
        return []
    try:
        return check_overlap(read_manifest(train), read_manifest(manifest), str(manifest))
    except InputError:  # no manifest by now
        return []


def print_warnings(lines: Sequence[str]) -> None:
    """Print warnings, each on a line of its own."""
    for line in lines:
        console.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


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


def check_overlap(trainset: Sequence[Utterance], other: Sequence[Utterance], name: str) -> list[str]:
    """Warn where a set has something of the training data in it: files, their content, ids, speakers.

    Of large sets, contents are compared for `MOST_READ` files of each alone; all paths, ids and speakers are.

    Args:
        trainset: what was, or is to be, trained on.
        other: what is judged on.
        name: what the user calls that.
    """
    trained = {_absolute(utterance.path) for utterance in trainset}
    files = [utterance for utterance in other if _absolute(utterance.path) in trained]
    rest = [utterance for utterance in other if _absolute(utterance.path) not in trained]
    copies = _find_copies(trainset, rest)
    known = {utterance.utt_id for utterance in trainset}
    again = {utterance.utt_id for utterance in copies}
    ids = [utterance for utterance in rest if utterance.utt_id in known and utterance.utt_id not in again]
    unseen = "its figures say little of unseen speech; take them out of one of the two"
    shared = {
        f"of {len(other)} files are training files too": (files, unseen),
        "files are copies of training files under other names": (copies, unseen),
        "ids stand in the training data too, for other files": (ids, "are they the same recordings? If so, part them"),
    }
    found = [
        f"{name}: {len(some)} {words} ({_show([utterance.utt_id for utterance in some])}): {advice}"
        for words, (some, advice) in shared.items()
        if some
    ]
    return found + _check_speakers(trainset, other, name)


def check_speakers(trainset: Sequence[Utterance], name: str) -> list[str]:
    """Warn of speakers who are trained on with a single utterance."""
    counts = Counter(utterance.speaker for utterance in trainset)
    single = [speaker for speaker, count in counts.items() if count == 1]
    if not single:
        return []
    return [
        f"{name}: {len(single)} of {len(counts)} speakers have a single utterance ({_show(single)}): its room is "
        "learnt with the voice; leave them out, or give more of each"
    ]


def _check_speakers(trainset: Sequence[Utterance], other: Sequence[Utterance], name: str) -> list[str]:
    trained, heard = ({u.speaker for u in utterances} - {UNKNOWN, ""} for utterances in (trainset, other))
    both = sorted(trained & heard)
    if not both:
        return []
    return [
        f"{name}: {len(both)} of its {len(heard)} speakers are heard in training too ({_show(both)}): its figures are "
        "better than on strangers; split by speaker where you can"
    ]


def _find_copies(trainset: Sequence[Utterance], other: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances whose file has the content of a training file: same size, same end, same bytes."""
    sizes = {utterance.utt_id: _size(utterance.path) for utterance in other}
    wanted = set(sizes.values()) - {None, 0}
    trained = [utterance.path for utterance in trainset if _size(utterance.path) in wanted] if wanted else []
    ends: dict[tuple[int, bytes], Path] = {}
    for path in _spread(trained):
        if (end := _end(path)) is not None:
            ends.setdefault(end, path)
    common = {size for size, _ in ends}
    candidates = [utterance for utterance in other if sizes[utterance.utt_id] in common]
    copies = []
    for utterance in _spread(candidates):
        twin = ends.get(end) if (end := _end(utterance.path)) is not None else None
        if twin is not None and filecmp.cmp(twin, utterance.path, shallow=False):
            copies.append(utterance)
    return copies


def _spread(items: Sequence[Any]) -> list[Any]:
    """Return all items, or `MOST_READ` evenly spaced ones."""
    if len(items) <= MOST_READ:
        return list(items)
    return [items[index * len(items) // MOST_READ] for index in range(MOST_READ)]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # whoever reads it will say so
        return None


def _end(path: Path) -> tuple[int, bytes] | None:
    """Return a file's size and its last bytes."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(size - TAIL, 0))
            return size, handle.read(TAIL)
    except OSError:
        return None


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  several times quicker than Path's, and there may be 300,000


def _show(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


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
