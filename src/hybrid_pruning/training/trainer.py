"""One training loop: the network descends, the multipliers ascend; checkpoints within epochs and after each.

All randomness is a function of (seed, step) or (seed, epoch, index), so a resumed run repeats what it would have done,
and any number of processes (torchrun) draws the same gates.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import Config
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.trainset import TrainSet
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import versions
from hybrid_pruning.training.checkpoints import find_latest, read_checkpoint, save_epoch, save_snapshot, save_step
from hybrid_pruning.training.log import RunLog
from hybrid_pruning.training.objective import Losses, Objective
from hybrid_pruning.training.optimizers import Optimizers, annealed, learning_rate_factor
from hybrid_pruning.training.pace import Pace
from hybrid_pruning.training.skipped import Skipped
from hybrid_pruning.training.snapshots import growth, member_name, snapshots_due
from hybrid_pruning.training.validation import SCORES, DevTrials, Validation, validate, write_scores
from hybrid_pruning.training.warnings import check_after, check_sparsity, print_warnings


class Trainer:
    """The state of one training and the loop over it.

    Args:
        config: the recipe.
        objective: network, gates and multipliers.
        trainset: what to train on.
        devset: what to validate on after each epoch.
        run: the run's folder.
        trials: over the dev set, for speaker verification.
    """

    def __init__(
        self,
        config: Config,
        objective: Objective,
        trainset: Sequence[Utterance],
        devset: Sequence[Utterance],
        run: Path,
        trials: DevTrials | None = None,
    ) -> None:
        self.config, self.trainset, self.devset, self.run = config, TrainSet(trainset, config), devset, run
        self.trials = trials
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
        self.growth = growth(config.pruning, self.batches_per_epoch)
        self.snapshots_due = snapshots_due(self.growth, self.total_steps)
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
        if state.get("classes", []) != self._class_names():
            raise InputError(f"{path}: was trained on other speakers; has {self.config.data.train} changed?")
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
                    self._save_snapshots()
                    if self.step % self.config.training.checkpoint_steps == 0:
                        self._save(within_epoch=True)
                        self._pace.restart()
                self.epoch += 1
                self._validate()
                self._save()
        if self.skipped:
            self._log(self.skipped.record())
            for line in self.skipped.explain():
                say(line)
        processes.wait()  # nobody leaves before all is written

    def close(self) -> None:
        """Let go of the log's files."""
        if self.log is not None:
            self.log.close()

    def _step(self, batch: Batch) -> dict[str, Any] | None:
        """Take one optimiser step; return its record where it is one to log."""
        self.skipped.add(batch.skipped)
        self._set_learning_rates()
        target, margin = self._target(), self._margin_share()
        logged = self.step == 0 or (self.step + 1) % self.config.training.log_every == 0
        sums, norms = self._accumulate(batch, target, margin), self.optimizers.clip()
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

    def _accumulate(self, batch: Batch, target: float, margin: float) -> dict[str, torch.Tensor]:
        """Sum the gradients of a batch's micro-steps, each with gates of its own; return the losses by name."""
        parts = batch.split(self.config.training.accumulate)
        total: dict[str, torch.Tensor] = {}
        for index, part in enumerate(parts):
            torch.manual_seed(self._dropout_seed(index))
            share = len(part.wave) / len(batch.wave)
            # processes exchange their gradients once, with the last micro-step's
            with nullcontext() if index + 1 == len(parts) else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    losses: Losses = self.wrapped(part.to(self.accelerator.device), target, margin)
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
        self.optimizers.set_learning_rates(annealed(self.config.training, factor, self.growth.rested(self.step)))

    def _target(self) -> float:
        """The target sparsity of this step."""
        return self.growth.target(self.step)

    def _margin_share(self) -> float:
        """The part of the margins that counts at this step: linear, and all of it from the warm-up's last step on."""
        warmup = self.config.objective.margin_warmup_epochs * self.batches_per_epoch
        return min(1.0, self.step / (warmup - 1)) if warmup > 1 else 1.0

    def _averages(self, losses: dict[str, float], batch: Batch) -> dict[str, Any]:
        """What every process has a share of: losses, padding and pace of the whole batch."""
        *means, padding, pace = processes.average([*losses.values(), batch.padding, self._pace.lap()])
        return {
            "loss": dict(zip(losses, means, strict=True)),
            "audio_seconds_per_second": pace * processes.count(),
            "padding": padding,
        }

    def _sparsity(self, target: float) -> dict[str, Any]:
        """The size that is expected, counted both ways, and what evaluation keeps, each gate rounded on its own."""
        objective = self.objective
        if objective.gates is None or objective.lagrangian is None:
            return {}
        with torch.no_grad():
            size = objective.gates.budget()
        removed = {"params": float(size.sparsity), "macs": float(size.macs_sparsity)}
        kept = objective.gates.kept()
        exact = float(objective.gates.accounting.exact_kept(kept).removed(objective.constraint))
        return {
            "sparsity": {"expected": removed[objective.constraint], "target": target, "exact": exact},
            "removed": removed,
            "multipliers": {name: value.item() for name, value in objective.lagrangian.named_parameters()},
            "kept": {name: len(kept[name]) / gate.slot.size for name, gate in objective.gates.items()},
        }

    def _save_snapshots(self) -> None:
        """Write the members of the family that are due after this step, and measure them on the dev set."""
        for point in self.snapshots_due.get(self.step, ()):
            name = member_name(point)
            found = validate(self.objective, self.devset, point, self.config, self.trials)
            _tell(f"snapshot {name}", found.figures)
            expected = float(self.objective.expected_sparsity().detach())
            figures = {"name": name, "target": point, "expected": expected, **found.figures}
            self._log(
                {"epoch": self.epoch, "snapshot": figures, **_warn(check_sparsity(expected, point, f"at {name}"))}
            )
            if self.log is not None:
                save_snapshot(self.run, name, {"target": point, **self._state()})
            self.wrapped.train()
            self._pace.restart()

    def _validate(self) -> None:
        """Measure, on the dev set, the model that would be exported now."""
        found = validate(self.objective, self.devset, self._target(), self.config, self.trials)
        epochs = self.config.training.epochs
        _tell(f"epoch {self.epoch}/{epochs}", found.figures)
        warnings = self._look_back(found) if self.epoch == epochs else []
        self._log({"epoch": self.epoch, **found.record(), **_warn(warnings)})
        if self.log is not None:
            write_scores(self.run / SCORES, self.devset, found.scores, self.trials)

    def _look_back(self, found: Validation) -> list[str]:
        """Return what a person should know after the training."""
        pruned = self.objective.gates is not None
        expected = float(self.objective.expected_sparsity().detach()) if pruned else None
        return check_after(found.scores, found.positive, self.config.task, expected, self._target())

    def _class_names(self) -> list[str]:
        """The speakers that the objective has weights for, in their order."""
        return [] if self.objective.margin is None else list(self.trainset.classes)

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
            **self._state(),
            "optimizers": self.optimizers.state_dict(),
            "skipped": self.skipped.messages(),
            "log_lines": self.log.lines,
            "processes": processes.count(),
            **({"classes": names} if (names := self._class_names()) else {}),
        }
        save, number = (save_step, self.step) if within_epoch else (save_epoch, self.epoch)
        save(self.run, number, state, self.config.training.keep_checkpoints)

    def _state(self) -> dict[str, Any]:
        """What an export needs."""
        objective = self.objective.state_dict()
        return {"epoch": self.epoch, "step": self.step, "objective": objective, "versions": versions()}


def _warn(lines: Sequence[str]) -> dict[str, Any]:
    """Print warnings and return the part of a record that keeps them; nothing where there are none."""
    print_warnings(lines)
    return {"warnings": list(lines)} if lines else {}


def _tell(what: str, figures: dict[str, float]) -> None:
    """Print what a validation found, and where there are gates what the model would be smaller by."""
    line = f"{what}: dev EER {figures['eer']:.2%}"
    if "sparsity" in figures:
        line += f", {figures['sparsity']:.1%} of the parameters and {figures['macs_sparsity']:.1%} of the MACs removed"
    say(line)


def _state(record: dict[str, Any]) -> str:
    """What stands beside the progress bar: what was logged last."""
    if not record:
        return ""
    loss, sparsity = f"loss {record['loss']['task']:.3f}", record.get("sparsity")
    return f"{loss}, sparsity {sparsity['expected']:.1%} of {sparsity['target']:.1%}" if sparsity else loss
