"""Utterances -> batches: crop or whole, repeat what is too short, pad side by side, in worker processes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybrid_pruning.audio import AudioFile, check_seconds
from hybrid_pruning.data.manifest import UNKNOWN, Utterance
from hybrid_pruning.errors import InputError

if TYPE_CHECKING:
    from hybrid_pruning.data.augment import Augmentation

ATTEMPTS = 5  # files tried for one example before the last one's error stops the training

Address = tuple[int, ...]  # (epoch, index), or (epoch, index, turn), of a training example; see `Crops`


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances side by side."""

    wave: torch.Tensor  # [B, S] float32 at 16 kHz, zeros beyond each utterance's length
    lengths: torch.Tensor | None  # [B] samples of each utterance, or None where all have S
    target: torch.Tensor  # [B] class of each utterance
    index: torch.Tensor  # [B] its place in its manifest
    padding: float = 0.0  # fraction of the B x S samples that are zeros beyond an utterance or repetitions of one
    skipped: tuple[str, ...] = ()  # fault of each file that could not be used and was replaced by another

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        wave, target, index = self.wave.to(device), self.target.to(device), self.index.to(device)
        return replace(self, wave=wave, lengths=lengths, target=target, index=index)

    def split(self, parts: int) -> list["Batch"]:
        """Return up to `parts` smaller batches of the whole one's padding; `skipped` is in the first alone."""
        size, skipped, found = -(-len(self.wave) // parts), self.skipped, list[Batch]()
        for start in range(0, len(self.wave), size):
            part = slice(start, start + size)
            lengths = None if self.lengths is None else self.lengths[part]
            found.append(Batch(self.wave[part], lengths, self.target[part], self.index[part], self.padding, skipped))
            skipped = ()
        return found


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance, or a crop of it."""

    wave: torch.Tensor  # [S] float32 at 16 kHz
    target: int  # its class
    index: int  # its place in the manifest
    repeated: int = 0  # samples that repeat earlier ones, because the utterance was too short
    skipped: tuple[str, ...] = ()  # faults of the files that it replaces


def by_recording(utterances: Sequence[Utterance]) -> list[list[int]]:
    """Group the indices of utterances that share a recording; an utterance of an unknown one stands alone."""
    groups: dict[str | int, list[int]] = {}
    for index, utterance in enumerate(utterances):
        known = utterance.recording != UNKNOWN
        groups.setdefault(utterance.recording if known else index, []).append(index)
    return list(groups.values())


class Crops:
    """Training examples of one length, addressed by (epoch, index); crops of one recording are at the same place.

    An address may have a third number, the turn: how often the epoch has had that utterance before; 0 where it has
    none. A file that cannot be used is replaced by another of its class, drawn by (seed, epoch, index, attempt).

    Args:
        targets: class of each utterance.
        samples: length of an example; shorter utterances are repeated.
        augment: examples of one recording share its random choices too.
        speeds: playback speed of each utterance; none for all as they are.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        targets: Sequence[int],
        samples: int,
        seed: int,
        augment: "Augmentation | None" = None,
        speeds: Sequence[float] = (),
    ) -> None:
        self.utterances, self.targets, self.samples, self.seed = utterances, targets, samples, seed
        self.augment, self.speeds = augment, speeds
        self.recording = {index: group[0] for group in by_recording(utterances) for index in group}
        classes = np.asarray(targets)
        order = np.argsort(classes, kind="stable")  # once, as there may be thousands of classes
        found, starts = np.unique(classes[order], return_index=True)
        self.members = dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
        """The indices of each class, rising."""

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, address: Address) -> Example:
        """Return the example; raise the last file's error if none that may replace it can be used either."""
        epoch, index, turn = (*address, 0)[:3]
        faults: list[InputError] = []
        for chosen in self._candidates(epoch, index):
            try:
                wave, repeated = self._crop(epoch, chosen, turn)
            except InputError as error:
                faults.append(error)
                continue
            if self.augment is not None:  # another random stream than the crop's place
                wave = self.augment(wave, self._rng(epoch, chosen, turn).spawn(1)[0])
            return Example(torch.from_numpy(wave), self.targets[chosen], chosen, repeated, tuple(map(str, faults)))
        raise faults[-1]

    def load(self, addresses: Sequence[Address]) -> Batch:
        """Return the examples at some addresses, side by side."""
        return collate([self[address] for address in addresses])

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """Yield the utterance itself and then, one by one, those that may replace it."""
        yield index
        others = self.members[self.targets[index]]
        others = others[others != index]
        for attempt in range(1, ATTEMPTS if len(others) else 1):
            yield int(np.random.default_rng((self.seed, epoch, index, attempt)).choice(others))

    def _crop(self, epoch: int, index: int, turn: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
        """Return the crop and the number of its samples that are repeated."""
        utterance, speed = self.utterances[index], self.speeds[index] if self.speeds else 1.0
        rng, needed = self._rng(epoch, index, turn), math.ceil(self.samples * speed)
        with AudioFile(utterance.path) as audio:
            check_seconds(utterance.path, audio.samples, utterance.seconds)
            spare = audio.samples - needed
            wave = audio.read(int(rng.integers(spare + 1)) if spare > 0 else 0, needed)
        whole = np.resize(wave, needed)
        if speed == 1:
            return whole, needed - len(wave)
        from hybrid_pruning.data.augment.effects import change_speed, fit

        return fit(change_speed(whole, speed), self.samples), round((needed - len(wave)) / speed)

    def _rng(self, epoch: int, index: int, turn: int) -> np.random.Generator:
        later = (0, turn) if turn else ()  # never what `_candidates` draws from
        return np.random.default_rng((self.seed, epoch, self.recording[index], *later))


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples side by side."""
    lengths = torch.tensor([len(example.wave) for example in examples])
    padded = torch.nn.utils.rnn.pad_sequence([example.wave for example in examples], batch_first=True)
    own = int(lengths.sum()) - sum(example.repeated for example in examples)
    return Batch(
        wave=padded,
        lengths=None if bool((lengths == lengths[0]).all()) else lengths,
        target=torch.tensor([example.target for example in examples]),
        index=torch.tensor([example.index for example in examples]),
        padding=1 - own / padded.numel(),
        skipped=tuple(message for example in examples for message in example.skipped),
    )
