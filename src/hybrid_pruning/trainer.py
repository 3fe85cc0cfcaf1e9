"""One training loop: the network descends, the multipliers ascend; checkpoints within epochs and after each.

All randomness is a function of (seed, step) or (seed, epoch, index), so a resumed run repeats what it would have done.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from hybrid_pruning.artifact import versions
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.batches import Batch, Crops, by_recording, load_batches
from hybrid_pruning.checkpoint import latest_state, save_epoch, save_within_epoch
from hybrid_pruning.config import Config, PruningConfig, TrainingConfig, load_config, save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, require_new_folder
from hybrid_pruning.manifest import Label, Utterance, read_manifest
from hybrid_pruning.metrics import eer
from hybrid_pruning.model import Classes, SpeechModel, load_backbone
from hybrid_pruning.objective import Losses, Objective
from hybrid_pruning.pruning import Lagrangian, attach, check_target, scheduled_target
from hybrid_pruning.scoring import score_utterances
from hybrid_pruning.terminal import console, progress_bar

CONFIG, ARCHITECTURE, LOG = "config.yaml", "architecture.json", "log.jsonl"
LABELS = (Label.SPOOF, Label.BONAFIDE)

LONGEST_CROP_SECONDS = 600


def train(config: Config, run: str | Path, resume: bool = False) -> Path:
    """Fine-tune a backbone with a fresh head and, where the recipe says so, prune it at the same time.

    Args:
        config: the recipe.
        run: folder for configuration, log and checkpoints.
        resume: continue from the run's last checkpoint.

    Raises:
        InputError: data, folder or configuration that cannot be used; nothing is written before all are checked.
        PlanError: a target sparsity that the chosen units cannot reach.
    """
    run = Path(run) if resume else require_new_folder(run)
    trainset, devset = _read_set(config.data.train), _read_set(config.data.dev)
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
    objective = build_objective(config, model)
    trainer = Trainer(config, objective, trainset, devset, run)
    if resume:
        trainer.resume()
    else:
        save_config(config, run / CONFIG)
        with atomic_write(run / ARCHITECTURE) as handle:
            json.dump(architecture, handle, indent=1)
        trainer.log_groups()
    trainer.fit()
    return run


def build_objective(config: Config, model: SpeechModel) -> Objective:
    """Put gates on a model's backbone where the recipe prunes, and join it with its losses.

    Raises:
        PlanError: a target sparsity that the chosen units cannot reach.
    """
    model.backbone.gradient_checkpointing = config.backbone.gradient_checkpointing
    pruning = config.pruning
    if not pruning.use_pruning_loss:
        return Objective(model)
    gates = attach(
        model.backbone, pruning.units, drop_rate=_rates(pruning), seed=config.seed, seconds=pruning.macs_seconds
    )
    check_target(gates.accounting, pruning.target_sparsity, pruning.constraint)
    return Objective(model, gates, Lagrangian(pruning.clamp_lambda1), pruning.constraint)


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
        self.config, self.trainset, self.devset, self.run = config, trainset, devset, run
        self.accelerator = Accelerator(mixed_precision=config.training.mixed_precision)
        self.network = network_optimizer(objective.model, config.training)
        self.pruning = pruning_optimizer(objective, config.pruning.initial_reg_lr)
        self.objective = objective
        self.wrapped, self.network = self.accelerator.prepare(objective, self.network)
        if self.pruning is not None:
            self.pruning = self.accelerator.prepare(self.pruning)
        self.batches_per_epoch = len(self._addresses(0))
        self.total_steps = self.batches_per_epoch * config.training.epochs
        self.epoch = self.step = 0

    def fit(self) -> None:
        """Train from the current epoch to the last, validating and saving after each."""
        with progress_bar("{task.fields[state]}") as bar:
            task = bar.add_task("training", total=self.total_steps, completed=self.step, state="")
            while self.epoch < self.config.training.epochs:
                self.objective.train()  # a loaded backbone, and a resumed run, come in evaluation mode
                for batch in self._batches():
                    record = self._step(batch)
                    bar.update(task, completed=self.step, state=_state(record))
                    if self.step % self.config.training.checkpoint_steps == 0:
                        self._save(within_epoch=True)
                self.epoch += 1
                self._log({"epoch": self.epoch, "dev": self._validate()})
                self._save()

    def log_groups(self) -> None:
        """Log what each optimiser was given: its named groups with their sizes, peak rates and weight decay."""
        groups = [
            {
                "name": group["name"],
                "parameters": sum(parameter.numel() for parameter in group["params"]),
                "peak_learning_rate": group.get("peak_lr", group["lr"]),
                "weight_decay": group["weight_decay"],
            }
            for optimizer in self._optimizers().values()
            for group in optimizer.param_groups
        ]
        self._log({"groups": groups})

    def resume(self) -> None:
        """Take up the last checkpoint's state, if there is one, and forget what was logged after it.

        Raises:
            InputError: the folder holds no run, or its recipe is another one.
        """
        config, _ = read_run(self.run)
        if config.model_dump(exclude={"data": {"workers"}}) != self.config.model_dump(exclude={"data": {"workers"}}):
            raise InputError(f"{self.run / CONFIG}: differs from the recipe given; resume with the run's own")
        state = latest_state(self.run)
        if state is not None:
            self.objective.load_state_dict(state["objective"])
            for name, optimizer in self._optimizers().items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.epoch, self.step = state["epoch"], state["step"]
        _truncate_log(self.run / LOG, self.step)

    def _step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimiser step and return what is worth logging."""
        started = time.perf_counter()
        rates = self._set_learning_rates()
        target = self._target()
        losses = self._accumulate(batch, target)
        norm = self.accelerator.clip_grad_norm_(_trainable(self.objective.model), self.config.training.clip_norm)
        for optimizer in self._optimizers().values():
            optimizer.step()
            optimizer.zero_grad()
        if self.objective.lagrangian is not None:
            self.objective.lagrangian.project()
        self.step += 1
        record = {
            "step": self.step,
            "epoch": self.epoch + 1,
            "loss": losses,
            "learning_rate": rates,
            "gradient_norm": float(norm),
            "audio_seconds_per_second": batch.wave.numel() / SAMPLE_RATE_HZ / (time.perf_counter() - started),
            **self._sparsity(target),
        }
        if self.step % self.config.training.log_every == 0 or self.step == 1:
            self._log(record)
        return record

    def _accumulate(self, batch: Batch, target: float) -> dict[str, float]:
        """Sum the gradients of a batch's micro-steps; each draws its own gates."""
        parts = batch.split(self.config.training.accumulate)
        total: Counter[str] = Counter()
        for index, part in enumerate(parts):
            torch.manual_seed(self._dropout_seed(index))
            share = len(part.wave) / len(batch.wave)
            with self.accelerator.autocast():
                losses: Losses = self.wrapped(part.to(self.accelerator.device), target)
            self.accelerator.backward(losses.total * share)
            total.update({name: float(loss.detach()) * share for name, loss in losses.parts.items()})
        for name, loss in total.items():
            if not np.isfinite(loss):
                raise InputError(
                    f"{self.run}: the {name} loss is not finite at step {self.step + 1}; lower training.lr or "
                    f"training.clip_norm (a run resumes from its last checkpoint with --resume)"
                )
        return dict(total)

    def _dropout_seed(self, index: int) -> int:
        """The seed of a micro-step, mixed into 32 bits: torch's CPU generator reads no more."""
        mixed = np.random.SeedSequence((self.config.seed, self.step, index, self.accelerator.process_index))
        return int(mixed.generate_state(1)[0])

    def _set_learning_rates(self) -> dict[str, float]:
        warmup = self.config.training.lr_warmup_epochs * self.batches_per_epoch
        factor = learning_rate_factor(self.config.training, self.step, self.total_steps, warmup)
        for group in self.network.param_groups:
            group["lr"] = group["peak_lr"] * factor
        groups = [group for optimizer in self._optimizers().values() for group in optimizer.param_groups]
        return {group["name"]: group["lr"] for group in groups}

    def _target(self) -> float:
        """The target sparsity of this step; the warm-up's last step has the final one exactly."""
        pruning = self.config.pruning
        warmup = pruning.sparsity_warmup_epochs * self.batches_per_epoch
        progress = self.step / (warmup - 1) if warmup > 1 else 1.0
        return scheduled_target(pruning.sparsity_schedule, progress, pruning.min_sparsity, pruning.target_sparsity)

    def _sparsity(self, target: float) -> dict[str, Any]:
        if self.objective.lagrangian is None:
            return {}
        multipliers = {name: value.item() for name, value in self.objective.lagrangian.named_parameters()}
        with torch.no_grad():
            expected = float(self.objective.expected_sparsity())
        return {"sparsity": {"expected": expected, "target": target}, "multipliers": multipliers}

    def _validate(self) -> dict[str, float]:
        """Return the dev set's EER, of the model that would be exported now."""
        objective, gates = self.objective, self.objective.gates
        found: dict[str, float] = {}
        if gates is not None:
            kept = gates.kept(self._target(), objective.constraint)
            gates.pin(kept)
            found["sparsity"] = float(gates.accounting.exact_kept(kept).removed(objective.constraint))
        scores = score_utterances(
            objective.model, self.devset, self.config.training.batch_size, self.config.data.workers
        )
        if gates is not None:
            gates.pin(None)
        bonafide = np.array([utterance.label == Label.BONAFIDE for utterance in self.devset])
        found["eer"] = eer(scores[bonafide], scores[~bonafide])
        size = f", {found['sparsity']:.1%} removed" if "sparsity" in found else ""
        console.print(f"epoch {self.epoch}/{self.config.training.epochs}: dev EER {found['eer']:.2%}{size}")
        return found

    def _batches(self) -> Iterator[Batch]:
        samples = round(self.config.data.crop_seconds * SAMPLE_RATE_HZ)
        targets = [LABELS.index(utterance.label) for utterance in self.trainset]
        crops = Crops(self.trainset, targets, samples, self.config.seed)
        done = self.step - self.epoch * self.batches_per_epoch  # a resumed run may stand within its epoch
        return load_batches(crops, self._addresses(self.epoch)[done:], self.config.data.workers)

    def _addresses(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The (epoch, index) pairs of this process's share of each batch; an incomplete last batch is left out."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        groups = by_recording(self.trainset)
        shuffled = np.random.default_rng((self.config.seed, epoch)).permutation(len(groups))
        order = [index for group in shuffled for index in groups[group]]
        size = min(self.config.training.batch_size * ranks, len(order))
        starts = range(0, len(order) - size + 1, size)
        return [[(epoch, index) for index in order[start : start + size][rank::ranks]] for start in starts]

    def _optimizers(self) -> dict[str, Any]:
        return {"network": self.network} | ({} if self.pruning is None else {"pruning": self.pruning})

    def _log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.run / LOG).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": self.step, **record}) + "\n")

    def _save(self, within_epoch: bool = False) -> None:
        if self.accelerator.is_main_process:
            state = {
                "epoch": self.epoch,
                "step": self.step,
                "objective": self.objective.state_dict(),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
                "versions": versions(),
            }
            if within_epoch:
                save_within_epoch(self.run, state)
            else:
                save_epoch(self.run, self.epoch, state, self.config.training.keep_checkpoints)
        self.accelerator.wait_for_everyone()


def network_optimizer(model: SpeechModel, training: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW over explicitly named groups: backbone and head, each with and without weight decay."""
    groups: list[dict[str, Any]] = []
    parts: dict[str, tuple[float, list[nn.Module]]] = {
        "backbone": (training.lr * training.backbone_lr_ratio, [model.backbone]),
        "head": (training.lr, [model.head, model.classifier]),
    }
    for name, (lr, modules) in parts.items():
        parameters = [parameter for module in modules for parameter in _trainable(module)]
        for suffix, decays in (("", True), (".no_decay", False)):
            chosen = [parameter for parameter in parameters if (parameter.dim() > 1) == decays]
            decay = training.weight_decay if decays else 0.0
            groups.append({"params": chosen, "name": f"{name}{suffix}", "peak_lr": lr, "lr": lr, "weight_decay": decay})
    return torch.optim.AdamW([group for group in groups if group["params"]])


def pruning_optimizer(objective: Objective, lr: float) -> torch.optim.Optimizer | None:
    """Return the dual formulation's own optimiser: gates descend, multipliers ascend; None without gates."""
    if objective.gates is None or objective.lagrangian is None:
        return None
    groups: list[dict[str, Any]] = [
        {"params": list(objective.gates.parameters()), "name": "gates"},
        {"params": list(objective.lagrangian.parameters()), "name": "multipliers", "maximize": True},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.0)


def learning_rate_factor(training: TrainingConfig, step: int, total_steps: int, warmup_steps: float) -> float:
    """Return what a group's peak learning rate is multiplied by: exponential decay under a linear warm-up."""
    decay = (training.final_lr / training.lr) ** (step / max(total_steps - 1, 1))
    return float(decay * min(1.0, (step + 1) / max(warmup_steps, 1)))


def _read_set(path: Path) -> list[Utterance]:
    utterances = read_manifest(path)
    found = {utterance.label for utterance in utterances}
    for label in LABELS:
        if label not in found:
            raise InputError(f"{path}: no utterance is labelled '{label}'; both classes are needed")
    missing = next((u for u in utterances if not u.path.exists()), None)
    if missing is not None:
        raise InputError(f"{path}: '{missing.utt_id}': {missing.path} does not exist; check the path column")
    return utterances


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _truncate_log(path: Path, step: int) -> None:
    """Drop what a killed run logged beyond its last checkpoint, the line it was cut in included."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    with atomic_write(path) as handle:
        handle.writelines(f"{line}\n" for line in whole if json.loads(line)["step"] <= step)


def _state(record: dict[str, Any]) -> str:
    """What stands beside the progress bar."""
    loss, sparsity = f"loss {record['loss']['task']:.3f}", record.get("sparsity")
    return f"{loss}, sparsity {sparsity['expected']:.1%} of {sparsity['target']:.1%}" if sparsity else loss


def _rates(pruning: PruningConfig) -> float | dict[str, float]:
    rates = pruning.drop_rate
    return rates if isinstance(rates, float) else {str(unit): rate for unit, rate in rates.items()}
