"""A whole model of the public recipe: encoder, MHFA head with its feature mean, and projection.

Source: the recipe v15_ssl_mhfa_pruning of WeDefense.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.foreign.encoder import build_backbone, read_descriptions
from hybrid_pruning.models.foreign.tensors import Checkpoint, read_checkpoint
from hybrid_pruning.models.heads import build_head
from hybrid_pruning.tasks import Label

LINEARS = {"key": "cmp_linear_k", "value": "cmp_linear_v", "query": "att_head", "out": "pooling_fc"}
HEAD = {
    "key_mix": "weights_k",
    "value_mix": "weights_v",
    **{f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in LINEARS.items() for kind in ("weight", "bias")},
}
"""Our head's names -> the recipe's."""
SIZES = {"compression": "key", "embedding": "out", "heads": "query"}
NORM, LINEAR = "projection.trans.0", "projection.trans.2"
NORM_PARTS = tuple(f"{NORM}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
COUNTER = f"{NORM}.num_batches_tracked"
NORM_EPS = 1e-5
LABELS = (Label.BONAFIDE.value, Label.SPOOF.value)
"""In the order of the recipe's logits: it sorts its labels by name."""


@dataclass(frozen=True, slots=True)
class RecipeModel:
    """What a whole model holds, in our terms.

    Args:
        backbone: its encoder.
        head: what its head is.
        weights: of head and classifier, under the names that a SpeechModel has them by.
        labels: in the order of the logits.
        provenance: where it came from, and what was assumed.
    """

    backbone: Backbone
    head: HeadConfig
    weights: Mapping[str, torch.Tensor]
    labels: tuple[str, ...]
    provenance: Mapping[str, Any]


def read_model(file: Path) -> RecipeModel:
    """Read a whole model of the recipe, pruned or with its gates.

    Raises:
        InputError: the file is damaged, of another program, no whole model, or config and tensors differ.
    """
    return build_model(read_checkpoint(file))


def build_model(checkpoint: Checkpoint, as_trained: bool = False) -> RecipeModel:
    """Return the model that a whole model's file holds.

    Args:
        checkpoint: what the file holds.
        as_trained: cut gates so that the outputs stay those of the gated model, rather than as the recipe does.

    Raises:
        InputError: it is no whole model, or config and tensors differ.
    """
    file = checkpoint.file
    if not checkpoint.rest:
        raise InputError(
            f"{file}: holds an encoder alone, without head: train on it (backbone.source), "
            "or give the recipe's whole_pytorch_model.bin"
        )
    recipe = next((found for found in read_descriptions(file) if "dataset_args" in found), None)
    backbone = build_backbone(checkpoint, as_trained)
    head = _head(checkpoint, recipe or {})
    weights = _weights(checkpoint, head, backbone)
    return RecipeModel(backbone, head, weights, LABELS, _provenance(checkpoint, recipe is not None, as_trained))


def provenance_of(checkpoint: Checkpoint, as_trained: bool = False, assumed: Sequence[str] = ()) -> dict[str, Any]:
    """Return where a converted model came from, what was done to it, and what had to be assumed."""
    digest = hashlib.sha256(checkpoint.file.read_bytes()).hexdigest()
    about: dict[str, Any] = {"file": checkpoint.file.name, "sha256": digest, "form": checkpoint.form}
    if checkpoint.gates:
        about["gates"] = "cut as trained" if as_trained else "cut as the recipe exports"
    return {"converted": {**about, "assumed": list(assumed)}}


def _head(checkpoint: Checkpoint, recipe: Mapping[str, Any]) -> HeadConfig:
    """Read the head's sizes off its tensors, and check them against the recipe where there is one."""
    rest, file = checkpoint.rest, checkpoint.file
    expected = {*HEAD.values(), *NORM_PARTS, f"{LINEAR}.weight", f"{LINEAR}.bias"}
    if missing := sorted(expected - set(rest)):
        raise InputError(f"{file}: '{missing[0]}' is missing; expected MHFA's head and a projection to two classes")
    if unexpected := sorted(set(rest) - expected - {COUNTER}):
        raise InputError(f"{file}: '{unexpected[0]}' is of no MHFA head with a projection to two classes")
    sizes = {name: len(rest[f"{LINEARS[part]}.weight"]) for name, part in SIZES.items()}
    found = {"compression_dim": sizes["compression"], "embed_dim": sizes["embedding"], "head_nb": sizes["heads"]}
    found["nb_layer"] = len(rest["weights_k"])
    stated = _section(recipe, "model_args")
    for key, size in found.items():
        if stated.get(key, size) != size:
            raise InputError(
                f"{file}: the recipe beside it says {key} {stated[key]}, the weights are of {size}; "
                "do they belong together?"
            )
    return HeadConfig(**sizes, feature_mean=_feature_mean(recipe, file), classifier_norm="affine")


def _feature_mean(recipe: Mapping[str, Any], file: Path) -> bool:
    """Whether the hidden states' mean over the features is taken off; by the recipe's own defaults it is."""
    data = _section(recipe, "dataset_args")
    steps = _section(data, "cmvn_args")
    if data.get("cmvn", True) and steps.get("norm_var", False):
        raise InputError(f"{file}: the recipe beside it has cmvn_args.norm_var true, which is not supported")
    return bool(data.get("cmvn", True) and steps.get("norm_mean", True))


def _weights(checkpoint: Checkpoint, head: HeadConfig, backbone: Backbone) -> dict[str, torch.Tensor]:
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


def _provenance(checkpoint: Checkpoint, described: bool, as_trained: bool) -> dict[str, Any]:
    assumed = ["logits in the order bonafide, spoof (the recipe sorts its labels)", "equal training priors"]
    assumed += [] if described else ["the feature mean is taken off (there is no config.yaml)"]
    return provenance_of(checkpoint, as_trained, assumed)


def _section(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = about.get(name)
    return found if isinstance(found, Mapping) else {}
