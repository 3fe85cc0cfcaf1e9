"""A run -> the artifact: checkpoints averaged, units chosen by exact count, weights cut for real."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hybrid_pruning.checkpoint import average_objectives, list_checkpoints, read_checkpoint, trained_epochs
from hybrid_pruning.config import Config
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import require_new_folder
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.objective import MARGIN, Objective, build_objective
from hybrid_pruning.pruning import shape_of, shrink
from hybrid_pruning.run_folder import CONFIG, last_stage, read_run
from hybrid_pruning.terminal import console

TOLERANCE = 0.005
"""How far an export may be from its target without a word."""


AVERAGE = 2
"""Checkpoints that a model is the mean of."""


@dataclass(frozen=True, slots=True)
class Averaged:
    """What was averaged, and what belongs to no model.

    Args:
        count: how many checkpoints.
        classes: the speakers that the objective has weights for, in their order; none for anti-spoofing.
        weights: the state of its loss on embeddings.
    """

    count: int
    classes: Sequence[str]
    weights: Mapping[str, torch.Tensor]


def export_run(run: str | Path, out: str | Path, average: int = AVERAGE) -> SpeechModel:
    """Write a run's model as an artifact and return it.

    Args:
        run: a finished training; of one in stages the last counts.
        out: the artifact's folder, new or empty.
        average: how many of the last checkpoints to average; all of them where the run kept fewer.

    Raises:
        InputError: the run is not finished, or the folder is taken.
    """
    out = require_new_folder(out)
    config, objective, averaged = average_run(last_stage(Path(run)), average)
    small = shrink_model(objective, config.pruning.target_sparsity)
    _report_size(objective, small, config.pruning.target_sparsity)
    small.provenance = {"recipe": config.model_dump(mode="json"), "averaged_checkpoints": averaged.count}
    small.save_pretrained(out)
    return small.eval()


def average_run(run: Path, average: int = AVERAGE) -> tuple[Config, Objective, Averaged]:
    """Return a finished training's recipe and its network and gates, with the mean weights of its last checkpoints.

    Raises:
        InputError: the run is not finished, or damaged.
    """
    config, model = read_run(run)
    if (done := trained_epochs(run)) < config.training.epochs:
        whole = run.parent if (run.parent / CONFIG).exists() else run  # of which this is a stage
        raise InputError(
            f"{run}: {done} of {config.training.epochs} epochs are done; finish with: "
            f"hybrid-pruning train {whole / CONFIG} --out {whole} --resume"
        )
    checkpoints = list_checkpoints(run)
    average = min(average, max(len(checkpoints), 1))
    state = average_objectives(run, average)
    weights = {name.removeprefix(MARGIN): state.pop(name) for name in list(state) if name.startswith(MARGIN)}
    objective = build_objective(config, model)
    try:
        objective.load_state_dict(state, strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{run}: its architecture and checkpoints do not belong together: {problem}") from error
    classes = read_checkpoint(checkpoints[-1])["classes"] if weights else []
    return config, objective, Averaged(average, classes, weights)


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


def _report_size(objective: Objective, small: SpeechModel, target_sparsity: float) -> None:
    """Say so where the units are too coarse to meet the target."""
    shape = shape_of(small.backbone)
    if objective.gates is None or shape is None:
        return
    exact = float(objective.gates.accounting.exact_kept(shape.kept).removed(objective.constraint))
    if abs(exact - target_sparsity) > TOLERANCE:
        console.print(
            f"warning: {exact:.1%} of the {objective.constraint} are removed, the target was {target_sparsity:.1%}: "
            f"{', '.join(shape.units)} alone come no closer; prune neurons or channels too"
        )
