"""A run -> the artifact: checkpoints averaged, units chosen by exact count, weights cut for real."""

from pathlib import Path

from hybrid_pruning.checkpoint import average_objectives, list_checkpoints, trained_epochs
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import require_new_folder
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.objective import Objective, build_objective
from hybrid_pruning.pruning import shape_of, shrink
from hybrid_pruning.terminal import console
from hybrid_pruning.trainer import CONFIG, read_run

TOLERANCE = 0.005
"""How far an export may be from its target without a word."""


def export_run(run: str | Path, out: str | Path, average: int = 2) -> SpeechModel:
    """Write a run's model as an artifact and return it: `build_export` and its arguments, in the folder `out`.

    Raises:
        InputError: the run is not finished, or the folder is taken.
    """
    out = require_new_folder(out)
    small = build_export(run, average)
    small.save_pretrained(out)
    return small


def build_export(run: str | Path, average: int = 2) -> SpeechModel:
    """Return a run's model, cut to its target, in evaluation mode.

    Args:
        run: a finished training.
        average: how many of the last checkpoints to average; all of them where the run kept fewer.

    Raises:
        InputError: the run is not finished, or damaged.
    """
    run = Path(run)
    config, model = read_run(run)
    if (done := trained_epochs(run)) < config.training.epochs:
        raise InputError(
            f"{run}: {done} of {config.training.epochs} epochs are done; finish with: "
            f"hybrid-pruning train {run / CONFIG} --out {run} --resume"
        )
    average = min(average, max(len(list_checkpoints(run)), 1))
    objective = build_objective(config, model)
    try:
        objective.load_state_dict(average_objectives(run, average), strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{run}: its architecture and checkpoints do not belong together: {problem}") from error
    small = shrink_model(objective, config.pruning.target_sparsity)
    _report_size(objective, small, config.pruning.target_sparsity)
    small.provenance = {"recipe": config.model_dump(mode="json"), "averaged_checkpoints": average}
    return small.eval()


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
