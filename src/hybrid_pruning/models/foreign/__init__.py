"""Checkpoints of other programs: WeDefense, DPHuBERT and DiariZen files, pruned or still gated, read strictly.

Here a whole model of the public recipe: encoder, MHFA head with its feature mean, and projection. Nothing in a file is
executed, and every tensor in it is accounted for. Source: the recipe v15_ssl_mhfa_pruning of WeDefense.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.foreign.checkpoint import (
    Checkpoint,
    find_backbone,
    find_model,
    locate_model,
    read_checkpoint,
    read_descriptions,
)
from hybrid_pruning.models.foreign.encoder import build_backbone
from hybrid_pruning.models.heads import build_head
from hybrid_pruning.tasks import Label
from hybrid_pruning.trees import section

__all__ = [
    "LABELS",
    "Checkpoint",
    "build_backbone",
    "find_backbone",
    "find_model",
    "locate_model",
    "provenance_of",
    "read_checkpoint",
    "read_model",
]

LINEARS = {"key": "cmp_linear_k", "value": "cmp_linear_v", "query": "att_head", "out": "pooling_fc"}
HEAD = {
    "key_mix": "weights_k",
    "value_mix": "weights_v",
    **{f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in LINEARS.items() for kind in ("weight", "bias")},
}
"""Our head's names -> the recipe's."""
NORM, LINEAR = "projection.trans.0", "projection.trans.2"
NORM_PARTS = tuple(f"{NORM}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
COUNTER = f"{NORM}.num_batches_tracked"
NORM_EPS = 1e-5
LABELS = (Label.BONAFIDE.value, Label.SPOOF.value)
"""In the order of the recipe's logits: it sorts its labels by name."""


def read_model(
    checkpoint: Checkpoint, as_trained: bool = False
) -> tuple[Backbone, HeadConfig, dict[str, torch.Tensor], dict[str, Any]]:
    """Return a whole model's backbone, head, weights of head and classifier under a SpeechModel's names, provenance.

    `as_trained` as for `build_backbone`.
    """
    file = checkpoint.file
    if not checkpoint.rest:
        raise InputError(
            f"{file}: holds an encoder alone, without head: train on it (backbone.source), "
            "or give the recipe's whole_pytorch_model.bin"
        )
    recipe = next((found for found in read_descriptions(file) if "dataset_args" in found), None)
    backbone = build_backbone(checkpoint, as_trained)
    head = _read_head(checkpoint, recipe or {})
    assumed = ["logits in the order bonafide, spoof (the recipe sorts its labels)", "equal training priors"]
    assumed += [] if recipe is not None else ["the feature mean is taken off (there is no config.yaml)"]
    weights = _convert_weights(checkpoint, head, backbone)
    return backbone, head, weights, provenance_of(checkpoint, as_trained, assumed)


def provenance_of(checkpoint: Checkpoint, as_trained: bool = False, assumed: Sequence[str] = ()) -> dict[str, Any]:
    """Return a converted model's file, its conversion, and the assumptions made."""
    digest = hashlib.sha256(checkpoint.file.read_bytes()).hexdigest()
    about: dict[str, Any] = {"file": checkpoint.file.name, "sha256": digest, "form": checkpoint.form}
    if checkpoint.gates:
        about["gates"] = "cut as trained" if as_trained else "cut as the recipe exports"
    return {"converted": {**about, "assumed": list(assumed)}}


def _read_head(checkpoint: Checkpoint, recipe: Mapping[str, Any]) -> HeadConfig:
    """Read the head's sizes off its tensors, and check them against the recipe where there is one."""
    rest, file = checkpoint.rest, checkpoint.file
    expected = {*HEAD.values(), *NORM_PARTS, f"{LINEAR}.weight", f"{LINEAR}.bias"}
    if missing := sorted(expected - set(rest)):
        raise InputError(f"{file}: '{missing[0]}' is missing; expected MHFA's head and a projection to two classes")
    if unexpected := sorted(set(rest) - expected - {COUNTER}):
        raise InputError(f"{file}: '{unexpected[0]}' is of no MHFA head with a projection to two classes")
    compression, embedding, heads = (len(rest[f"{LINEARS[part]}.weight"]) for part in ("key", "out", "query"))
    found = {"compression_dim": compression, "embed_dim": embedding, "head_nb": heads}
    stated = section(recipe, "model_args")
    for key, size in {**found, "nb_layer": len(rest["weights_k"])}.items():
        if stated.get(key, size) != size:
            raise InputError(
                f"{file}: the recipe beside it says {key} {stated[key]}, the weights are of {size}; "
                "do they belong together?"
            )
    data, steps = section(recipe, "dataset_args"), section(recipe, "dataset_args", "cmvn_args")
    cmvn = data.get("cmvn", True)
    if cmvn and steps.get("norm_var", False):
        raise InputError(f"{file}: the recipe beside it has cmvn_args.norm_var true, which is not supported")
    return HeadConfig(
        heads=heads,
        compression=compression,
        embedding=embedding,
        feature_mean=bool(cmvn and steps.get("norm_mean", True)),  # the recipe's own defaults
        classifier_norm="affine",
    )


def _convert_weights(checkpoint: Checkpoint, head: HeadConfig, backbone: Backbone) -> dict[str, torch.Tensor]:
    """Return head and classifier under our names; the batch norm, in evaluation a scale and a shift, as those."""
    rest = checkpoint.rest
    weights = {f"head.{ours}": rest[theirs] for ours, theirs in HEAD.items()}
    scale, shift, mean, variance = (rest[part].double() for part in NORM_PARTS)
    scale = scale / (variance + NORM_EPS).sqrt()
    weights |= {"classifier.0.weight": scale.float(), "classifier.0.bias": (shift - mean * scale).float()}
    weights |= {f"classifier.2.{kind}": rest[f"{LINEAR}.{kind}"] for kind in ("weight", "bias")}
    with torch.device("meta"):
        built = build_head(head, backbone.depth, backbone.width)
    shapes = {f"head.{name}": tensor.shape for name, tensor in built.state_dict().items()}
    shapes["classifier.2.weight"] = torch.Size((len(LABELS), head.embedding))
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            theirs = HEAD.get(name.removeprefix("head."), f"{LINEAR}.weight")
            raise InputError(
                f"{checkpoint.file}: '{theirs}' is {list(weights[name].shape)}, encoder, head and two classes ask for "
                f"{list(shape)}"
            )
    return weights
