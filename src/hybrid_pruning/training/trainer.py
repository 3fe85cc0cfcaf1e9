"""One training loop: the network descends, the multipliers ascend; checkpoints within epochs and after each."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import Config, DataConfig, listed
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.trainset import TrainSet
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import versions
from hybrid_pruning.pruning import Growth
from hybrid_pruning.training.objective import (
    Objective,
    Optimizers,
    learning_rate_factor,
    margin_share,
    sum_losses,
    target_growth,
)
from hybrid_pruning.training.runs import EPOCH, STEP, Run, RunLog, read_checkpoint, snapshot_name, write_state
from hybrid_pruning.training.validation import DevTrials, Validation, validate, write_scores
from hybrid_pruning.training.warnings import check_after, check_sparsity, print_warnings

SHOWN = 10
"""Unreadable files that are reported by name."""


class Trainer:
    """The state of one training and the loop over it; `trials` are over the dev set, for speaker verification."""

    def __init__(
        self,
        config: Config,
        objective: Objective,
        trainset: Sequence[Utterance],
        devset: Sequence[Utterance],
        run: Run,
        trials: DevTrials | None = None,
    ) -> None:
        self.config, self.trainset, self.devset, self.run = config, TrainSet(trainset, config), devset, run
        self.trials, self.device = trials, find_device()
        self.objective = objective.to(self.device)
        self.optimizers = Optimizers(objective, config.training, config.pruning.initial_reg_lr)
        self.wrapped: Any = objective
        if processes.count() > 1:
            self.wrapped = DistributedDataParallel(objective, None if self.device.type == "cpu" else [self.device])
        self.skipped = Skipped(config.data, len(trainset))
        self.log: RunLog | None = None
        self.batches_per_epoch = self.trainset.batches_per_epoch
        self.total_steps = self.batches_per_epoch * config.training.epochs
        self.frozen_steps = min(round(config.pruning.freeze_epochs * self.batches_per_epoch), self.total_steps // 2)
        self.growth = target_growth(config.pruning, self.batches_per_epoch)
        self.snapshots_due = snapshots_due(self.growth, self.total_steps)
        self.epoch = self.step = 0
        self._restart_clock()

    def start_log(self, warnings: Sequence[str] = ()) -> None:
        """Open a new log and write the optimisers' groups and the warnings before the training."""
        self._open_log()
        self._log({"groups": self.optimizers.describe_groups()}, warnings)

    def resume(self) -> bool:
        """Take up the last checkpoint's state and drop what was logged after it; False where there is none."""
        path = processes.from_main(self.run.find_latest)
        if path is None:
            return False
        state = read_checkpoint(path)
        if state["processes"] != processes.count():
            raise InputError(
                f"{path}: was written by {state['processes']} processes, now there are {processes.count()}; "
                "resume with as many, or start a new run"
            )
        if state.get("classes", []) != self._class_names():
            raise InputError(f"{path}: was trained on other speakers; has {listed(self.config.data.train)} changed?")
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
                self._restart_clock()
                done = self.step - self.epoch * self.batches_per_epoch  # a resumed run may stand within its epoch
                for batch in self.trainset.batches(self.epoch, done):
                    record = self._step(batch) or record
                    bar.update(task, completed=self.step, state=_progress(record))
                    self._save_snapshots()
                    if self.step % self.config.training.checkpoint_steps == 0:
                        self._save(STEP, self.step)
                        self._restart_clock()
                self.epoch += 1
                self._end_epoch()
                self._save(EPOCH, self.epoch)
        if self.skipped.messages:
            self._log(self.skipped.report())
        processes.wait()  # no process leaves before all is written

    def close(self) -> None:
        """Close the log's files."""
        if self.log is not None:
            self.log.close()

    def _step(self, batch: Batch) -> dict[str, Any] | None:
        """Take one optimiser step; return its record where it is one to log."""
        training, target = self.config.training, self.growth.target(self.step)
        self.skipped.add(batch.skipped)
        warmup, rested = training.lr_warmup_epochs * self.batches_per_epoch, self.growth.rested(self.step)
        factor = learning_rate_factor(training, self.step, self.total_steps, warmup, rested)
        still = self.config.pruning.gated and self.config.pruning.method == "post-hoc"
        self.optimizers.set_learning_rates(0.0 if still else factor)
        logged = self.step == 0 or (self.step + 1) % training.log_every == 0
        sums = self._accumulate(batch, target)
        of_pruning = self.optimizers.pruning_norms() if logged else {}  # before the gates may be clipped
        norms = self.optimizers.clip() | of_pruning
        losses, gradients = self._read_finite(sums, norms)
        self.optimizers.step(frozen=self.step >= self.total_steps - self.frozen_steps)
        self.objective.meet(target)
        self.step += 1
        self._audio_seconds += batch.wave.numel() / SAMPLE_RATE_HZ
        if not logged:
            return None
        rates = {"learning_rate": self.optimizers.learning_rates(), "gradient_norm": gradients}
        record = {"epoch": self.epoch + 1, **self._averages(losses, batch), **rates, **self._sparsity(target)}
        self._log(record)
        return record

    def _accumulate(self, batch: Batch, target: float) -> dict[str, torch.Tensor]:
        """Sum the gradients of a batch's micro-steps, each with gates of its own; return the losses by name."""
        margin = margin_share(self.config.objective, self.step, self.batches_per_epoch)
        parts = batch.split(self.config.training.accumulate)
        bf16 = self.config.training.mixed_precision == "bf16"
        total: dict[str, torch.Tensor] = {}
        for index, part in enumerate(parts):
            # mixed into 32 bits: torch's CPU generator reads no more of a seed
            seed = np.random.SeedSequence((self.config.seed, self.step, index, processes.rank()))
            torch.manual_seed(int(seed.generate_state(1)[0]))
            share = len(part.wave) / len(batch.wave)
            # processes exchange their gradients once, with the last micro-step's
            alone = index + 1 < len(parts) and processes.count() > 1
            with self.wrapped.no_sync() if alone else nullcontext():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    losses = self.wrapped(part.to(self.device), target, margin)
                (sum_losses(losses) * share).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + loss.detach() * share
        return total

    def _read_finite(
        self, losses: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return losses and gradient norms as numbers, or stop before a step that would spoil the weights.

        A loss is this process's own; gradients are those of all, so that all stop.
        """
        names = [f"{name} loss" for name in losses] + [f"{name} gradient" for name in gradients]
        numbers = torch.stack([*losses.values(), *gradients.values()]).tolist()  # one wait for a GPU
        for name, number in zip(names, numbers, strict=True):
            if not math.isfinite(number):
                raise InputError(
                    f"{self.run.folder}: the {name} is not finite at step {self.step + 1}; lower training.lr or "
                    "training.clip_norm (a run resumes from its last checkpoint with --resume)"
                )
        read = iter(numbers)
        return {name: next(read) for name in losses}, {name: next(read) for name in gradients}

    def _averages(self, losses: dict[str, float], batch: Batch) -> dict[str, Any]:
        """Return means over the processes: losses, padding, and the throughput since the last record."""
        throughput = self._audio_seconds / (time.perf_counter() - self._started)
        self._restart_clock()
        *means, padding, throughput = processes.average([*losses.values(), batch.padding, throughput])
        return {
            "loss": dict(zip(losses, means, strict=True)),
            "audio_seconds_per_second": throughput * processes.count(),
            "padding": padding,
        }

    def _restart_clock(self) -> None:
        """Begin to measure throughput anew, after something that is no training."""
        self._audio_seconds, self._started = 0.0, time.perf_counter()

    def _sparsity(self, target: float) -> dict[str, Any]:
        """Return the expected size, counted both ways, and the units that evaluation keeps, each gate rounded alone."""
        objective = self.objective
        gates = objective.gates
        if gates is None:
            return {}
        with torch.no_grad():
            size = gates.budget()
        removed = {"params": float(size.sparsity), "macs": float(size.macs_sparsity)}
        kept = gates.kept()
        exact = float(gates.accounting.exact_kept(kept).removed(objective.constraint))
        named = () if objective.lagrangian is None else objective.lagrangian.named_parameters()
        multipliers = {name: value.item() for name, value in named}
        return {
            "sparsity": {"expected": removed[objective.constraint], "target": target, "exact": exact},
            "removed": removed,
            **({"multipliers": multipliers} if multipliers else {}),
            "kept": {name: len(kept[name]) / gate.slot.size for name, gate in gates.items()},
        }

    def _save_snapshots(self) -> None:
        """Write the snapshots that are due after this step, and measure them on the dev set."""
        for sparsity in self.snapshots_due.get(self.step, ()):
            name = snapshot_name(sparsity)
            found = self._validate(f"snapshot {name}", sparsity)
            expected = float(self.objective.expected_sparsity().detach())
            figures = {"name": name, "target": sparsity, "expected": expected, **found.figures}
            warnings = check_sparsity(expected, sparsity, f"at {name}")
            self._log({"epoch": self.epoch, "snapshot": figures}, warnings)
            if self.log is not None:
                write_state(self.run.snapshot(sparsity), {"target": sparsity, **self._state()})
            self.wrapped.train()
            self._restart_clock()

    def _end_epoch(self) -> None:
        """Measure, on the dev set, the model that would be exported now, and write its scores."""
        target, epochs = self.growth.target(self.step), self.config.training.epochs
        found = self._validate(f"epoch {self.epoch}/{epochs}", target)
        warnings: list[str] = []
        if self.epoch == epochs:
            gated = self.objective.gates is not None
            expected = float(self.objective.expected_sparsity().detach()) if gated else None
            warnings = check_after(found.scores, found.positive, self.config.task, expected, target)
        self._log({"epoch": self.epoch, **found.record()}, warnings)
        if self.log is not None:
            write_scores(self.run.dev_scores, self.devset, found.scores, self.trials)

    def _validate(self, title: str, target: float) -> Validation:
        """Measure the model cut to a target, and print its metrics and, where there are gates, the sizes removed."""
        processes.share_tensors(self.objective.buffers())  # a batch norm's statistics are each process's own
        found = validate(self.objective, self.devset, target, self.config, self.trials)
        line = "{}: dev EER {eer:.2%}"
        if found.corpora:
            rates = {**found.corpora, "mean": found.figures["mean_eer"]}
            line += f" ({', '.join(f'{name} {rate:.2%}' for name, rate in rates.items())})"
        if "sparsity" in found.figures:
            line += ", {sparsity:.1%} of the parameters and {macs_sparsity:.1%} of the MACs removed"
        if found.closed:
            line += f", closed: {' '.join(found.closed)}"
        say(line.format(title, **found.figures))
        return found

    def _class_names(self) -> list[str]:
        """Return the speakers that the objective has weights for, in their order."""
        return [] if self.objective.margin is None else list(self.trainset.classes)

    def _open_log(self, lines: int = 0) -> None:
        if processes.is_main():
            self.log = RunLog(self.run, lines, self.step)

    def _log(self, record: Mapping[str, Any], warnings: Sequence[str] = ()) -> None:
        """Print warnings, and write a record that keeps them."""
        print_warnings(warnings)
        if self.log is not None:
            self.log.write(self.step, {**record, "warnings": list(warnings)} if warnings else record)

    def _save(self, kind: str, number: int) -> None:
        """Write all that a resumed run needs: schedules, order and randomness follow from epoch and step."""
        self.skipped.join()
        if self.log is None:
            return
        state = {
            **self._state(),
            "optimizers": self.optimizers.state_dict(),
            "skipped": self.skipped.messages,
            "log_lines": self.log.lines,
            "processes": processes.count(),
            **({"classes": names} if (names := self._class_names()) else {}),
        }
        self.run.save_checkpoint(kind, number, state, self.config.training.keep_checkpoints)

    def _state(self) -> dict[str, Any]:
        """Return all that an export needs."""
        objective = self.objective.state_dict()
        return {"epoch": self.epoch, "step": self.step, "objective": objective, "versions": versions()}


class Skipped:
    """The distinct files, of a total, that could not be read and were replaced by others: a message for each."""

    def __init__(self, data: DataConfig, total: int) -> None:
        self.data, self.total = data, total
        self._by_path: dict[str, str] = {}

    @property
    def messages(self) -> list[str]:
        """One line for each file, in the order they were met."""
        return list(self._by_path.values())

    def add(self, messages: Iterable[str]) -> None:
        """Add files by their one-line messages, which begin with the path; refuse more than the recipe allows."""
        for message in messages:
            self._by_path.setdefault(message.partition(": ")[0], message)
        limit = max(1, int(self.data.skip_limit * self.total))
        if len(self._by_path) > limit:
            raise InputError(
                f"{listed(self.data.train)}: {len(self._by_path)} of {self.total} training files cannot be read, "
                f"data.skip_limit {self.data.skip_limit:g} allows {limit}; mend or remove them, the last: "
                f"{self.messages[-1]}"
            )

    def join(self) -> None:
        """Add the files of the other processes."""
        self.add(processes.join_lists(self.messages))

    def report(self) -> dict[str, Any]:
        """Print their number and the first of them, and return both as a record for the log."""
        files, first = len(self._by_path), self.messages[:SHOWN]
        say(f"{files} of {self.total} training files could not be read and were replaced by others:")
        for line in first:
            say(f"  {line}")
        if files > SHOWN:
            say(f"  and {files - SHOWN} more")
        return {"skipped": {"files": files, "first": first}}


def find_device() -> torch.device:
    """Return the device of this process: its GPU, Apple's for a process alone, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if processes.count() == 1 and torch.backends.mps.is_available() else "cpu")


def snapshots_due(growth: Growth, total_steps: int) -> dict[int, list[float]]:
    """Return the sparsities of the snapshots by the number of steps after which they are due."""
    due: dict[int, list[float]] = {}
    for sparsity, step in zip(growth.points, growth.last_steps(), strict=True):
        if not 0 < step <= total_steps:
            raise InputError(
                f"pruning.export_at {sparsity:g}: the target passes it after step {step} of {total_steps}; "
                f"{'lengthen' if step < 1 else 'shorten'} pruning.sparsity_warmup_epochs or "
                "pruning.export_hold_epochs, or train longer"
            )
        due.setdefault(step, []).append(sparsity)
    return due


def _progress(record: dict[str, Any]) -> str:
    """Return the text beside the progress bar, of the last record."""
    if not record:
        return ""
    loss, sparsity = f"loss {record['loss']['task']:.3f}", record.get("sparsity")
    return f"{loss}, sparsity {sparsity['expected']:.1%} of {sparsity['target']:.1%}" if sparsity else loss
