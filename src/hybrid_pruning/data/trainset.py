"""The training data: a fraction of a manifest, its classes, and the order of an epoch, shared out to all processes."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import AugmentConfig, Config, DataConfig, by_name, listed
from hybrid_pruning.data.batches import Address, Batch, Crops, by_recording
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, qualify, read_manifest
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label, TaskName

Item = TypeVar("Item")
IntArray = np.ndarray[Any, np.dtype[np.intp]]
Part = tuple[str | int, ...]
"""Of the training data: the names of corpus and class, as far as an epoch is shared out over them, from the outside."""

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
        samples, augment = round(config.data.crop_seconds * SAMPLE_RATE_HZ), None
        if config.augment != AugmentConfig():
            from hybrid_pruning.data.augment import build_augmentation  # loads all its codecs need

            augment = build_augmentation(config.augment)
        self.crops = Crops(self.utterances, targets, samples, config.seed, augment, played)
        if len(utterances) < processes.count():
            fault = f"{len(utterances)} utterances cannot be shared out to {processes.count()} processes"
            raise InputError(f"{listed(config.data.train)}: {fault}; start fewer")
        self._parts = find_parts(config.data, self.utterances, targets)
        self._expected = expected_crops(config.data, {part: len(own) for part, own in self._parts.items()})
        self.batches_per_epoch = len(self.addresses(0))

    def __len__(self) -> int:
        return len(self.utterances)

    def batches(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches but the first `done`, decoded in worker processes."""
        return work_in_processes(self.crops.load, self.addresses(epoch)[done:], self.config.data.workers)

    def addresses(self, epoch: int) -> list[list[Address]]:
        """Return the addresses of this process's share of each batch; an incomplete last one is left out."""
        ranks, rank = processes.count(), processes.rank()
        if len(self._parts) == 1:
            groups = by_recording(self.utterances)  # which stay side by side
            shuffled = np.random.default_rng((self.config.seed, epoch)).permutation(len(groups))
            order: list[Address] = [(epoch, index) for group in shuffled for index in groups[group]]
        else:
            together = self.crops.recording if self.config.data.balance else {}
            order = order_parts([*self._parts.values()], self._expected, self.config.seed, epoch, together)
        size = min(self.config.training.batch_size, len(order) // ranks) * ranks  # everyone's share is as large
        starts = range(0, len(order) - size + 1, size)
        return [order[start : start + size][rank::ranks] for start in starts]


def find_parts(data: DataConfig, utterances: Sequence[Utterance], targets: Sequence[int]) -> dict[Part, IntArray]:
    """Return the indices of each part of the data, sorted, that an epoch is shared out over; of one where it is not."""
    levels = (*data.balance, *(("class",) if data.sampling == "speakers" else ()))
    found: dict[Part, list[int]] = {}
    for index, (utterance, target) in enumerate(zip(utterances, targets, strict=True)):
        part = tuple(utterance.corpus if level == "corpus" else target for level in levels)
        found.setdefault(part, []).append(index)
    if "corpus" in levels and len({part[levels.index("corpus")] for part in found}) < LEAST:
        raise InputError(f"data.balance: corpus: {listed(data.train)} is of one; give data.train several by name")
    return {part: np.array(found[part]) for part in sorted(found)}


def expected_crops(data: DataConfig, sizes: Mapping[Part, int]) -> list[float]:
    """Return the crops of each part in a mean epoch, together one per utterance.

    Level by level, from the outside, a part has a share of what it is in, in proportion to size^(1/temperature).
    """
    power = 0.0 if data.temperature is None else 1 / data.temperature
    within: Counter[Part] = Counter()
    for part, size in sizes.items():
        within.update({part[:depth]: size for depth in range(len(part) + 1)})
    weights = {part: 1.0 if len(part) > len(data.balance) else size**power for part, size in within.items()}
    sums: dict[Part, float] = {}
    for part, weight in weights.items():
        if part:
            sums[part[:-1]] = sums.get(part[:-1], 0.0) + weight
    total = sum(sizes.values())
    return [total * math.prod(weights[part[: d + 1]] / sums[part[:d]] for d in range(len(part))) for part in sizes]


def order_parts(
    parts: Sequence[IntArray], expected: Sequence[float], seed: int, epoch: int, recording: Mapping[int, int]
) -> list[Address]:
    """Return an epoch with the expected crops of each part, rounded up or down: together one per utterance.

    A part's utterances come again as often as each other, or once more, and are cropped anew each time. Those of one
    recording stay side by side where both come: `recording` is the first index of each one's, where it is to count.
    """
    rng = np.random.default_rng((seed, epoch))
    exact = np.round(expected, 6)  # of floating point's errors
    crops = exact.astype(np.intp)
    order = rng.permutation(len(parts))
    order = order[np.argsort((crops - exact)[order], kind="stable")]  # first what lost most in rounding, else by chance
    crops[order[: sum(map(len, parts)) - crops.sum()]] += 1
    indices, turns = [], []
    for own, count in zip(parts, crops.tolist(), strict=True):
        indices += [np.tile(own, count // len(own)), rng.permutation(own)[: count % len(own)]]
        turns.append(np.arange(count) // len(own))
    index, turn = np.concatenate(indices), np.concatenate(turns)
    order = rng.permutation(len(index))
    takes: dict[tuple[int, int], list[Address]] = {}
    for pair in zip(index[order].tolist(), turn[order].tolist(), strict=True):
        takes.setdefault((recording.get(pair[0], pair[0]), pair[1]), []).append((epoch, *pair))
    return [address for take in takes.values() for address in take]


def class_counts(config: Config, utterances: Sequence[Utterance]) -> tuple[int, ...]:
    """Return the number of crops of each label in a mean epoch, the utterances themselves unless they are balanced."""
    targets = [LABELS.index(utterance.label) for utterance in utterances]
    parts = find_parts(config.data, utterances, targets)
    expected = expected_crops(config.data, {part: len(own) for part, own in parts.items()})
    counts = [0.0] * len(LABELS)
    for own, crops in zip(parts.values(), expected, strict=True):
        for index in own:
            counts[targets[index]] += crops / len(own)
    return tuple(max(1, round(count)) for count in counts)


def class_names(config: Config, utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """Return the classes of the training data in the order of their numbers: labels, or speakers by name.

    With `data.speed_speakers` those at the first speed follow, as `SPEAKER<tab>SPEED`, and so on.
    """
    if config.task == "anti-spoofing":
        return LABELS
    where = listed(config.data.train)
    names = _speakers(utterances, where)
    if len(names) < LEAST:
        raise InputError(f"{where}: {len(names)} speakers; at least {LEAST} are needed to tell them apart")
    return (*names, *(f"{name}\t{speed:g}" for speed in config.data.speed_speakers for name in names))


def _class_of(config: Config, utterance: Utterance) -> str:
    """Return the name of an utterance's class at its own speed."""
    return utterance.label if config.task == "anti-spoofing" else utterance.speaker


def read_trainset(config: Config) -> list[Utterance]:
    """Return the training utterances of a recipe: its manifests', or a fraction of each corpus and class."""
    data, where = config.data, listed(config.data.train)
    utterances = [one for name, path in by_name(data.train).items() for one in _read_existing(path, name)]
    _require_labels(utterances, config.task, where)
    if data.fraction == 1:
        return utterances
    if data.fraction_of == "utterances":
        return choose_utterances(utterances, lambda u: (u.corpus, _class_of(config, u)), data.fraction, config.seed)
    chosen = choose_speakers(utterances, data.fraction, config.seed, where)
    _require_labels(chosen, config.task, f"{where}: of {data.fraction:g} of its speakers")
    return chosen


def read_devset(config: Config) -> list[Utterance]:
    """Return the utterances to validate on; each manifest has the labels that the task needs."""
    return [one for name, path in by_name(config.data.dev).items() for one in read_set(path, config.task, name)]


def read_set(path: Path, task: TaskName = "anti-spoofing", corpus: str = "") -> list[Utterance]:
    """Return the utterances of a manifest whose files exist and that has the labels the task needs."""
    utterances = _read_existing(path, corpus)
    _require_labels(utterances, task, str(path))
    return utterances


def _read_existing(path: Path, corpus: str) -> list[Utterance]:
    """Return the utterances of a manifest, as those of a corpus where it has a name; their files must exist."""
    utterances = read_manifest(path)
    missing = next((u for u in utterances if not u.path.exists()), None)
    if missing is not None:
        raise InputError(f"{path}: '{missing.utt_id}': {missing.path} does not exist; check the path column")
    return [qualify(utterance, corpus) for utterance in utterances]


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
