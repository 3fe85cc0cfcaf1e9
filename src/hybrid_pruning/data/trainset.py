"""The training data: a fraction of a manifest, its classes, and the order of an epoch, shared out to all processes.

The order is a function of (seed, epoch); the fraction is drawn by the seed, and a smaller one is a part of a larger.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import Config
from hybrid_pruning.data.augment import build_augmentation
from hybrid_pruning.data.batches import Address, Batch, Crops, by_recording, load_batches
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label, TaskName

Item = TypeVar("Item")
IntArray = np.ndarray[Any, np.dtype[np.intp]]

LABELS = (Label.SPOOF, Label.BONAFIDE)  # the classes of anti-spoofing, in the order of the logits
LEAST = 2  # speakers: one alone is no classification
SLACK = 1e-9  # 0.07 x 100 is a little above 7 in floating point, and eight would be one too many


class TrainSet:
    """Training examples in batches, this process's share of each; `classes` are the names of the targets, in order.

    With the recipe's `data.speed_speakers`, each utterance is an example once more at every speed.
    """

    def __init__(self, utterances: Sequence[Utterance], config: Config) -> None:
        self.config, self.classes = config, class_names(config, utterances)
        speeds = (1.0, *config.data.speed_speakers)
        self.utterances = [*utterances] * len(speeds)
        place = {name: index for index, name in enumerate(self.classes)}
        step = len(self.classes) // len(speeds)
        own = [place[_class_of(config, utterance)] for utterance in utterances]
        targets = [turn * step + target for turn in range(len(speeds)) for target in own]
        played = [speed for speed in speeds for _ in utterances] if len(speeds) > 1 else ()
        samples = round(config.data.crop_seconds * SAMPLE_RATE_HZ)
        self.crops = Crops(self.utterances, targets, samples, config.seed, build_augmentation(config.augment), played)
        if len(utterances) < processes.count():
            fault = f"{len(utterances)} utterances cannot be shared out to {processes.count()} processes"
            raise InputError(f"{config.data.train}: {fault}; start fewer")
        self.batches_per_epoch = len(self.addresses(0))

    def __len__(self) -> int:
        return len(self.utterances)

    def batches(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches but the first `done`."""
        return load_batches(self.crops, self.addresses(epoch)[done:], self.config.data.workers)

    def addresses(self, epoch: int) -> list[list[Address]]:
        """Return the addresses of this process's share of each batch; an incomplete last one is left out."""
        ranks, rank = processes.count(), processes.rank()
        if self.config.data.sampling == "utterances":
            order = order_utterances(self.utterances, self.config.seed, epoch)
        else:
            order = order_speakers(list(self.crops.members.values()), self.config.seed, epoch)
        size = min(self.config.training.batch_size, len(order) // ranks) * ranks  # everyone's share is as large
        starts = range(0, len(order) - size + 1, size)
        return [order[start : start + size][rank::ranks] for start in starts]


def order_utterances(utterances: Sequence[Utterance], seed: int, epoch: int) -> list[Address]:
    """Return an epoch with every utterance once; those of one recording stay side by side."""
    groups = by_recording(utterances)
    shuffled = np.random.default_rng((seed, epoch)).permutation(len(groups))
    return [(epoch, index) for group in shuffled for index in groups[group]]


def order_speakers(members: Sequence[IntArray], seed: int, epoch: int) -> list[Address]:
    """Return an epoch with as many crops of every speaker, or by chance one more: together one per utterance.

    A speaker's utterances, `members`, come again as often as each other, or once more, and are cropped anew each time.
    """
    rng = np.random.default_rng((seed, epoch))
    share, rest = divmod(sum(map(len, members)), len(members))
    crops = np.full(len(members), share)
    crops[rng.permutation(len(members))[:rest]] += 1
    indices, turns = [], []
    for own, count in zip(members, crops.tolist(), strict=True):
        indices += [np.tile(own, count // len(own)), rng.permutation(own)[: count % len(own)]]
        turns.append(np.arange(count) // len(own))
    index, turn = np.concatenate(indices), np.concatenate(turns)
    order = rng.permutation(len(index))
    return [(epoch, *pair) for pair in zip(index[order].tolist(), turn[order].tolist(), strict=True)]


def class_names(config: Config, utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """Return the classes of the training data in the order of their numbers: labels, or speakers by name.

    With `data.speed_speakers` those at the first speed follow, as `SPEAKER<tab>SPEED`, and so on.
    """
    if config.task == "anti-spoofing":
        return LABELS
    names = _speakers(utterances, str(config.data.train))
    if len(names) < LEAST:
        raise InputError(f"{config.data.train}: {len(names)} speakers; at least {LEAST} are needed to tell them apart")
    return (*names, *(f"{name}\t{speed:g}" for speed in config.data.speed_speakers for name in names))


def _class_of(config: Config, utterance: Utterance) -> str:
    """Return the name of an utterance's class at its own speed."""
    return utterance.label if config.task == "anti-spoofing" else utterance.speaker


def read_trainset(config: Config) -> list[Utterance]:
    """Return the training utterances of a recipe: its manifest's, or a fraction of them."""
    utterances, data = read_set(config.data.train, config.task), config.data
    if data.fraction == 1:
        return utterances
    if data.fraction_of == "utterances":
        return choose_utterances(utterances, lambda one: _class_of(config, one), data.fraction, config.seed)
    chosen = choose_speakers(utterances, data.fraction, config.seed, str(data.train))
    _require_labels(chosen, config.task, f"{data.train}: of {data.fraction:g} of its speakers")
    return chosen


def read_set(path: Path, task: TaskName = "anti-spoofing") -> list[Utterance]:
    """Return the utterances of a manifest whose files exist and that has the labels the task needs."""
    utterances = read_manifest(path)
    _require_labels(utterances, task, str(path))
    missing = next((u for u in utterances if not u.path.exists()), None)
    if missing is not None:
        raise InputError(f"{path}: '{missing.utt_id}': {missing.path} does not exist; check the path column")
    return utterances


def _require_labels(utterances: Sequence[Utterance], task: TaskName, name: str) -> None:
    found = {utterance.label for utterance in utterances}
    for label in LABELS if task == "anti-spoofing" else ():
        if label not in found:
            raise InputError(f"{name}: no utterance is labelled '{label}'; both classes are needed")


def choose_utterances(
    utterances: Sequence[Utterance], class_of: Callable[[Utterance], Hashable], fraction: float, seed: int
) -> list[Utterance]:
    """Return a fraction, above 0 and at most 1, of each class's utterances, one at least, in their order.

    Those of one recording stay together, as the fakes of a recording are trained on beside it.
    """
    strata: dict[frozenset[Hashable], list[list[int]]] = {}
    for group in by_recording(utterances):
        strata.setdefault(frozenset(class_of(utterances[index]) for index in group), []).append(group)
    rng = np.random.default_rng(seed)
    kept = {index for groups in strata.values() for group in _take(groups, fraction, rng) for index in group}
    return [utterance for index, utterance in enumerate(utterances) if index in kept]


def choose_speakers(utterances: Sequence[Utterance], fraction: float, seed: int, name: str) -> list[Utterance]:
    """Return all utterances of a fraction of the speakers, in their order; `name` is theirs in messages."""
    kept = set(_take(_speakers(utterances, name), fraction, np.random.default_rng(seed)))
    return [utterance for utterance in utterances if utterance.speaker in kept]


def _speakers(utterances: Sequence[Utterance], name: str) -> list[str]:
    """Return the speakers, sorted, and require that every utterance's is known."""
    nobody = next((utterance for utterance in utterances if utterance.speaker in (UNKNOWN, "")), None)
    if nobody is not None:
        raise InputError(f"{name}: '{nobody.utt_id}': its speaker is not known; fill in the column speaker")
    return sorted({utterance.speaker for utterance in utterances})


def _take(items: Sequence[Item], fraction: float, rng: np.random.Generator) -> list[Item]:
    """Return the first items of a random order that does not depend on how many are taken."""
    order = rng.permutation(len(items))
    return [items[place] for place in order[: math.ceil(len(items) * fraction - SLACK)]]
