"""Checks of a device against the CPU and against itself: both invariants, padding, kept units, scores, resumed runs."""

import copy
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.workloads import CLASSES, TRAINING_TARGET, Scale, gate_at_random, shrunk
from hybrid_pruning.config import HeadConfig, check_config
from hybrid_pruning.data.batches import Batch, Crops
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.trainset import LABELS
from hybrid_pruning.models.backbone import Backbone, Hidden
from hybrid_pruning.models.backbone.base import mask_of
from hybrid_pruning.models.size import count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Gates, shrink
from hybrid_pruning.training.objective import build_objective
from hybrid_pruning.training.runs import Run, read_checkpoint
from hybrid_pruning.training.trainer import Trainer

Check = Mapping[str, Any]
"""Value, limit, and whether the limit is kept; a value that is only reported has none."""
REMOVED = 0.5
STATES, SCORES = 1e-4, 1e-3
"""Largest relative error of hidden states in float32, and largest difference of scores."""
BATCHES, SAVED, DEATH = 5, 3, 8
"""Of the training that is killed: batches of an epoch, steps between checkpoints, and the step it dies after."""


class Checks:
    """The checks on a device, of a model of one shape, and of a training of another that is killed and resumed."""

    def __init__(self, device: torch.device, shape: Scale, killed: Scale, flags: tuple[str, ...]) -> None:
        self.device, self.shape, self.killed, self.flags = device, shape, killed, flags

    def all(self) -> dict[str, Callable[[], Check]]:
        """Return the checks by name."""
        return {
            "masked = shrunk, relative": self.masked,
            "counted = actual, parameters and MACs": self.counted,
            "padded = alone, relative": self.padded,
            "kept units = the CPU's, differences": self.kept,
            "scores = the CPU's": partial(self.scores, tf32=False, limit=SCORES),
            "scores as torch computes (convolutions in TF32)": self.scores,
            "scores in bf16": partial(self.scores, bf16=True),
            "gated bf16 training, killed and resumed, relative": self.resumed,
            "the same twice by torch's default kernels, relative": self.repeated,
        }

    @torch.no_grad()
    def masked(self) -> Check:
        """Compare the hidden states of the gated and the shrunk encoder, padded."""
        gated, gates = self._gated
        with precision(False):
            return _judge(largest_error(gated(*self._wave), shrink(gated, gates).eval()(*self._wave)), STATES)

    @torch.no_grad()
    def counted(self) -> Check:
        """Compare the exact size with the shrunk encoder's tensors and operations."""
        gated, gates = self._gated
        small, size = shrink(gated, gates).eval(), gates.accounting.exact_kept(gates.kept())
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            small(self._wave[0][:1])
        return _judge(abs(count_parameters(small) - size.params) + abs(counter.get_total_flops() / 2 - size.macs), 0)

    @torch.no_grad()
    def padded(self) -> Check:
        """Compare the hidden states of utterances in a padded batch with those of each alone."""
        (backbone, _), (wave, lengths), worst = self._gated, self._wave, 0.0
        with precision(False):
            frames = backbone(wave, lengths).frames
            for place, size in enumerate(lengths.tolist()):
                alone = backbone(wave[place, None, :size])
                worst = max(worst, largest_error(alone, Hidden(frames[:, place, None, : alone.frames.shape[2]], None)))
        return _judge(worst, STATES)

    def kept(self) -> Check:
        """Compare the units that gates keep on the device and on the CPU."""
        gates = self._gated[1]
        here = copy.deepcopy(gates).cpu()
        pairs = [(gates.kept(), here.kept())]
        for target in (0.3, 0.7):
            pairs += [(gates.kept(target, one), here.kept(target, one)) for one in ("params", "macs")]
        return _judge(sum(len(set(one[name]) ^ set(other[name])) for one, other in pairs for name in one), 0)

    def scores(self, tf32: bool | None = None, bf16: bool = False, limit: float | None = None) -> Check:
        """Compare the scores of an artifact that was made on the CPU, there and on the device."""
        with TemporaryDirectory() as folder:
            small = shrunk(self._dense, REMOVED)[0]
            SpeechModel.build(small, HeadConfig(**self.shape.head), CLASSES).save_pretrained(folder)
            models = [SpeechModel.from_pretrained(folder).to(device) for device in ("cpu", self.device)]
        batch = [one.cpu().numpy() for one in self._wave]
        expected = models[0].classify_arrays(models[0].embed_arrays(*batch))
        with precision(tf32), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            found = models[1].classify_arrays(models[1].embed_arrays(*batch))
        return _judge(float(np.abs(expected - found).max()), limit)

    def resumed(self) -> Check:
        """Compare a training that was killed and resumed with a whole one, by deterministic kernels."""
        with TemporaryDirectory() as folder:
            cut, whole = Path(folder) / "cut", Path(folder) / "whole"
            if (code := kill_elsewhere(cut, self.flags)) != -signal.SIGKILL:
                raise RuntimeError(f"the training ended with {code} before it was killed")
            resumed = train(cut, self.killed)
            return _judge(largest_difference(train(whole, self.killed), resumed), 0)

    def repeated(self) -> Check:
        """Compare two whole trainings by torch's own choice of kernels."""
        with TemporaryDirectory() as folder:
            one, other = (train(Path(folder) / name, self.killed, exact=False) for name in ("one", "other"))
        return _judge(largest_difference(one, other))

    @cached_property
    def _dense(self) -> Backbone:
        """The encoder on the CPU; fresh biases of 0 and norms of 1 would hide mistakes."""
        torch.manual_seed(0)
        backbone = self.shape.backbone().eval()
        for parameter in backbone.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
        return backbone

    @cached_property
    def _gated(self) -> tuple[Backbone, Gates]:
        return gate_at_random(copy.deepcopy(self._dense).to(self.device), REMOVED)

    @cached_property
    def _wave(self) -> tuple[torch.Tensor, torch.Tensor]:
        wave = torch.randn(3, 4 * SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(1))
        return wave.to(self.device), torch.tensor([64_000, 30_000, 51_111]).to(self.device)


class NoiseCrops(Crops):
    """Noise in place of recordings."""

    def _crop(self, epoch: int, index: int, turn: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
        return self._rng(epoch, index, turn).standard_normal(self.samples, dtype=np.float32), 0


class Mortal(Trainer):
    """The trainer without validation, which kills its process after a step where it is told to."""

    until: int | None = None

    def _step(self, batch: Batch) -> dict[str, Any] | None:
        record = super()._step(batch)
        if self.step == self.until:
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    def _end_epoch(self) -> None:
        """Do nothing: there are no recordings to score."""


def train(folder: Path, scale: Scale, until: int | None = None, exact: bool = True) -> dict[str, Any]:
    """Train with gates in bf16, on the GPU where there is one, or go on where a killed process was.

    Args:
        folder: of the run.
        scale: shape, batch and crops.
        until: the step to be killed after.
        exact: take deterministic kernels alone.

    Returns:
        The learnt state after two epochs.
    """
    saved = {"checkpoint_steps": SAVED, "log_every": 1}
    recipe = {
        "data": {"train": "-", "dev": "-", "crop_seconds": scale.crop_seconds},
        "backbone": {"source": "-"},
        "head": dict(scale.head),
        "training": {"epochs": 2, "batch_size": scale.batch, "mixed_precision": "bf16", **saved},
        "pruning": {"use_pruning_loss": True, "target_sparsity": TRAINING_TARGET, "sparsity_warmup_epochs": 1},
    }
    config, before = check_config(recipe, "benchmark"), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(0)
    objective = build_objective(config, SpeechModel.build(scale.backbone(), config.head, CLASSES))
    utterances = [Utterance(f"{n}", Path("-"), LABELS[n % len(LABELS)]) for n in range(BATCHES * scale.batch)]
    torch.use_deterministic_algorithms(exact)
    try:
        trainer = Mortal(config, objective, utterances, utterances, Run(folder))
        crops = trainer.trainset.crops
        trainer.trainset.crops = NoiseCrops(crops.utterances, crops.targets, crops.samples, crops.seed)
        trainer.until = until
        if not trainer.resume():
            trainer.start_log()
        trainer.fit()
        trainer.close()
    finally:
        torch.use_deterministic_algorithms(before)
    state = read_checkpoint(Run(folder).list_checkpoints()[-1])
    return {name: state[name] for name in ("step", "objective", "optimizers")}


def kill_elsewhere(folder: Path, flags: tuple[str, ...]) -> int:
    """Train in a process that kills itself; return its exit code."""
    command = [sys.executable, "-m", "hybrid_pruning.benchmarks", "--gpu", "--die", str(folder), *flags]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


@contextmanager
def precision(tf32: bool | None) -> Iterator[None]:
    """Let float32 products and convolutions on CUDA round to TF32, or not; None leaves both as they are."""
    switches: tuple[Any, ...] = () if tf32 is None else (torch.backends.cuda.matmul, torch.backends.cudnn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are newer switches, which not every torch has
        before = [switch.allow_tf32 for switch in switches]
        for switch in switches:
            switch.allow_tf32 = tf32
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def largest_error(expected: Hidden, found: Hidden) -> float:
    """Return the largest error of any hidden state within its utterance, by that state's largest value."""
    one, other = expected.frames.float(), found.frames.float()
    if expected.lengths is not None:
        outside = ~mask_of(expected.lengths, one.shape[2])[None, :, :, None]
        one, other = one.masked_fill(outside, 0), other.masked_fill(outside, 0)
    return float(((one - other).abs().flatten(1).amax(1) / one.abs().flatten(1).amax(1)).max())


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest difference of any tensors of two trees, by their largest value; 0 where bits are equal."""
    if isinstance(one, torch.Tensor):
        if torch.equal(one, other):
            return 0.0
        return float((one.double() - other.double()).abs().max() / one.double().abs().max().clamp_min(1e-30))
    if isinstance(one, Mapping):
        return max((largest_difference(value, other[name]) for name, value in one.items()), default=0.0)
    if isinstance(one, list | tuple):
        return max((largest_difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else float("inf")


def _judge(found: float, limit: float | None = None) -> Check:
    return {"found": found} if limit is None else {"found": found, "limit": limit, "holds": bool(found <= limit)}
