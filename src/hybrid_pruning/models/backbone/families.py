"""Plans, the slices of tensors, by transformers' names, that belong to each gate, family by family."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.pruning.plan import Cut, Plan, PlanError, Role, Slot, Work
from hybrid_pruning.pruning.shrink import Closed, NarrowLayerNorm

WINDOW, HOP = 400, 160
"""Samples in a window of Whisper's spectrogram and between two: 25 ms every 10 ms."""


@dataclass(frozen=True, slots=True)
class Names:
    """A family's names of the parts of ``encoder.layers.N``.

    Args:
        attention: the self-attention; `attention_norm` and `norm` are in front of the sub-layers of pre-norm models.
        first, second: the two projections of the feed-forward sub-layer.
        feed_forward: the part that leaves its bias when the sub-layer has no neurons left; `silenced` do nothing then.
    """

    attention: str
    attention_norm: str
    first: str
    second: str
    feed_forward: str
    silenced: tuple[str, ...] = ()
    norm: str = "final_layer_norm"


INTERMEDIATE, OUTPUT = "feed_forward.intermediate_dense", "feed_forward.output_dense"
WAV2VEC2 = Names("attention", "layer_norm", INTERMEDIATE, OUTPUT, "feed_forward")
WHISPER = Names("self_attn", "self_attn_layer_norm", "fc1", "fc2", "fc2", ("fc1",))


def declare(backbone: Any, seconds: float) -> Plan:
    """Return the plan of a backbone, dense or already shrunk, with MACs for one utterance of `seconds`."""
    plan_of = _whisper_plan if backbone.config.model_type == "whisper" else _wav2vec2_plan
    return plan_of(backbone, round(seconds * SAMPLE_RATE_HZ))


def whisper_windows(frames: int, positions: int) -> list[int]:
    """Return the ends, in mel frames of 10 ms, of Whisper's windows over an utterance of so many frames.

    They are as few as possible, hold at most `positions` frames of 20 ms, and are equal but for one of these.
    """
    pairs = (frames + 1) // 2
    windows = -(-pairs // positions)
    return [*(2 * (pairs * index // windows) for index in range(1, windows)), frames]


# --- wav2vec 2.0, HuBERT, WavLM ---


def _wav2vec2_plan(model: Any, samples: int) -> Plan:
    positions = {}
    for index, (kernel, stride) in enumerate(zip(model.config.conv_kernel, model.config.conv_stride, strict=True)):
        samples = (samples - kernel) // stride + 1
        positions[f"feature_extractor.conv_layers.{index}.conv.weight"] = samples
    frames = _check_frames(samples)
    positions["feature_projection.projection.weight"] = frames
    conv = model.encoder.pos_conv_embed.conv
    name, _ = max(conv.named_parameters(), key=lambda item: item[1].numel())  # of weight norm's two, the direction
    positions[f"encoder.pos_conv_embed.conv.{name}"] = frames + 2 * conv.padding[0] - conv.kernel_size[0] + 1
    convs = (
        Slot(f"conv.{index}", "conv", layer.conv.weight.shape[0], tuple(_conv_cuts(model, index, layer)), at_least=1)
        for index, layer in enumerate(model.feature_extractor.conv_layers)
    )
    positions |= _layer_positions(model, frames)
    return Plan((*convs, *_layer_slots(model, WAV2VEC2)), positions, tuple(_attention_work(model, WAV2VEC2, frames)))


def _conv_cuts(model: Any, index: int, layer: Any) -> Iterator[Cut]:
    """Yield a channel's cuts: hard where a norm over channels follows, so that it counts as a zero."""
    prefix, norm = f"feature_extractor.conv_layers.{index}", getattr(layer, "layer_norm", None)
    last = index == len(model.feature_extractor.conv_layers) - 1
    before_projection_norm = last and hasattr(model.feature_projection, "layer_norm")
    conv_role = Role.HARD if before_projection_norm or isinstance(norm, (nn.LayerNorm, NarrowLayerNorm)) else Role.DROP
    yield from _cuts(f"{prefix}.conv", layer.conv, 0, conv_role)
    if norm is not None:
        yield from _cuts(f"{prefix}.layer_norm", norm, 0, Role.HARD if before_projection_norm else Role.DROP)
    if not last:
        yield Cut(f"feature_extractor.conv_layers.{index + 1}.conv.weight", 1, Role.SCALE)
        return
    if hasattr(model, "channel_scale"):
        yield Cut("channel_scale", 0, Role.DROP)
    if before_projection_norm:
        yield from _cuts("feature_projection.layer_norm", model.feature_projection.layer_norm, 0, Role.DROP)
    yield Cut("feature_projection.projection.weight", 1, Role.SCALE, multiplied=True)


# --- Whisper ---


def _whisper_plan(model: Any, samples: int) -> Plan:
    frames = _check_frames(samples // HOP if samples > WINDOW // 2 else 0)
    ends = whisper_windows(frames, model.config.max_source_positions)
    windows, longest = len(ends), max(end - start for start, end in pairwise((0, *ends)))  # all are padded to that
    attended = (longest + 1) // 2
    positions = {
        "encoder.conv1.weight": windows * longest,
        "encoder.conv2.weight": windows * attended,
        **_layer_positions(model, windows * attended),
    }
    conv = model.encoder.conv1  # the second convolution's channels are the width of the hidden states
    cuts = (*_cuts("encoder.conv1", conv, 0, Role.DROP), Cut("encoder.conv2.weight", 1, Role.SCALE))
    slots = (Slot("conv.0", "conv", conv.weight.shape[0], cuts, at_least=1), *_layer_slots(model, WHISPER))
    spectrogram = Work(frames * (WINDOW // 2 + 1) * model.config.num_mel_bins, ())  # every mel bin weighs all of them
    return Plan(slots, positions, (spectrogram, *_attention_work(model, WHISPER, attended, windows)))


# --- the layers of all families ---


def _layer_slots(model: Any, names: Names) -> Iterator[Slot]:
    for index in range(len(model.encoder.layers)):
        yield from _attention_slots(model, names, index)
        yield from _feed_forward_slots(model, names, index)


def _attention_slots(model: Any, names: Names, index: int) -> Iterator[Slot]:
    layer = f"encoder.layers.{index}"
    prefix = f"{layer}.{names.attention}"
    attention = model.get_submodule(prefix)
    if isinstance(attention, Closed):
        return
    relative = model.config.model_type == "wavlm"
    outputs = 3 if relative else 2
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    heads = attention.q_proj.weight.shape[0] // head_dim
    inputs = [(f"{prefix}.{name}", getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
    head_cuts = [cut for name, module in inputs for cut in _cuts(name, module, 0, Role.DROP, head_dim)]
    head_cuts.append(Cut(f"{prefix}.out_proj.weight", 1, Role.SCALE, head_dim))
    layer_cuts = [cut for name, module in inputs for cut in _cuts(name, module, None, Role.DROP)]
    layer_cuts += _cuts(f"{prefix}.out_proj", attention.out_proj, None, Role.SCALE)
    if relative:
        gate = list(_cuts(f"{prefix}.gru_rel_pos_linear", attention.gru_rel_pos_linear, None, Role.DROP))
        head_cuts += [Cut(f"{prefix}.gru_rel_pos_const", 1, Role.DROP), *gate]
        layer_cuts += [Cut(f"{prefix}.gru_rel_pos_const", None, Role.DROP), *gate]

    def close(model: Any, kept: tuple[int, ...] = (), bias: nn.Parameter | None = None) -> None:
        if kept:
            return
        model.set_submodule(prefix, Closed(bias, outputs))
        _freeze_before(model, f"{layer}.{names.attention_norm}")
        if relative and all(isinstance(each.attention, Closed) for each in model.encoder.layers):
            model.encoder.position_bias.requires_grad_(False)  # no attention is left that would use it

    def keep_heads(model: Any, kept: tuple[int, ...]) -> None:
        attention = model.get_submodule(prefix)
        if not kept:
            close(model, bias=attention.out_proj.bias)
        elif relative:
            attention.keep_heads(kept)
        else:
            attention.num_heads = len(kept)

    yield Slot(f"head.{index}", "head", heads, tuple(head_cuts), keep_heads)
    yield Slot(f"attlayer.{index}", "attlayer", 1, tuple(layer_cuts), close)


def _feed_forward_slots(model: Any, names: Names, index: int) -> Iterator[Slot]:
    layer = f"encoder.layers.{index}"
    if isinstance(model.get_submodule(f"{layer}.{names.feed_forward}"), Closed):
        return
    first, second = f"{layer}.{names.first}", f"{layer}.{names.second}"
    producer, consumer = model.get_submodule(first), model.get_submodule(second)

    def close(model: Any, kept: tuple[int, ...], bias: nn.Parameter | None = None) -> None:
        if not kept:
            for name in names.silenced:
                model.set_submodule(f"{layer}.{name}", Closed())
            model.set_submodule(f"{layer}.{names.feed_forward}", Closed(bias))
            _freeze_before(model, f"{layer}.{names.norm}")

    def keep_neurons(model: Any, kept: tuple[int, ...]) -> None:
        close(model, kept, model.get_submodule(second).bias)

    neuron_cuts = (*_cuts(first, producer, 0, Role.DROP), Cut(f"{second}.weight", 1, Role.SCALE))
    layer_cuts = (*_cuts(first, producer, None, Role.DROP), *_cuts(second, consumer, None, Role.SCALE))
    yield Slot(f"interm.{index}", "interm", producer.weight.shape[0], neuron_cuts, keep_neurons)
    yield Slot(f"ffnlayer.{index}", "ffnlayer", 1, layer_cuts, close)


def _freeze_before(model: Any, norm: str) -> None:
    """Freeze the norm in front of a closed sub-layer: nothing depends on it, and DDP would wait for its gradient."""
    if getattr(model.config, "do_stable_layer_norm", model.config.model_type == "whisper"):
        model.get_submodule(norm).requires_grad_(False)


def _cuts(prefix: str, module: Any, dim: int | None, role: Role, block: int = 1) -> Iterator[Cut]:
    """Yield the same cut through a module's weight and, where it has one, its bias."""
    for attribute in ("weight", "bias"):
        if getattr(module, attribute, None) is not None:
            yield Cut(f"{prefix}.{attribute}", dim, role, block)


def _check_frames(frames: int) -> int:
    if frames < 1:
        raise PlanError("the utterance that MACs are counted for is shorter than one frame; give more seconds")
    return frames


def _layer_positions(model: Any, frames: int) -> dict[str, int]:
    return {
        f"encoder.layers.{name}.weight": frames
        for name, module in model.encoder.layers.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("gru_rel_pos_linear")
    }


def _attention_work(model: Any, names: Names, frames: int, windows: int = 1) -> Iterator[Work]:
    """Attention within each of an utterance's windows of `frames`."""
    per_width = 2 * frames  # scores, and their product with the values
    if model.config.model_type == "wavlm":
        per_width += 2  # two gates of the position bias from each head's slice of the input
    for index, layer in enumerate(model.encoder.layers):
        attention = layer.get_submodule(names.attention)
        if not isinstance(attention, Closed):
            width = attention.q_proj.weight.shape[0]
            yield Work(windows * frames * per_width * width, (f"head.{index}", f"attlayer.{index}"))
