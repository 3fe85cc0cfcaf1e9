"""Gates that were trained elsewhere and not cut out yet: soft values fold in and closed units go, in one of two ways.

As exported: the recipe's own export, whose scores are the published ones. It changes the model: the norms after
convolutions average over fewer channels, what they made of closed channels is lost, and so are the output bias of a
sub-layer without units and, with the first attention, the position bias of all.

As trained: what the gated model gives in evaluation, but for the Large style, where the recipe's closed channels still
count in the norm of their own convolution, with values that are gone once they are cut; here they count as zeros.
"""

from dataclasses import replace

import torch
from torch import nn

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.foreign.layout import Layout
from hybrid_pruning.models.foreign.tensors import Checkpoint
from hybrid_pruning.pruning import Gate, Kept, Slot, narrow, plan_for
from hybrid_pruning.pruning.gate import soft_value
from hybrid_pruning.pruning.plan import parameter

LAYER = "encoder.transformer.layers.{}."
NAMES = {  # unit -> its gate
    "conv": "feature_extractor.conv_layers.{}.hard_concrete.log_alpha",
    "head": LAYER + "attention.hard_concrete_for_heads.log_alpha",
    "attlayer": LAYER + "attention.hard_concrete_for_layer.log_alpha",
    "interm": LAYER + "feed_forward.hard_concrete_for_intermediate.log_alpha",
    "ffnlayer": LAYER + "feed_forward.hard_concrete_for_layer.log_alpha",
}


def cut_gates(backbone: Backbone, checkpoint: Checkpoint, as_trained: bool) -> Kept:
    """Cut a dense backbone to what a file's gates keep, in place, and return that.

    The foreign code multiplies the last convolution's channels in front of a norm, where they cannot fold into the
    projection behind it: their soft values stay, as the backbone's channel scale.

    Args:
        backbone: the encoder without its gates.
        checkpoint: has the gates.
        as_trained: keep what norms made of the last convolution's closed channels.

    Raises:
        InputError: a gate is of another size than its slot, or of none.
    """
    plan, left = plan_for(backbone), dict(checkpoint.gates)
    kept: dict[str, tuple[int, ...]] = {}
    values: dict[str, torch.Tensor] = {}
    for slot in plan.slots:
        log_alpha = left.pop(NAMES[slot.unit].format(slot.name.rpartition(".")[2]), None)
        kept[slot.name], values[slot.name] = _decide(slot, log_alpha, checkpoint)
    for name in left:
        raise InputError(f"{checkpoint.file}: gate '{name}' belongs to nothing in the encoder")
    last = [slot.name for slot in plan.slots if slot.unit == "conv"][-1]
    backbone.channel_scale = nn.Parameter(parameter(backbone, "channel_scale").detach() * values[last])
    if as_trained:
        kept[last] = _gather_closed(backbone, last, kept[last], len(values[last]))
    values[last] = torch.ones_like(values[last])
    narrow(backbone, plan, kept, values)
    return kept


def exported_layout(layout: Layout, kept: Kept) -> Layout:
    """Return the layout that the recipe's export of a gated encoder has: its convolutions are narrow from the start.

    Args:
        layout: of the gated encoder.
        kept: what its gates keep.
    """
    widths = [len(kept[f"conv.{index}"]) for index in range(len(layout.config["conv_dim"]))]
    left = {name: units for name, units in kept.items() if not name.startswith("conv.")}
    for index in range(layout.config["num_hidden_layers"]):
        left[f"interm.{index}"] = tuple(range(len(kept[f"interm.{index}"])))
        if layout.config["model_type"] != "wavlm":  # nothing tells heads apart
            left[f"head.{index}"] = tuple(range(len(kept[f"head.{index}"])))
        for layer, units in (("attlayer", "head"), ("ffnlayer", "interm")):
            left[f"{layer}.{index}"] = kept[f"{layer}.{index}"] if kept[f"{units}.{index}"] else ()
    neurons = max(1, *(len(units) for name, units in left.items() if name.startswith("interm.")))
    return replace(layout, config={**layout.config, "conv_dim": widths, "intermediate_size": neurons}, kept=left)


def _decide(slot: Slot, log_alpha: torch.Tensor | None, checkpoint: Checkpoint) -> tuple[tuple[int, ...], torch.Tensor]:
    """Return the units of a slot that are left and the [units] values they are multiplied by."""
    if log_alpha is None:  # of a kind that was not pruned
        return tuple(range(slot.size)), torch.ones(slot.size)
    if log_alpha.numel() != slot.size:
        raise InputError(
            f"{checkpoint.file}: the gate of '{slot.name}' has {log_alpha.numel()} units, the encoder {slot.size}"
        )
    gate = Gate(slot)
    gate.log_alpha.data = log_alpha.flatten()
    return gate.kept(), soft_value(gate.log_alpha.detach())


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
