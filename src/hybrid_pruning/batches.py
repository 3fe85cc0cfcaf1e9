"""Utterances -> batches: crop or whole, repeat what is too short, pad side by side, in worker processes.

Every random choice is a function of (seed, epoch, index), so that neither the number of workers nor a resumed run
changes what the model sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hybrid_pruning.audio import audio_samples, read_audio
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import UNKNOWN, Utterance


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances side by side.

    Args:
        wave: [B, S] float32 at 16 kHz, zeros beyond each utterance's length.
        lengths: [B] samples of each utterance, or None where all have S.
        target: [B] class of each utterance.
        index: [B] place of each utterance in its manifest.
        padding: fraction of the B x S samples that are zeros beyond an utterance or repetitions of a short one.
        skipped: what was wrong with each file that could not be used and was replaced by another.
    """

    wave: torch.Tensor
    lengths: torch.Tensor | None
    target: torch.Tensor
    index: torch.Tensor
    padding: float = 0.0
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Batch(self.wave.to(device), lengths, self.target.to(device), self.index.to(device))

    def split(self, parts: int) -> list["Batch"]:
        """Return up to `parts` smaller batches, for gradient accumulation."""
        size = -(-len(self.wave) // parts)
        lengths: Sequence[Any] = [None] * parts if self.lengths is None else self.lengths.split(size)
        columns = (self.wave.split(size), self.target.split(size), self.index.split(size))
        return [Batch(w, n, t, i) for (w, t, i), n in zip(zip(*columns, strict=True), lengths, strict=False)]


def by_recording(utterances: Sequence[Utterance]) -> list[list[int]]:
    """Group the indices of utterances that share a recording; what is not known to share one stands alone."""
    groups: dict[str | int, list[int]] = {}
    for index, utterance in enumerate(utterances):
        known = utterance.recording != UNKNOWN
        groups.setdefault(utterance.recording if known else index, []).append(index)
    return list(groups.values())


class Crops(Dataset[Any]):
    """Training examples of one length, addressed by (epoch, index); what shares a recording shares the place.

    Args:
        utterances: what to crop from.
        targets: the class of each utterance.
        samples: length of an example; utterances shorter than that are repeated.
        seed: of the crops' places.
    """

    def __init__(self, utterances: Sequence[Utterance], targets: Sequence[int], samples: int, seed: int) -> None:
        self.utterances, self.targets, self.samples, self.seed = utterances, targets, samples, seed
        self.recording = {index: group[0] for group in by_recording(utterances) for index in group}

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, int, int] | InputError:
        """Return (wave [S], target, index), or the error to raise where the caller can show it."""
        epoch, index = address
        try:
            rng = np.random.default_rng((self.seed, epoch, self.recording[index]))
            wave = self._crop(self.utterances[index].path, rng)
        except InputError as error:
            return error
        return torch.from_numpy(wave), self.targets[index], index

    def _crop(self, path: Path, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
        spare = audio_samples(path) - self.samples
        wave = read_audio(path, int(rng.integers(spare + 1)) if spare > 0 else 0, self.samples)
        return np.resize(wave, self.samples)  # repeats what is too short


class Wholes(Dataset[Any]):
    """Whole utterances, addressed by index.

    Args:
        utterances: what to read.
        minimum: samples below which an utterance is repeated up to.
    """

    def __init__(self, utterances: Sequence[Utterance], minimum: int) -> None:
        self.utterances, self.minimum = utterances, minimum

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int] | InputError:
        """Return (wave [S], 0, index), or the error to raise where the caller can show it."""
        try:
            wave = read_audio(self.utterances[index].path)
        except InputError as error:
            return error
        return torch.from_numpy(np.resize(wave, max(len(wave), self.minimum))), 0, index


def load_batches(dataset: Dataset[Any], batches: Sequence[Sequence[Any]], workers: int) -> Iterator[Batch]:
    """Yield the batches whose addresses are given, in that order, decoding in worker processes.

    Raises:
        InputError: a file of the batch cannot be used.
    """
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate)  # type: ignore[arg-type]
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def collate(examples: Sequence[tuple[torch.Tensor, int, int] | InputError]) -> Batch | InputError:
    """Pad examples side by side; the first error among them stands for all."""
    good = []
    for example in examples:
        if isinstance(example, InputError):
            return example
        good.append(example)
    waves, targets, indices = zip(*good, strict=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    equal = bool((lengths == lengths[0]).all())
    return Batch(padded, None if equal else lengths, torch.tensor(targets), torch.tensor(indices))
