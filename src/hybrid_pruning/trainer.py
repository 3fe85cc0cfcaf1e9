"""One training loop: the network descends, the multipliers ascend; checkpoints within epochs and after each.

All randomness is a function of (seed, step) or (seed, epoch, index), so a resumed run repeats what it would have done,
and any number of processes (torchrun) draws the same gates.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hybrid_pruning import processes
from hybrid_pruning.artifact import versions
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.batches import Batch
from hybrid_pruning.checkpoint import FOLDER, find_latest, read_checkpoint, save_epoch, save_step
from hybrid_pruning.checks import check_after, check_before, print_warnings
from hybrid_pruning.config import Config, load_config, save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, remove_leftovers, require_new_folder
from hybrid_pruning.manifest import Utterance
from hybrid_pruning.model import Classes, SpeechModel, load_backbone
from hybrid_pruning.objective import Losses, Objective, build_objective
from hybrid_pruning.optimizers import Optimizers, learning_rate_factor
from hybrid_pruning.processes import FloatArray
from hybrid_pruning.pruning import scheduled_target
from hybrid_pruning.runlog import RunLog
from hybrid_pruning.skipped import Skipped
from hybrid_pruning.terminal import console, progress_bar
from hybrid_pruning.trainset import LABELS, TrainSet, read_set, read_trainset
from hybrid_pruning.validation import SCORES, validate, write_scores

CONFIG, ARCHITECTURE = "config.yaml", "architecture.json"
MAY_DIFFER: Any = {"corpus": True, "data": {"workers", "eval"}}
"""What a resumed run's recipe may say otherwise."""

LONGEST_CROP_SECONDS = 600


def train(config: Config, run: str | Path, resume: bool = False) -> Path:
    """Fine-tune a backbone with a fresh head and, where the recipe says so, prune it at the same time.

    Under torchrun every process calls this, and the main one writes.

    Args:
        config: the recipe.
        run: folder for configuration, log and checkpoints.
        resume: continue from the run's last checkpoint.

    Raises:
        InputError: data, folder or configuration that cannot be used; nothing is written before all are checked.
        PlanError: a target sparsity that the chosen units cannot reach.
    """
    processes.start()
    run = Path(run)
    processes.from_main(lambda: _check_run(run, config) if resume else require_new_folder(run))
    trainset, devset = processes.from_main(lambda: (read_trainset(config), read_set(config.data.dev, config.task)))
    torch.manual_seed(config.seed)  # fresh weights
    backbone = load_backbone(config.backbone.source, config.backbone.random)
    shortest = backbone.minimum_samples / SAMPLE_RATE_HZ
    if not shortest <= config.data.crop_seconds <= LONGEST_CROP_SECONDS:
        raise InputError(
            f"data.crop_seconds {config.data.crop_seconds:g}: expected {shortest:g} (one frame) to "
            f"{LONGEST_CROP_SECONDS} seconds"
        )
    counts = Counter(utterance.label for utterance in trainset)
    model = SpeechModel.build(backbone, config.head, Classes(LABELS, tuple(counts[label] for label in LABELS)))
    architecture = model.architecture()
    trainer = Trainer(config, build_objective(config, model), trainset, devset, run)
    try:
        if not (resume and trainer.resume()):
            processes.from_main(lambda: _write_run(run, config, architecture))
            trainer.start_log(
                processes.from_main(lambda: check_before(config, model, trainer.total_steps, trainset, devset))
            )
        trainer.fit()
    finally:
        trainer.close()
    return run


def read_run(run: str | Path) -> tuple[Config, SpeechModel]:
    """Return a run's recipe and its model, dense and with fresh weights.

    Raises:
        InputError: the folder is no run.
    """
    run = Path(run)
    try:
        model = SpeechModel.from_architecture(json.loads((run / ARCHITECTURE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run}: is no training run ({ARCHITECTURE} is missing or damaged)") from error
    return load_config(run / CONFIG), model


class Trainer:
    """The state of one training and the loop over it.

    Args:
        config: the recipe.
        objective: network, gates and multipliers.
        trainset: what to train on.
        devset: what to validate on after each epoch.
        run: the run's folder.
    """

    def __init__(
        self,
        config: Config,
        objective: Objective,
        trainset: Sequence[Utterance],
        devset: Sequence[Utterance],
        run: Path,
    ) -> None:
        self.config, self.trainset, self.devset, self.run = config, TrainSet(trainset, config), devset, run
        AcceleratorState._reset_state()  # else a second training in one process has the precision of the first
        self.accelerator = Accelerator(
            mixed_precision=config.training.mixed_precision,
            cpu=processes.count() > 1 and not torch.cuda.is_available(),  # else it takes no notice of gloo
        )
        self.objective = objective
        self.optimizers = Optimizers(objective, config.training, config.pruning.initial_reg_lr)
        self.wrapped: Any = self.accelerator.prepare(objective)
        self.skipped = Skipped(config.data, len(trainset))
        self.log: RunLog | None = None
        self.batches_per_epoch = self.trainset.batches_per_epoch
        self.total_steps = self.batches_per_epoch * config.training.epochs
        self.epoch = self.step = 0
        self._pace = Pace()

    def start_log(self, warnings: Sequence[str] = ()) -> None:
        """Open a new log and write what each optimiser was given, and what a person should know before."""
        self._open_log(lines=0)
        self._log({"groups": self.optimizers.describe_groups(), **_warn(warnings)})

    def resume(self) -> bool:
        """Take up the last checkpoint's state and forget what was logged after it; False where there is none.

        Raises:
            InputError: the checkpoints are all damaged, or of another model or number of processes.
        """
        path = processes.from_main(lambda: find_latest(self.run))
        if path is None:
            return False
        state = read_checkpoint(path)
        if state["processes"] != processes.count():
            raise InputError(
                f"{path}: was written by {state['processes']} processes, now there are {processes.count()}; "
                "resume with as many, or start a new run"
            )
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimizers.load_state_dict(state["optimizers"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path}: does not fit the model; is backbone.source another one by now?") from error
        self.epoch, self.step = state["epoch"], state["step"]
        self.skipped.add(state["skipped"])
        self._open_log(state["log_lines"])
        return True

    def fit(self) -> None:
        """Train from the current epoch to the last, validating and saving after each."""
        record: dict[str, Any] = {}
        with progress_bar("{task.fields[state]}") as bar:
            task = bar.add_task("training", total=self.total_steps, completed=self.step, state="")
            while self.epoch < self.config.training.epochs:
                self.wrapped.train()  # a loaded backbone, and a resumed run, come in evaluation mode
                self._pace.restart()
                done = self.step - self.epoch * self.batches_per_epoch  # a resumed run may stand within its epoch
                for batch in self.trainset.batches(self.epoch, done):
                    record = self._step(batch) or record
                    bar.update(task, completed=self.step, state=_state(record))
                    if self.step % self.config.training.checkpoint_steps == 0:
                        self._save(within_epoch=True)
                        self._pace.restart()
                self.epoch += 1
                self._validate()
                self._save()
        if self.skipped:
            self._log(self.skipped.record())
            console.print(self.skipped.explain(), soft_wrap=True, markup=False)
        processes.wait()  # nobody leaves before all is written

    def close(self) -> None:
        """Let go of the log's files."""
        if self.log is not None:
            self.log.close()

    def _step(self, batch: Batch) -> dict[str, Any] | None:
        """Take one optimiser step; return its record where it is one to log."""
        self.skipped.add(batch.skipped)
        self._set_learning_rates()
        target = self._target()
        logged = self.step == 0 or (self.step + 1) % self.config.training.log_every == 0
        sums, norms = self._accumulate(batch, target), self.optimizers.clip()
        if logged:
            norms |= self.optimizers.pruning_norms()
        losses, gradients = self._read_finite(sums, norms)
        self.optimizers.step()
        self.step += 1
        self._pace.add(batch.wave.numel() / SAMPLE_RATE_HZ)
        if not logged:
            return None
        record = {
            "epoch": self.epoch + 1,
            **self._averages(losses, batch),
            "learning_rate": self.optimizers.learning_rates(),
            "gradient_norm": gradients,
            **self._sparsity(target),
        }
        self._log(record)
        return record

    def _accumulate(self, batch: Batch, target: float) -> dict[str, torch.Tensor]:
        """Sum the gradients of a batch's micro-steps, each with gates of its own; return the losses by name."""
        parts = batch.split(self.config.training.accumulate)
        total: dict[str, torch.Tensor] = {}
        for index, part in enumerate(parts):
            torch.manual_seed(self._dropout_seed(index))
            share = len(part.wave) / len(batch.wave)
            # processes exchange their gradients once, with the last micro-step's
            with nullcontext() if index + 1 == len(parts) else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    losses: Losses = self.wrapped(part.to(self.accelerator.device), target)
                self.accelerator.backward(losses.total * share)
            for name, loss in losses.parts.items():
                total[name] = total.get(name, 0) + loss.detach() * share
        return total

    def _read_finite(self, *found: dict[str, torch.Tensor]) -> list[dict[str, float]]:
        """Return losses and gradient norms as numbers, or stop before a step that would spoil the weights.

        A loss is this process's own; gradients are those of all, so that all stop.
        """
        numbers = iter(torch.stack([value for part in found for value in part.values()]).tolist())  # one wait for a GPU
        read = [{name: next(numbers) for name in part} for part in found]
        for kind, part in zip(("loss", "gradient"), read, strict=True):
            for name, value in part.items():
                if not math.isfinite(value):
                    raise InputError(
                        f"{self.run}: the {name} {kind} is not finite at step {self.step + 1}; lower training.lr or "
                        f"training.clip_norm (a run resumes from its last checkpoint with --resume)"
                    )
        return read

    def _dropout_seed(self, index: int) -> int:
        """The seed of a micro-step, mixed into 32 bits: torch's CPU generator reads no more."""
        mixed = np.random.SeedSequence((self.config.seed, self.step, index, processes.rank()))
        return int(mixed.generate_state(1)[0])

    def _set_learning_rates(self) -> None:
        warmup = self.config.training.lr_warmup_epochs * self.batches_per_epoch
        factor = learning_rate_factor(self.config.training, self.step, self.total_steps, warmup)
        self.optimizers.set_learning_rates(factor)

    def _target(self) -> float:
        """The target sparsity of this step; the warm-up's last step has the final one exactly."""
        pruning = self.config.pruning
        warmup = pruning.sparsity_warmup_epochs * self.batches_per_epoch
        progress = self.step / (warmup - 1) if warmup > 1 else 1.0
        return scheduled_target(pruning.sparsity_schedule, progress, pruning.min_sparsity, pruning.target_sparsity)

    def _averages(self, losses: dict[str, float], batch: Batch) -> dict[str, Any]:
        """What every process has a share of: losses, padding and pace of the whole batch."""
        *means, padding, pace = processes.average([*losses.values(), batch.padding, self._pace.lap()])
        return {
            "loss": dict(zip(losses, means, strict=True)),
            "audio_seconds_per_second": pace * processes.count(),
            "padding": padding,
        }

    def _sparsity(self, target: float) -> dict[str, Any]:
        """The size that is expected and what evaluation keeps, each gate rounded on its own."""
        objective = self.objective
        if objective.gates is None or objective.lagrangian is None:
            return {}
        with torch.no_grad():
            expected = float(objective.expected_sparsity())
        kept = objective.gates.kept()
        exact = float(objective.gates.accounting.exact_kept(kept).removed(objective.constraint))
        return {
            "sparsity": {"expected": expected, "target": target, "exact": exact},
            "multipliers": {name: value.item() for name, value in objective.lagrangian.named_parameters()},
            "kept": {name: len(kept[name]) / gate.slot.size for name, gate in objective.gates.items()},
        }

    def _validate(self) -> None:
        """Measure, on the dev set, the model that would be exported now."""
        found = validate(self.objective, self.devset, self._target(), self.config)
        size = f", {found.figures['sparsity']:.1%} of the parameters removed" if found.opened else ""
        epochs = self.config.training.epochs
        console.print(f"epoch {self.epoch}/{epochs}: dev EER {found.figures['eer']:.2%}{size}")
        warnings = self._look_back(found.scores) if self.epoch == epochs else []
        self._log({"epoch": self.epoch, **found.record(), **_warn(warnings)})
        if self.log is not None:
            write_scores(self.run / SCORES, self.devset, found.scores)

    def _look_back(self, scores: FloatArray) -> list[str]:
        """Return what a person should know after the training."""
        pruned = self.objective.gates is not None
        expected = float(self.objective.expected_sparsity().detach()) if pruned else None
        return check_after(scores, self.devset, expected, self._target())

    def _open_log(self, lines: int) -> None:
        if processes.is_main():
            self.log = RunLog(self.run, lines, self.step)

    def _log(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(self.step, record)

    def _save(self, within_epoch: bool = False) -> None:
        """Write all that a resumed run needs: schedules, order and randomness follow from epoch and step."""
        self.skipped.join()
        if self.log is None:
            return
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "skipped": self.skipped.messages(),
            "log_lines": self.log.lines,
            "processes": processes.count(),
            "versions": versions(),
        }
        keep = self.config.training.keep_checkpoints
        if within_epoch:
            save_step(self.run, self.step, state, keep)
        else:
            save_epoch(self.run, self.epoch, state, keep)


class Pace:
    """How much audio is trained on in a second of wall clock, waiting for data included."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, after something that is no training."""
        self.seconds, self.started = 0.0, time.perf_counter()

    def add(self, seconds: float) -> None:
        """Note the audio of one step."""
        self.seconds += seconds

    def lap(self) -> float:
        """Return the audio seconds per second since the last lap."""
        pace = self.seconds / (time.perf_counter() - self.started)
        self.restart()
        return pace


def _check_run(run: Path, config: Config) -> None:
    """Refuse to resume what is no run, or one of another recipe."""
    try:
        there = (run / CONFIG).exists()
    except OSError as error:
        raise InputError(f"{run}: cannot be read ({error.strerror}); check its permissions") from error
    if not there:
        raise InputError(f"{run}: is no training run ({CONFIG} is missing)")
    if load_config(run / CONFIG).model_dump(exclude=MAY_DIFFER) != config.model_dump(exclude=MAY_DIFFER):
        raise InputError(f"{run / CONFIG}: differs from the recipe given; resume with the run's own")
    if (run / FOLDER).exists():  # a run killed before its first checkpoint begins again
        read_run(run)
    remove_leftovers(run)


def _write_run(run: Path, config: Config, architecture: dict[str, Any]) -> None:
    save_config(config, run / CONFIG)
    with atomic_write(run / ARCHITECTURE) as handle:
        json.dump(architecture, handle, indent=1)


def _warn(lines: Sequence[str]) -> dict[str, Any]:
    """Print warnings and return the part of a record that keeps them; nothing where there are none."""
    print_warnings(lines)
    return {"warnings": list(lines)} if lines else {}


def _state(record: dict[str, Any]) -> str:
    """What stands beside the progress bar: what was logged last."""
    if not record:
        return ""
    loss, sparsity = f"loss {record['loss']['task']:.3f}", record.get("sparsity")
    return f"{loss}, sparsity {sparsity['expected']:.1%} of {sparsity['target']:.1%}" if sparsity else loss
