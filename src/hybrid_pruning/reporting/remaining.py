"""What a run's model keeps: as an export would cut it now, by the gates of its last checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hybrid_pruning.models.size import KeptUnits, count_units
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import UNITS, Accounting, Constraint, Gates, PlanError, plan_for, shape_of
from hybrid_pruning.reporting.run_files import Run, newest_checkpoints
from hybrid_pruning.training.runs import open_checkpoint
from hybrid_pruning.trees import number, section

AVERAGED = 2
"""Checkpoints whose gates are averaged where the run is finished, as `export` does by default."""
PREFIX, SUFFIX = "gates.", ".log_alpha"


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of a run's backbone.

    Args:
        survivors: slot by slot, and in all.
        head_params: parameters of head and classifier, which nothing is removed from.
        basis: what they were read from, a sentence.
    """

    survivors: KeptUnits
    head_params: int
    basis: str


def find_remaining(run: Run) -> Remaining | str:
    """Return what is left, or one sentence that says why that is not known."""
    about = section(run.architecture, "backbone")
    if not about:
        return "Unknown without the model's architecture."
    try:
        with torch.device("meta"):  # sizes without weights
            model = SpeechModel.from_architecture(run.architecture)
        kept, basis = _count_kept(run, model)
        survivors = count_units(section(about, "config"), bool(about.get("normalize")), kept)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # plain values of another version's making
        return f"Could not be counted ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
    head_params = sum(parameter.numel() for part in (model.head, model.classifier) for parameter in part.parameters())
    return Remaining(survivors, head_params, basis)


def _count_kept(run: Run, model: SpeechModel) -> tuple[Mapping[str, int], str]:
    shape = shape_of(model.backbone)
    before = {} if shape is None else {name: len(units) for name, units in shape.kept.items()}
    if not run.is_pruned:
        return before, "Nothing was pruned in this training."
    paths = newest_checkpoints(run.folder, AVERAGED if run.is_finished else 1)
    gates = _read_gates(paths)
    if gates:
        return before | _choose(run, model, gates), _describe(run, paths)
    fractions = next((section(record, "kept") for record in reversed(run.log.steps) if record.get("kept")), {})
    if fractions:
        sizes = {slot.name: slot.size for slot in plan_for(model.backbone).slots}
        counts = {name: round(number(share) * sizes[name]) for name, share in fractions.items()}
        return before | counts, "As last logged, each gate rounded on its own: no checkpoint can be read."
    raise ValueError("neither a checkpoint nor the log tells of the gates")


def _read_gates(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Return the mean log_alpha of every slot over some checkpoints; empty where one cannot be read."""
    found: dict[str, list[torch.Tensor]] = {}
    for path in paths:
        objective = section(open_checkpoint(path), "objective")
        for name, tensor in objective.items():
            if name.startswith(PREFIX) and name.endswith(SUFFIX):
                found.setdefault(name[len(PREFIX) : -len(SUFFIX)], []).append(tensor.double())
    whole = all(len(tensors) == len(paths) for tensors in found.values())
    return {name: torch.stack(tensors).mean(0).float() for name, tensors in found.items()} if whole else {}


def _choose(run: Run, model: SpeechModel, log_alpha: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return how many units of each slot an export of these gates keeps."""
    pruning = section(run.config, "pruning")
    plan = plan_for(model.backbone, number(pruning.get("macs_seconds")) or 4.0).only(pruning.get("units") or UNITS)
    plan = plan.aligned(int(number(pruning.get("align"))) or 1)
    gates = Gates(plan, Accounting(model.backbone, plan))
    if set(log_alpha) != set(gates.keys()):
        raise PlanError("the checkpoint's gates are not those of the architecture")
    for name, gate in gates.items():
        gate.log_alpha.data.copy_(log_alpha[name])
    constraint: Constraint = "macs" if pruning.get("constraint") == "macs" else "params"
    return {name: len(units) for name, units in gates.kept(_target(run), constraint).items()}


def _target(run: Run) -> float:
    """The target that the cut has to meet: the recipe's at the end, the schedule's before."""
    _, scheduled = run.series("sparsity", "target")
    if run.is_finished or not scheduled:
        return number(section(run.config, "pruning").get("target_sparsity"))
    return scheduled[-1]


def _describe(run: Run, paths: list[Path]) -> str:
    if not run.is_finished:
        return f"Cut as an export would cut it now, in the middle of the training ({paths[-1].stem})."
    averaged = f"the mean of the last {len(paths)} checkpoints" if len(paths) > 1 else "the last checkpoint"
    return f"Cut as an export cuts it, by {averaged}."
