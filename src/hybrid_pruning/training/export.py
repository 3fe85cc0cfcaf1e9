"""A run -> the artifact: checkpoints averaged, units chosen by exact count, weights cut for real."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hybrid_pruning.config import Config
from hybrid_pruning.console import say
from hybrid_pruning.data.overlap import TRAINED_ON
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file, new_folder, require_new_folder
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import shrink
from hybrid_pruning.training.checkpoints import (
    average_objectives,
    list_checkpoints,
    read_checkpoint,
    read_snapshot,
    trained_epochs,
)
from hybrid_pruning.training.objective import MARGIN, Objective, build_objective
from hybrid_pruning.training.runs import CONFIG, last_stage, read_run
from hybrid_pruning.training.snapshots import early_points, find_member, member_name, members

TOLERANCE = 0.005
"""How far an export may be from its target without a word."""
AVERAGE = 2
"""Checkpoints that a model is the mean of."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to.

    Args:
        config: its recipe.
        objective: network and gates, with the mean weights of checkpoints.
        averaged: of how many.
        point: the sparsity to cut to.
        classes: the speakers that its loss on embeddings has weights for, in their order; none for anti-spoofing.
        weights: the state of that loss, which no model has.
    """

    config: Config
    objective: Objective
    averaged: int
    point: float
    classes: Sequence[str]
    weights: Mapping[str, torch.Tensor]


def export_run(run: str | Path, out: str | Path, average: int = AVERAGE, at: float | None = None) -> SpeechModel:
    """Write a run's model as an artifact and return it: `build_export` and its arguments, in the folder `out`.

    Raises:
        InputError: the run is not finished, has no such member, or the folder is taken.
    """
    require_new_folder(out)
    small = build_export(run, average, at)
    with new_folder(out) as folder:
        small.save_pretrained(folder)
    return small


def build_export(run: str | Path, average: int = AVERAGE, at: float | None = None) -> SpeechModel:
    """Return a run's model, cut to its target, in evaluation mode.

    Args:
        run: a training; finished, unless a snapshot of it is asked for. Of one in stages the last counts.
        average: how many of the last checkpoints to average; all of them where the run kept fewer. A snapshot is one.
        at: the sparsity of the member of the run's family to write; None for the target's, the end of the training.

    Raises:
        InputError: the run is not finished or damaged, or has no such member.
    """
    trained = read_trained(last_stage(Path(run)), average, at)
    small = shrink_model(trained.objective, trained.point)
    _report_size(trained.objective, trained.point)
    small.provenance = {"recipe": trained.config.model_dump(mode="json"), "averaged_checkpoints": trained.averaged}
    if (manifest := trained.config.data.train).is_file():
        small.provenance[TRAINED_ON] = digest_file(manifest)
    if trained.point != trained.config.pruning.target_sparsity:
        small.provenance["snapshot_at"] = trained.point
    return small.eval()


def export_family(run: str | Path, out: str | Path, average: int = AVERAGE) -> dict[Path, SpeechModel]:
    """Write every member of a finished run's family, each to a folder of its own below `out`, as in `out`/hp30.

    Raises:
        InputError: the run is not finished or has no family, or the folder is taken.
    """
    run, out = last_stage(Path(run)), require_new_folder(out)
    config, _ = read_run(run)
    if not early_points(config.pruning):
        raise InputError(f"{run}: has no family; give pruning.export_at when training, or export without --family")
    _check_finished(run, config)
    models = {member_name(point): build_export(run, average, point) for point in members(config.pruning)}
    with new_folder(out) as folder:
        for name, model in models.items():
            model.save_pretrained(folder / name)
    return {out / name: model for name, model in models.items()}


def read_trained(run: Path, average: int = AVERAGE, at: float | None = None) -> Trained:
    """Return what a training, or a stage of one, came to; the arguments are `export_run`'s.

    Raises:
        InputError: it is not finished, has no such member, or is damaged.
    """
    config, model = read_run(run)
    target = config.pruning.target_sparsity
    point = target if at is None else find_member(config, at, run)
    if point == target:
        _check_finished(run, config)
        average = min(average, max(len(list_checkpoints(run)), 1))
        state = average_objectives(run, average)
    else:
        state, average = dict(read_snapshot(run, member_name(point))), 1
    weights = {name.removeprefix(MARGIN): state.pop(name) for name in list(state) if name.startswith(MARGIN)}
    objective = build_objective(config, model)
    try:
        objective.load_state_dict(state, strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{run}: its architecture and checkpoints do not belong together: {problem}") from error
    classes = read_checkpoint(list_checkpoints(run)[-1])["classes"] if weights and point == target else []
    return Trained(config, objective, average, point, classes, weights)


def _check_finished(run: Path, config: Config) -> None:
    if (done := trained_epochs(run)) < config.training.epochs:
        whole = run.parent if (run.parent / CONFIG).exists() else run  # of which this is a stage
        raise InputError(
            f"{run}: {done} of {config.training.epochs} epochs are done; finish with: "
            f"hybrid-pruning train {whole / CONFIG} --out {whole} --resume"
        )


def shrink_model(objective: Objective, target_sparsity: float) -> SpeechModel:
    """Return the network without gates, its backbone cut to the target; the same network where there are none."""
    model, gates = objective.model, objective.gates
    if gates is None:
        return model
    kept = gates.kept(target_sparsity, objective.constraint)
    backbone = shrink(model.backbone, gates, kept)
    small = SpeechModel.build(backbone, model.head_config, model.classes)
    small.head.load_state_dict(model.head.state_dict())
    small.classifier.load_state_dict(model.classifier.state_dict())
    return small


def _report_size(objective: Objective, target_sparsity: float) -> None:
    """Say so where the units are too coarse to meet the target."""
    if (gates := objective.gates) is None:
        return
    kept = gates.kept(target_sparsity, objective.constraint)
    exact = float(gates.accounting.exact_kept(kept).removed(objective.constraint))
    if abs(exact - target_sparsity) > TOLERANCE:
        units = ", ".join(dict.fromkeys(slot.unit for slot in gates.plan.slots))
        say(
            f"warning: {exact:.1%} of the {objective.constraint} are removed, the target was {target_sparsity:.1%}: "
            f"{units} alone come no closer; prune neurons or channels too"
        )
