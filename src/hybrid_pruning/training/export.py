"""A run -> the artifact: checkpoints averaged, units chosen by exact count, weights cut for real."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ, Wave, read_audio
from hybrid_pruning.config import Config, by_name
from hybrid_pruning.console import say
from hybrid_pruning.data.checks import TRAINED_ON
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file, new_folder, require_new_folder
from hybrid_pruning.models.artifact import is_artifact
from hybrid_pruning.models.speech_model import SpeechModel, load_strictly
from hybrid_pruning.pruning import shrink
from hybrid_pruning.scoring.windows import repeat_short
from hybrid_pruning.training.objective import MARGIN, Objective, build_objective
from hybrid_pruning.training.runs import Run, read_checkpoint, snapshot_name

CLIPS, CLIP_SECONDS = 64, 4.0
"""Recordings, and the length of each, by which 8 bits are fitted."""
TOLERANCE = 0.005
"""Distance from the target up to which an export prints nothing."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training: mean weights of so many checkpoints, and the sparsity to cut them to.

    The classes are the speakers that its loss on embeddings has weights for, in their order; the weights are the state
    of that loss, which no model has. Both are empty for anti-spoofing.
    """

    config: Config
    objective: Objective
    averaged: int
    sparsity: float
    classes: Sequence[str]
    weights: Mapping[str, torch.Tensor]


def export(
    run: str | Path,
    out: str | Path,
    average: int | None = None,
    at: float | None = None,
    onnx: bool = False,
    int8: bool = False,
    openvino: bool = False,
    precision: str = "f32",
    calibrate: str | Path | None = None,
) -> SpeechModel:
    """Cut a run's model down for real, write it and return it.

    Args:
        run: the folder of a training; finished, unless one of its snapshots is asked for. Of stages the last counts.
            With `onnx` and `openvino` also that of an exported model.
        out: a new folder; an exported model's graph may go to the model's own.
        average: the number of last checkpoints to average, None for the recipe's `training.average`; all of them where
            the run kept fewer. A snapshot is one.
        at: the sparsity of the snapshot to write; None for the target's, the end of the training.
        onnx: write one graph, model.onnx, and its description, model.json, instead of the artifact.
        int8: with linear layers in 8 bits, in that graph alone.
        openvino: write the graph for OpenVINO instead, openvino.xml, with openvino.bin and openvino.json.
        precision: of that graph: f32, bf16 or int8.
        calibrate: the manifest of real speech by which int8 is fitted, None for the training's.
    """
    exported = (onnx or openvino) and is_artifact(run)
    if not exported or Path(out).resolve() != Path(run).resolve():
        require_new_folder(out)
    model = SpeechModel.from_pretrained(run) if exported else build_export(run, average, at)
    if openvino:
        from hybrid_pruning.models.onnx.graph import export_openvino

        export_openvino(model, out, precision, read_clips(model, calibrate) if precision == "int8" else ())
        return model
    if onnx:
        from hybrid_pruning.models.onnx.graph import export_onnx  # its packages are an extra

        export_onnx(model, out, int8)
        return model
    with new_folder(out) as folder:
        model.save_pretrained(folder)
    return model


def read_clips(model: SpeechModel, manifest: str | Path | None = None) -> list[Wave]:
    """Return the beginnings of evenly spaced recordings of a manifest, by default of the one that it was trained on."""
    if manifest is None:
        files = model.provenance.get("recipe", {}).get("data", {}).get("train")
        manifest = next(iter(files.values())) if isinstance(files, dict) else files
        if not isinstance(manifest, str) or not Path(manifest).is_file():
            raise InputError(
                f"export: the manifest that the model was trained on ({manifest or 'unknown'}) is not here; give real "
                "speech with --calibrate MANIFEST"
            )
    utterances = read_manifest(manifest)
    chosen = utterances[:: max(1, len(utterances) // CLIPS)][:CLIPS]
    waves = (read_audio(utterance.path, 0, round(CLIP_SECONDS * SAMPLE_RATE_HZ)) for utterance in chosen)
    return [repeat_short(wave, model.minimum_samples) for wave in waves]


def export_snapshots(run: str | Path, out: str | Path, average: int | None = None) -> dict[Path, SpeechModel]:
    """Write all snapshots of a finished run and its last model, each to a folder of its own as in `out`/hp30."""
    trained, out = _last_stage(run), require_new_folder(out)
    _, config = trained.read_model(), trained.read_config()
    if not config.pruning.snapshots:
        raise InputError(
            f"{trained.folder}: has no snapshots; give pruning.export_at when training, or export without --family"
        )
    _check_finished(trained, config)
    sparsities = (*config.pruning.snapshots, config.pruning.target_sparsity)
    models = {snapshot_name(sparsity): build_export(run, average, sparsity) for sparsity in sparsities}
    with new_folder(out) as folder:
        for name, model in models.items():
            model.save_pretrained(folder / name)
    return {out / name: model for name, model in models.items()}


def build_export(run: str | Path, average: int | None = None, at: float | None = None) -> SpeechModel:
    """Return a run's model, cut to its target, in evaluation mode; the arguments as in `export`."""
    trained = read_trained(_last_stage(run), average, at)
    small = shrink_model(trained.objective, trained.sparsity)
    if (gates := trained.objective.gates) is not None:
        constraint, target = trained.objective.constraint, trained.sparsity
        exact = float(gates.accounting.exact_kept(gates.kept(target, constraint)).removed(constraint))
        if abs(exact - target) > TOLERANCE:
            units = ", ".join(dict.fromkeys(slot.unit for slot in gates.plan.slots))
            say(
                f"warning: {exact:.1%} of the {constraint} are removed, the target was {target:.1%}: "
                f"{units} alone come no closer; prune neurons or channels too"
            )
    small.provenance = {"recipe": trained.config.model_dump(mode="json"), "averaged_checkpoints": trained.averaged}
    manifests = by_name(trained.config.data.train)
    if digests := {name: digest_file(path) for name, path in manifests.items() if path.is_file()}:
        small.provenance[TRAINED_ON] = digests.get("", digests)
    if trained.sparsity != trained.config.pruning.target_sparsity:
        small.provenance["snapshot_at"] = trained.sparsity
    return small.eval()


def read_trained(run: Run, average: int | None = None, at: float | None = None) -> Trained:
    """Return the result of a training, or of one stage; the arguments as in `export`."""
    model, config = run.read_model(), run.read_config()
    target = config.pruning.target_sparsity
    sparsity = target if at is None else find_snapshot(config, at, run.folder)
    if sparsity == target:
        _check_finished(run, config)
        averaged = min(average or config.training.average, max(len(run.list_checkpoints()), 1))
        state = run.average_objectives(averaged)
    else:
        state, averaged = dict(run.read_snapshot(sparsity)), 1
    weights = {name.removeprefix(MARGIN): state.pop(name) for name in list(state) if name.startswith(MARGIN)}
    objective = build_objective(config, model)
    load_strictly(objective, state, f"{run.folder}: its architecture and checkpoints")
    classes = read_checkpoint(run.list_checkpoints()[-1])["classes"] if weights and sparsity == target else []
    return Trained(config, objective, averaged, sparsity, classes, weights)


def find_snapshot(config: Config, at: float, run: Path) -> float:
    """Return the sparsity, as the recipe has it, of the snapshot asked for; the last is the target itself."""
    pruning = config.pruning
    there = (*pruning.snapshots, pruning.target_sparsity) if pruning.gated else ()
    for sparsity in there:
        if math.isclose(sparsity, at, rel_tol=0, abs_tol=1e-9):
            return sparsity
    known = ", ".join(f"{sparsity:g}" for sparsity in there) or "none, it is dense"
    raise InputError(f"{run}: --at {at:g}: no such model in this run; it has {known} (pruning.export_at)")


def shrink_model(objective: Objective, target_sparsity: float) -> SpeechModel:
    """Return the network without gates, its backbone cut to the target; the same network where there are none."""
    model, gates = objective.model, objective.gates
    if gates is None:
        return model
    backbone = shrink(model.backbone, gates, gates.kept(target_sparsity, objective.constraint))
    small = SpeechModel.build(backbone, model.head_config, model.classes)
    small.head.load_state_dict(model.head.state_dict())
    small.classifier.load_state_dict(model.classifier.state_dict())
    return small


def _last_stage(run: str | Path) -> Run:
    if is_artifact(run):
        raise InputError(
            f"{run}: is an exported model already; give a training run, or --onnx or --openvino to convert it"
        )
    return Run(run).last_stage()


def _check_finished(run: Run, config: Config) -> None:
    if (done := run.trained_epochs()) < config.training.epochs:
        parent = Run(run.folder.parent)
        whole = parent if parent.config.exists() else run  # of which this is a stage
        raise InputError(
            f"{run.folder}: {done} of {config.training.epochs} epochs are done; finish with: "
            f"hybrid-pruning train {whole.config} --out {whole.folder} --resume"
        )
