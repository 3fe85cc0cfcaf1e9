"""What is trained on, and in which order: a function of (seed, epoch), shared out to all processes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import Config
from hybrid_pruning.data.augment import build_augmentation
from hybrid_pruning.data.batches import Batch, Crops, load_batches
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.data.sampling import Address, every_speaker, every_utterance
from hybrid_pruning.data.subset import choose_speakers, choose_utterances, require_speakers
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label, TaskName

LABELS = (Label.SPOOF, Label.BONAFIDE)
"""The classes of anti-spoofing, in the order of the logits."""
LEAST = 2
"""Speakers: with one there is nothing to tell apart."""
AT_SPEED = "\t"
"""Between a speaker's name and the speed that makes another one of him or her; no name has it."""


class TrainSet:
    """Training examples in batches, this process's share of each.

    Args:
        utterances: what to crop examples from.
        config: the recipe; with `data.speed_speakers`, each utterance is an example once more at every speed.

    Attributes:
        classes: the names of the targets, in their order.

    Raises:
        InputError: fewer utterances than processes, or for speaker verification no speakers to tell apart.
    """

    def __init__(self, utterances: Sequence[Utterance], config: Config) -> None:
        self.config, self.classes = config, class_names(config, utterances)
        speeds = (1.0, *config.data.speed_speakers)
        self.utterances = [*utterances] * len(speeds)
        place = {name: index for index, name in enumerate(self.classes)}
        own = [place[class_of(config, utterance)] for utterance in utterances]
        step = len(self.classes) // len(speeds)
        targets = [turn * step + target for turn in range(len(speeds)) for target in own]
        played = [speed for speed in speeds for _ in utterances] if len(speeds) > 1 else ()
        samples = round(config.data.crop_seconds * SAMPLE_RATE_HZ)
        self.crops = Crops(self.utterances, targets, samples, config.seed, build_augmentation(config.augment), played)
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

    def addresses(self, epoch: int) -> list[list[Address]]:
        """Return the addresses of this process's share of each batch; an incomplete last one is left out."""
        ranks, rank = processes.count(), processes.rank()
        order = self._order(epoch)
        size = min(self.config.training.batch_size, len(order) // ranks) * ranks  # everyone's share is as large
        starts = range(0, len(order) - size + 1, size)
        return [order[start : start + size][rank::ranks] for start in starts]

    def _order(self, epoch: int) -> list[Address]:
        if self.config.data.sampling == "utterances":
            return every_utterance(self.utterances, self.config.seed, epoch)
        return every_speaker(list(self.crops.members.values()), self.config.seed, epoch)


def class_names(config: Config, utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """Return the classes of the training data in the order of their numbers: labels, or speakers by name.

    Behind the speakers, once more for each speed, are those that `data.speed_speakers` makes of them.

    Raises:
        InputError: speaker verification with an utterance whose speaker is not known, or too few speakers.
    """
    if config.task == "anti-spoofing":
        return LABELS
    require_speakers(utterances, str(config.data.train))
    names = sorted({utterance.speaker for utterance in utterances})
    if len(names) < LEAST:
        raise InputError(f"{config.data.train}: {len(names)} speakers; at least {LEAST} are needed to tell them apart")
    faster = (f"{name}{AT_SPEED}{speed:g}" for speed in config.data.speed_speakers for name in names)
    return (*names, *faster)


def class_of(config: Config, utterance: Utterance) -> str:
    """Return the name of an utterance's class, as it is spoken."""
    return utterance.label if config.task == "anti-spoofing" else utterance.speaker


def read_trainset(config: Config) -> list[Utterance]:
    """Return the training utterances of a recipe: its manifest's, or a fraction of them.

    Raises:
        InputError: as `read_set`; a fraction of the speakers where one is not known, or without one of the labels.
    """
    utterances, data = read_set(config.data.train, config.task), config.data
    if data.fraction == 1:
        return utterances
    if data.fraction_of == "utterances":
        return choose_utterances(utterances, lambda one: class_of(config, one), data.fraction, config.seed)
    chosen = choose_speakers(utterances, data.fraction, config.seed, str(data.train))
    _require_labels(chosen, config.task, f"{data.train}: of {data.fraction:g} of its speakers")
    return chosen


def read_set(path: Path, task: TaskName = "anti-spoofing") -> list[Utterance]:
    """Return the utterances of a manifest.

    Raises:
        InputError: it cannot be used, lacks a label that the task needs, or names a file that does not exist.
    """
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
