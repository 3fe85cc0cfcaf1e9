"""A foreign encoder -> our backbone, with every tensor accounted for; gates that are still there are cut out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.models.backbone.weights import first_line
from hybrid_pruning.models.foreign.gates import cut_gates, exported_layout
from hybrid_pruning.models.foreign.guess import guess_config
from hybrid_pruning.models.foreign.layout import Layout, blame, read_layout
from hybrid_pruning.models.foreign.places import BACKBONE, DESCRIPTIONS, neighbours
from hybrid_pruning.models.foreign.tensors import Checkpoint, read_checkpoint
from hybrid_pruning.pruning import PlanError, narrow, plan_for
from hybrid_pruning.trees import MOST_BYTES, parse_yaml, read_bytes, read_json

UNITS = ("head", "attlayer", "interm", "ffnlayer")
SCALE = "feature_extractor.dummy_weight"
POSITION_BIAS = "encoder.position_bias.embedding.weight"
THEIRS = {
    "channel_scale": SCALE,
    POSITION_BIAS: "encoder.transformer.layers.0.attention.rel_attn_embed.weight",
    "feature_projection.": "encoder.feature_projection.",
    "encoder.": "encoder.transformer.",
}
"""What our names begin with -> what theirs do; the first that fits counts."""


def read_backbone(file: Path) -> Backbone:
    """Read a foreign encoder, or that of a whole model.

    Returns:
        The encoder in evaluation mode, dense or pruned; the gates of a gated one are cut out as the recipe does.

    Raises:
        InputError: the file is damaged, of another program, would run code, or its config and tensors differ.
    """
    return build_backbone(read_checkpoint(file)).eval()


def build_backbone(checkpoint: Checkpoint, as_trained: bool = False) -> Backbone:
    """Return the backbone of a foreign file.

    Args:
        checkpoint: what the file holds.
        as_trained: cut gates so that the outputs stay those of the gated encoder, rather than as the recipe does.

    Raises:
        InputError: config and tensors do not belong together.
    """
    layout = read_layout(find_config(checkpoint), str(checkpoint.file))
    scaled = bool(checkpoint.gates) or _is_scaled(checkpoint)
    backbone = _skeleton(checkpoint, layout, scaled)
    backbone.load_state_dict(_fitting(checkpoint, layout, backbone), strict=True, assign=True)
    if not checkpoint.gates:
        return backbone
    kept = cut_gates(backbone, checkpoint, as_trained)
    return backbone if as_trained else _exported(backbone, checkpoint, exported_layout(layout, kept))


def _exported(backbone: Backbone, checkpoint: Checkpoint, layout: Layout) -> Backbone:
    """Return the backbone that the recipe exports, from one that our own cut left with the same weights."""
    exported = _skeleton(checkpoint, layout, scaled=True)
    weights = backbone.state_dict()
    if POSITION_BIAS in weights and not layout.kept["attlayer.0"]:
        weights[POSITION_BIAS] = torch.zeros_like(weights[POSITION_BIAS])
    exported.load_state_dict({name: weights[name] for name in exported.state_dict()}, strict=True, assign=True)
    return exported


def _is_scaled(checkpoint: Checkpoint) -> bool:
    scale = checkpoint.encoder.get(SCALE)
    return scale is not None and bool((scale != 1).any())


def find_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the encoder's config: the file's own, a neighbour's, or what the tensors tell.

    Raises:
        InputError: there is none, and the tensors alone do not tell it.
    """
    if checkpoint.config is not None:
        return checkpoint.config
    known = next((found for found in read_descriptions(checkpoint.file) if "extractor_mode" in found), None)
    if known is None and (encoders := neighbours(checkpoint.file, [BACKBONE])):
        known = read_checkpoint(encoders[0]).config
    if checkpoint.gates or known is None:
        return guess_config(checkpoint, known)
    return known


def read_descriptions(file: Path) -> list[Mapping[str, Any]]:
    """Return the contents of the recipe's JSON and YAML files around a checkpoint.

    Raises:
        InputError: one of them cannot be read.
    """
    return [_read_description(path) for path in neighbours(file, DESCRIPTIONS)]


def _read_description(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        return read_json(path, "fetch it again", "fetch it again")
    try:
        found = parse_yaml(read_bytes(path, MOST_BYTES[".yaml"]))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); fetch it again") from error
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds no names with values; is it the recipe's?")
    return found


def _skeleton(checkpoint: Checkpoint, layout: Layout, scaled: bool) -> Backbone:
    """Return the encoder without weights, cut to what is left."""
    config = {**layout.config, **({"channel_scale": True} if scaled else {})}
    try:
        with torch.device("meta"):
            backbone = skeleton(config, layout.normalize)
            plan = plan_for(backbone).only(UNITS)
            if layout.kept != plan.all_units():
                narrow(backbone, plan, layout.kept)
    except (PlanError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{checkpoint.file}: the config makes no sense ({first_line(error)})") from error
    return backbone


def _fitting(checkpoint: Checkpoint, layout: Layout, backbone: Backbone) -> dict[str, torch.Tensor]:
    """Return the tensors under our names, each of the size that the config asks for, none missing and none left."""
    file, encoder = checkpoint.file, dict(checkpoint.encoder)
    if "channel_scale" not in backbone.state_dict():
        encoder.pop(SCALE, None)  # ones
    found = {}
    for name, tensor in backbone.state_dict().items():
        theirs = _theirs(name)
        if theirs not in encoder and not (name == POSITION_BIAS and not layout.kept["attlayer.0"]):
            raise InputError(f"{file}: '{theirs}' is missing, which {blame(theirs)} in the config asks for")
        # without its first attention the foreign code computes no position bias for any layer
        weight = encoder.pop(theirs, None)
        found[name] = torch.zeros(tensor.shape) if weight is None else _of_kept_heads(name, weight, layout).clone()
        if found[name].shape != tensor.shape:
            raise InputError(
                f"{file}: '{theirs}' is {list(found[name].shape)}, "
                f"{blame(theirs)} in the config asks for {list(tensor.shape)}"
            )
    for theirs in encoder:
        raise InputError(f"{file}: '{theirs}' is not of the encoder that the config describes (see {blame(theirs)})")
    return found


def _of_kept_heads(name: str, tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Of a constant of all heads, which the foreign code keeps whole, those that are left."""
    if not name.endswith("gru_rel_pos_const") or tensor.dim() != 4:
        return tensor
    kept = layout.kept[f"head.{name.split('.')[2]}"]
    return tensor[:, list(kept)] if max(kept, default=0) < tensor.shape[1] else tensor


def _theirs(name: str) -> str:
    for ours, theirs in THEIRS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
