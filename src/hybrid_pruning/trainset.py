"""What is trained on, and in which order: a function of (seed, epoch), shared out to all processes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hybrid_pruning import processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.augment import build_augmentation
from hybrid_pruning.batches import Batch, Crops, by_recording, load_batches
from hybrid_pruning.config import Config, TaskName
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import UNKNOWN, Label, Utterance, read_manifest

LABELS = (Label.SPOOF, Label.BONAFIDE)
"""The classes of anti-spoofing, in the order of the logits."""
LEAST = 2
"""Speakers: with one there is nothing to tell apart."""


class TrainSet:
    """Training examples in batches, this process's share of each.

    Args:
        utterances: what to crop examples from.
        config: the recipe.

    Attributes:
        classes: the names of the targets, in their order.

    Raises:
        InputError: fewer utterances than processes, or for speaker verification no speakers to tell apart.
    """

    def __init__(self, utterances: Sequence[Utterance], config: Config) -> None:
        self.utterances, self.config = utterances, config
        self.classes = class_names(config, utterances)
        place = {name: index for index, name in enumerate(self.classes)}
        targets = [place[class_of(config, utterance)] for utterance in utterances]
        samples = round(config.data.crop_seconds * SAMPLE_RATE_HZ)
        self.crops = Crops(utterances, targets, samples, config.seed, build_augmentation(config.augment))
        if len(utterances) < processes.count():
            raise InputError(
                f"{config.data.train}: {len(utterances)} utterances cannot be shared out to "
                f"{processes.count()} processes; start fewer"
            )
        self.batches_per_epoch = len(self.addresses(0))

    def __len__(self) -> int:
        return len(self.utterances)

    def batches(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches but the first `done`.

        Raises:
            InputError: a file that cannot be used.
        """
        return load_batches(self.crops, self.addresses(epoch)[done:], self.config.data.workers)

    def addresses(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Return the (epoch, index) pairs of this process's share of each batch; an incomplete last one is left out."""
        ranks, rank = processes.count(), processes.rank()
        groups = by_recording(self.utterances)
        shuffled = np.random.default_rng((self.config.seed, epoch)).permutation(len(groups))
        order = [index for group in shuffled for index in groups[group]]
        size = min(self.config.training.batch_size, len(order) // ranks) * ranks  # everyone's share is as large
        starts = range(0, len(order) - size + 1, size)
        return [[(epoch, index) for index in order[start : start + size][rank::ranks]] for start in starts]


def class_names(config: Config, utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """Return the classes of the training data in the order of their numbers: labels, or speakers by name.

    Raises:
        InputError: speaker verification with an utterance whose speaker is not known, or too few speakers.
    """
    if config.task == "anti-spoofing":
        return LABELS
    train = config.data.train
    nobody = next((u for u in utterances if u.speaker in (UNKNOWN, "")), None)
    if nobody is not None:
        raise InputError(f"{train}: '{nobody.utt_id}': its speaker is not known; fill in the column speaker")
    names = tuple(sorted({utterance.speaker for utterance in utterances}))
    if len(names) < LEAST:
        raise InputError(f"{train}: {len(names)} speakers; at least {LEAST} are needed to tell them apart")
    return names


def class_of(config: Config, utterance: Utterance) -> str:
    """Return the name of an utterance's class."""
    return utterance.label if config.task == "anti-spoofing" else utterance.speaker


def read_set(path: Path, task: TaskName = "anti-spoofing") -> list[Utterance]:
    """Return the utterances of a manifest.

    Raises:
        InputError: it cannot be used, lacks a class that the task needs, or names a file that does not exist.
    """
    utterances = read_manifest(path)
    found = {utterance.label for utterance in utterances}
    for label in LABELS if task == "anti-spoofing" else ():
        if label not in found:
            raise InputError(f"{path}: no utterance is labelled '{label}'; both classes are needed")
    missing = next((u for u in utterances if not u.path.exists()), None)
    if missing is not None:
        raise InputError(f"{path}: '{missing.utt_id}': {missing.path} does not exist; check the path column")
    return utterances
