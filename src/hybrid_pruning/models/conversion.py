"""Models of other programs -> our artifact; a model -> a folder that transformers loads by itself."""

from pathlib import Path
from typing import Any

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import new_folder, require_new_folder
from hybrid_pruning.models import artifact, foreign
from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.size import count_parameters
from hybrid_pruning.models.speech_model import BACKBONE_ALONE, SpeechModel, load_backbone, save_backbone
from hybrid_pruning.models.transformers_folder import write_transformers


def convert(
    source: str | Path,
    out: str | Path,
    to: str = "artifact",
    zero_pad: bool = False,
    as_trained: bool = False,
) -> dict[str, Any]:
    """Write a model of another program as an artifact, or any model as a folder that transformers loads by itself.

    Args:
        source: a file of WeDefense, DPHuBERT or DiariZen, its folder, or a hub id; to transformers also an artifact.
        out: the folder to write, new or empty.
        to: "artifact" (a whole model scores, an encoder alone is to train on) or "transformers": detectors and pruned
            encoders with their code, which ``trust_remote_code=True`` loads; of a dense encoder, and of the model of
            a verifier, the encoder alone.
        zero_pad: to transformers: the encoder alone and without code, with zeros where units were cut out: the same
            function at the dense size and speed.
        as_trained: to an artifact, where gates are still there: keep the gated model's outputs; the recipe's own
            export, the default, changes them.

    Returns:
        To an artifact: the artifact's record of its origin, with ``parameters``, the encoder's. To transformers:
        ``loader``, the name of transformers' class that loads it, and ``code``, whether that runs the folder's own.
    """
    if to not in ("artifact", "transformers"):
        raise InputError(f"to '{to}': expected 'artifact' or 'transformers'")
    if as_trained and to == "transformers":
        raise InputError("--as-trained belongs to --to artifact")
    if zero_pad and to == "artifact":
        raise InputError("--zero-pad belongs to --to transformers")
    place, out = foreign.locate_model(source), require_new_folder(out)
    if to == "transformers":
        loaded = _load(place)
        with new_folder(out) as folder:
            return write_transformers(loaded, folder, str(source), zero_pad)
    file = foreign.find_model(place) or foreign.find_backbone(place)
    if file is None:
        raise InputError(f"{source}: holds no model of WeDefense, DPHuBERT or DiariZen (a .bin, .pt or .pth file)")
    checkpoint = foreign.read_checkpoint(file)
    if as_trained and not checkpoint.gates:
        raise InputError(f"{file}: has no gates any more; --as-trained is for checkpoints before the recipe's export")
    with new_folder(out) as folder:
        if checkpoint.rest:
            model = SpeechModel.from_recipe(checkpoint, as_trained)
            backbone, provenance = model.backbone, model.provenance
            model.save_pretrained(folder)
        else:
            backbone = foreign.build_backbone(checkpoint, as_trained)
            provenance = foreign.provenance_of(checkpoint, as_trained)
            save_backbone(backbone, folder, provenance)
    return {**provenance["converted"], "parameters": count_parameters(backbone)}


def _load(place: Path) -> SpeechModel | Backbone:
    """Return a detector whole; of any other model the encoder."""
    if artifact.is_artifact(place):
        if artifact.read_config(place).get("task") == BACKBONE_ALONE:
            return load_backbone(place)
        model = SpeechModel.from_pretrained(place)
    else:
        file = foreign.find_model(place)
        checkpoint = None if file is None else foreign.read_checkpoint(file)
        if checkpoint is None or not checkpoint.rest:
            return load_backbone(place)
        model = SpeechModel.from_recipe(checkpoint)
    return model.backbone if model.classes is None else model
