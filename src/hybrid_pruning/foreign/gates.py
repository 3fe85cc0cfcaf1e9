"""Gates that were trained elsewhere and not cut out yet: soft values fold in, closed units go, nothing else changes.

The recipe's own export changes the model (its norms average over fewer channels, biases vanish with closed sub-layers);
this one gives what the gated model gives in evaluation.
"""


import torch

from hybrid_pruning.backbone import Backbone
from hybrid_pruning.errors import InputError
from hybrid_pruning.pruning import Gate, Slot, narrow, plan_for
from hybrid_pruning.pruning.gate import soft_value

from .reading import Checkpoint

LAYER = "encoder.transformer.layers.{}."
NAMES = {  # unit -> its gate
    "conv": "feature_extractor.conv_layers.{}.hard_concrete.log_alpha",
    "head": LAYER + "attention.hard_concrete_for_heads.log_alpha",
    "attlayer": LAYER + "attention.hard_concrete_for_layer.log_alpha",
    "interm": LAYER + "feed_forward.hard_concrete_for_intermediate.log_alpha",
    "ffnlayer": LAYER + "feed_forward.hard_concrete_for_layer.log_alpha",
}


def cut_gates(backbone: Backbone, checkpoint: Checkpoint) -> None:
    """Cut a dense backbone to what a file's gates keep, in place.

    The foreign code multiplies the last convolution's channels in front of the norm, where they cannot fold into the
    projection behind it: their soft values stay, as the backbone's channel scale.

    Raises:
        InputError: a gate is of another size than its slot, or of none.
    """
    plan, left = plan_for(backbone), dict(checkpoint.gates)
    kept: dict[str, tuple[int, ...]] = {}
    values: dict[str, torch.Tensor] = {}
    for slot in plan.slots:
        log_alpha = left.pop(NAMES[slot.unit].format(slot.name.rpartition(".")[2]), None)
        kept[slot.name], values[slot.name] = _decide(slot, log_alpha, checkpoint)
    if left:
        raise InputError(f"{checkpoint.file}: gate '{next(iter(left))}' belongs to nothing in the encoder")
    last = [slot.name for slot in plan.slots if slot.unit == "conv"][-1]
    with torch.no_grad():
        backbone.channel_scale.mul_(values[last])
    values[last] = torch.ones_like(values[last])
    narrow(backbone, plan, kept, values)


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


