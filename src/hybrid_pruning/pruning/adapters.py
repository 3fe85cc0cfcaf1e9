"""Which slice of which tensor belongs to which gate, family by family: wav2vec 2.0 (XLS-R), HuBERT and WavLM.

The only file of the core that knows architectures; it knows them by transformers' parameter names and needs torch only.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from .narrow import Closed
from .plan import Cut, Plan, PlanError, Role, Slot, Work

SAMPLE_RATE_HZ = 16_000
UNITS = ("conv", "head", "attlayer", "interm", "ffnlayer")


def plan_for(model: nn.Module, seconds: float = 4.0) -> Plan:
    """Return the plan of a backbone, with MACs for one utterance of `seconds`.

    Raises:
        PlanError: the model is of no family with a plan or already shrunk, or the utterance is too short for it.
    """
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in ("wav2vec2", "hubert", "wavlm"):
        raise PlanError(f"no plan for models of type '{family}'; known are wav2vec2 (and XLS-R), hubert, wavlm")
    for name, module in model.named_modules():
        if isinstance(module, Closed):
            raise PlanError(f"{name} has lost all its units; this checkpoint is already shrunk, take the dense one")
    lengths = _conv_lengths(model.config, round(seconds * SAMPLE_RATE_HZ))
    slots = [*_conv_slots(model), *_layer_slots(model)]
    return Plan(tuple(slots), _positions(model, lengths), tuple(_attention_work(model, lengths[-1])))


def _conv_slots(model: Any) -> Iterator[Slot]:
    convs = model.feature_extractor.conv_layers
    for index, layer in enumerate(convs):
        last = index == len(convs) - 1
        yield Slot(
            name=f"conv.{index}",
            unit="conv",
            size=layer.conv.weight.shape[0],
            cuts=(*_conv_producer(model, index, last), *_conv_consumer(model, index, last)),
            at_least=1,
        )


def _conv_producer(model: Any, index: int, last: bool) -> Iterator[Cut]:
    """What makes the channel: silenced outright where a norm over channels follows, so that it counts as a zero."""
    prefix = f"feature_extractor.conv_layers.{index}"
    layer = model.feature_extractor.conv_layers[index]
    before_projection_norm = last and hasattr(model.feature_projection, "layer_norm")
    norm = getattr(layer, "layer_norm", None)
    conv_role = Role.HARD if before_projection_norm or isinstance(norm, nn.LayerNorm) else Role.DROP
    yield from _cuts(f"{prefix}.conv", layer.conv, 0, conv_role)
    if norm is not None:
        yield from _cuts(f"{prefix}.layer_norm", norm, 0, Role.HARD if before_projection_norm else Role.DROP)


def _conv_consumer(model: Any, index: int, last: bool) -> Iterator[Cut]:
    if not last:
        yield Cut(f"feature_extractor.conv_layers.{index + 1}.conv.weight", 1, Role.SCALE)
        return
    if hasattr(model.feature_projection, "layer_norm"):
        yield from _cuts("feature_projection.layer_norm", model.feature_projection.layer_norm, 0, Role.DROP)
    yield Cut("feature_projection.projection.weight", 1, Role.SCALE)


def _layer_slots(model: Any) -> Iterator[Slot]:
    for index, layer in enumerate(model.encoder.layers):
        prefix = f"encoder.layers.{index}"
        yield from _attention_slots(model, f"{prefix}.attention", layer.attention, index)
        yield from _feed_forward_slots(f"{prefix}.feed_forward", layer.feed_forward, index)


def _attention_slots(model: Any, prefix: str, attention: Any, index: int) -> Iterator[Slot]:
    relative = model.config.model_type == "wavlm"
    outputs = 3 if relative else 2
    heads, head_dim = model.config.num_attention_heads, model.config.hidden_size // model.config.num_attention_heads
    inputs = [(f"{prefix}.{name}", getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
    head_cuts = [cut for name, module in inputs for cut in _cuts(name, module, 0, Role.DROP, head_dim)]
    head_cuts.append(Cut(f"{prefix}.out_proj.weight", 1, Role.SCALE, head_dim))
    layer_cuts = [cut for name, module in inputs for cut in _cuts(name, module, None, Role.DROP)]
    layer_cuts += _cuts(f"{prefix}.out_proj", attention.out_proj, None, Role.SCALE)
    if relative:
        gate = list(_cuts(f"{prefix}.gru_rel_pos_linear", attention.gru_rel_pos_linear, None, Role.DROP))
        head_cuts += [Cut(f"{prefix}.gru_rel_pos_const", 1, Role.DROP), *gate]
        layer_cuts += [Cut(f"{prefix}.gru_rel_pos_const", None, Role.DROP), *gate]

    def keep_heads(model: nn.Module, kept: tuple[int, ...]) -> None:
        attention: Any = model.get_submodule(prefix)
        if not kept:
            model.set_submodule(prefix, Closed(attention.out_proj.bias, outputs))
        elif relative:
            attention.keep_heads(kept)
        else:
            attention.num_heads = len(kept)

    def keep_layer(model: nn.Module, kept: tuple[int, ...]) -> None:
        if not kept:
            model.set_submodule(prefix, Closed(outputs=outputs))

    yield Slot(f"head.{index}", "head", heads, tuple(head_cuts), keep_heads)
    yield Slot(f"attlayer.{index}", "attlayer", 1, tuple(layer_cuts), keep_layer)


def _feed_forward_slots(prefix: str, feed_forward: Any, index: int) -> Iterator[Slot]:
    first, second = feed_forward.intermediate_dense, feed_forward.output_dense

    def keep_neurons(model: nn.Module, kept: tuple[int, ...]) -> None:
        if not kept:
            model.set_submodule(prefix, Closed(model.get_submodule(f"{prefix}.output_dense").bias))  # type: ignore[arg-type]

    def keep_layer(model: nn.Module, kept: tuple[int, ...]) -> None:
        if not kept:
            model.set_submodule(prefix, Closed())

    neuron_cuts = (
        *_cuts(f"{prefix}.intermediate_dense", first, 0, Role.DROP),
        Cut(f"{prefix}.output_dense.weight", 1, Role.SCALE),
    )
    layer_cuts = (
        *_cuts(f"{prefix}.intermediate_dense", first, None, Role.DROP),
        *_cuts(f"{prefix}.output_dense", second, None, Role.SCALE),
    )
    yield Slot(f"interm.{index}", "interm", first.weight.shape[0], neuron_cuts, keep_neurons)
    yield Slot(f"ffnlayer.{index}", "ffnlayer", 1, layer_cuts, keep_layer)


def _cuts(prefix: str, module: Any, dim: int | None, role: Role, block: int = 1) -> Iterator[Cut]:
    """The same cut through a module's weight and, where it has one, its bias."""
    for attribute in ("weight", "bias"):
        if getattr(module, attribute, None) is not None:
            yield Cut(f"{prefix}.{attribute}", dim, role, block)


def _conv_lengths(config: Any, samples: int) -> list[int]:
    lengths = []
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
        lengths.append(samples)
    if samples < 1:
        raise PlanError("the utterance that MACs are counted for is shorter than one frame; give more seconds")
    return lengths


def _positions(model: Any, lengths: list[int]) -> dict[str, int]:
    frames = lengths[-1]
    positions = {f"feature_extractor.conv_layers.{i}.conv.weight": length for i, length in enumerate(lengths)}
    positions["feature_projection.projection.weight"] = frames
    conv = model.encoder.pos_conv_embed.conv
    name, _ = max(conv.named_parameters(), key=lambda item: item[1].numel())  # of weight norm's two, the direction
    positions[f"encoder.pos_conv_embed.conv.{name}"] = frames + 2 * conv.padding[0] - conv.kernel_size[0] + 1
    for name, module in model.encoder.layers.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("gru_rel_pos_linear"):
            positions[f"encoder.layers.{name}.weight"] = frames
    return positions


def _attention_work(model: Any, frames: int) -> Iterator[Work]:
    width = model.config.hidden_size
    per_frame = 2 * frames * width  # scores, and their product with the values
    if model.config.model_type == "wavlm":
        per_frame += 2 * width  # two gates of the position bias from each head's slice of the input
    for index in range(len(model.encoder.layers)):
        yield Work(frames * per_frame, (f"head.{index}", f"attlayer.{index}"))
