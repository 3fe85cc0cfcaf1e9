"""A foreign encoder -> our backbone, with every tensor accounted for; gates that are still there are cut out.

Soft gate values fold in and closed units go, in one of two ways.

As exported: the recipe's own export, whose scores are the published ones. It changes the model: the norms after
convolutions average over fewer channels, their values for closed channels are lost, and so are the output bias of a
sub-layer without units and, with the first attention, the position bias of all.

As trained: the gated model's outputs in evaluation, but for the Large style, where the recipe's closed channels still
count in the norm of their own convolution, with values that are gone once they are cut; here they count as zeros.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from hybrid_pruning.errors import InputError, first_line
from hybrid_pruning.models.backbone import Backbone, skeleton
from hybrid_pruning.models.foreign.checkpoint import Checkpoint
from hybrid_pruning.models.foreign.layout import Layout, config_keys, find_config, read_layout
from hybrid_pruning.pruning import Gate, Kept, PlanError, narrow, plan_for
from hybrid_pruning.pruning.gate import soft_value
from hybrid_pruning.pruning.plan import parameter

UNITS = ("head", "attlayer", "interm", "ffnlayer")
SCALE = "feature_extractor.dummy_weight"
POSITION_BIAS = "encoder.position_bias.embedding.weight"
THEIRS = {
    "channel_scale": SCALE,
    POSITION_BIAS: "encoder.transformer.layers.0.attention.rel_attn_embed.weight",
    "feature_projection.": "encoder.feature_projection.",
    "encoder.": "encoder.transformer.",
}
"""Beginning of our names -> that of theirs; the first that fits counts."""
LAYER = "encoder.transformer.layers.{}."
GATES = {  # unit -> its gate
    "conv": "feature_extractor.conv_layers.{}.hard_concrete.log_alpha",
    "head": LAYER + "attention.hard_concrete_for_heads.log_alpha",
    "attlayer": LAYER + "attention.hard_concrete_for_layer.log_alpha",
    "interm": LAYER + "feed_forward.hard_concrete_for_intermediate.log_alpha",
    "ffnlayer": LAYER + "feed_forward.hard_concrete_for_layer.log_alpha",
}


def build_backbone(checkpoint: Checkpoint, as_trained: bool = False) -> Backbone:
    """Return the backbone of a foreign file, its gates cut as the recipe exports them or as trained."""
    layout = read_layout(find_config(checkpoint), str(checkpoint.file))
    scale = checkpoint.encoder.get(SCALE)
    scaled = bool(checkpoint.gates) or (scale is not None and bool((scale != 1).any()))
    backbone = _skeleton(checkpoint, layout, scaled)
    backbone.load_state_dict(_fitting(checkpoint, layout, backbone), strict=True, assign=True)
    if not checkpoint.gates:
        return backbone
    kept = _cut_gates(backbone, checkpoint, as_trained)
    if as_trained:
        return backbone
    layout = _exported_layout(layout, kept)
    exported, weights = _skeleton(checkpoint, layout, scaled=True), backbone.state_dict()
    if POSITION_BIAS in weights and not layout.kept["attlayer.0"]:
        weights[POSITION_BIAS] = torch.zeros_like(weights[POSITION_BIAS])
    exported.load_state_dict({name: weights[name] for name in exported.state_dict()}, strict=True, assign=True)
    return exported


def _skeleton(checkpoint: Checkpoint, layout: Layout, scaled: bool) -> Backbone:
    """Return the encoder without weights, cut to its kept units."""
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
        theirs = next((new + name.removeprefix(old) for old, new in THEIRS.items() if name.startswith(old)), name)
        if theirs not in encoder and not (name == POSITION_BIAS and not layout.kept["attlayer.0"]):
            raise InputError(f"{file}: '{theirs}' is missing, which {config_keys(theirs)} in the config asks for")
        # without its first attention the foreign code computes no position bias for any layer
        weight = encoder.pop(theirs, torch.zeros(tensor.shape))
        if name.endswith("gru_rel_pos_const") and weight.dim() == 4:  # of all heads: the foreign code keeps it whole
            kept = layout.kept[f"head.{name.split('.')[2]}"]
            weight = weight[:, list(kept)] if max(kept, default=0) < weight.shape[1] else weight
        found[name] = weight.clone()
        if found[name].shape != tensor.shape:
            raise InputError(
                f"{file}: '{theirs}' is {list(found[name].shape)}, "
                f"{config_keys(theirs)} in the config asks for {list(tensor.shape)}"
            )
    for theirs in encoder:
        raise InputError(
            f"{file}: '{theirs}' is not of the encoder that the config describes (see {config_keys(theirs)})"
        )
    return found


def _cut_gates(backbone: Backbone, checkpoint: Checkpoint, as_trained: bool) -> Kept:
    """Cut a dense backbone to the kept units of a file's gates, in place, and return those.

    The foreign code multiplies the last convolution's channels in front of a norm, where they cannot fold into the
    projection behind it: their soft values stay, as the backbone's channel scale.
    """
    plan, gates = plan_for(backbone), dict(checkpoint.gates)
    kept: dict[str, tuple[int, ...]] = {}
    values: dict[str, torch.Tensor] = {}
    for slot in plan.slots:
        log_alpha = gates.pop(GATES[slot.unit].format(slot.name.rpartition(".")[2]), None)
        if log_alpha is None:  # of a kind that was not pruned
            kept[slot.name], values[slot.name] = tuple(range(slot.size)), torch.ones(slot.size)
            continue
        if log_alpha.numel() != slot.size:
            raise InputError(
                f"{checkpoint.file}: the gate of '{slot.name}' has {log_alpha.numel()} units, the encoder {slot.size}"
            )
        gate = Gate(slot)
        gate.log_alpha.data = log_alpha.flatten()
        kept[slot.name], values[slot.name] = gate.kept(), soft_value(gate.log_alpha.detach())
    for name in gates:
        raise InputError(f"{checkpoint.file}: gate '{name}' belongs to nothing in the encoder")
    last = [slot.name for slot in plan.slots if slot.unit == "conv"][-1]
    backbone.channel_scale = nn.Parameter(parameter(backbone, "channel_scale").detach() * values[last])
    if as_trained:
        kept[last] = _gather_closed(backbone, last, kept[last], len(values[last]))
    values[last] = torch.ones_like(values[last])
    narrow(backbone, plan, kept, values)
    return kept


def _exported_layout(layout: Layout, kept: Kept) -> Layout:
    """Return the layout of the recipe's export of a gated encoder: its convolutions are narrow from the start."""
    widths = [len(kept[f"conv.{index}"]) for index in range(len(layout.config["conv_dim"]))]
    exported: dict[str, tuple[int, ...]] = {name: units for name, units in kept.items() if not name.startswith("conv.")}
    for index in range(layout.config["num_hidden_layers"]):
        exported[f"interm.{index}"] = tuple(range(len(kept[f"interm.{index}"])))
        if layout.config["model_type"] != "wavlm":  # nothing distinguishes heads
            exported[f"head.{index}"] = tuple(range(len(kept[f"head.{index}"])))
        for layer, units in (("attlayer", "head"), ("ffnlayer", "interm")):
            exported[f"{layer}.{index}"] = kept[f"{layer}.{index}"] if kept[f"{units}.{index}"] else ()
    neurons = max(1, *(len(units) for name, units in exported.items() if name.startswith("interm.")))
    config: Mapping[str, object] = {**layout.config, "conv_dim": widths, "intermediate_size": neurons}
    return replace(layout, config=config, kept=exported)


@torch.no_grad()
def _gather_closed(backbone: Backbone, last: str, kept: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Let one silent channel of the last convolution stand for all closed ones; return the channels to keep.

    A zero in front of a norm is no zero behind it: every closed channel leaves -mean / deviation there, times its gain
    and column of the projection, plus its shift. Together that is one channel with the sum of the columns, and a bias.
    """
    closed = [channel for channel in range(channels) if channel not in kept]
    if not closed:
        return kept
    one = closed[0]
    conv = f"feature_extractor.conv_layers.{last.rpartition('.')[2]}."
    for name, tensor in backbone.named_parameters():
        if name.startswith(conv):
            tensor[one] = 0
    gain, shift = (parameter(backbone, f"feature_projection.layer_norm.{kind}") for kind in ("weight", "bias"))
    columns, bias = (parameter(backbone, f"feature_projection.projection.{kind}") for kind in ("weight", "bias"))
    bias.add_(columns[:, closed] @ shift[closed])
    columns[:, one] = columns[:, closed] @ gain[closed]
    gain[one], shift[one] = 1, 0
    return tuple(sorted([*kept, one]))
