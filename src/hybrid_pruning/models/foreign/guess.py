"""A foreign config from the tensors alone, for whole models, which have none: widths are read, conventions assumed."""

from collections.abc import Mapping
from typing import Any

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.foreign.tensors import Checkpoint

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Of wav2vec 2.0, HuBERT and WavLM; strides leave no trace in the tensors."""
HEAD_DIM = 64
"""Of all published HuBERT and wav2vec 2.0 models."""
DROPOUT = 0.1
DROPOUTS = ("projection_dropout", "attention_dropout", "ff_interm_dropout", "dropout")
FIXED = (
    *("extractor_mode", "encoder_layer_norm_first", "normalize_waveform", "encoder_head_dim"),
    *("encoder_num_buckets", "encoder_max_distance", *(f"encoder_{name}" for name in DROPOUTS)),
)
"""What pruning leaves as it is, and a config of the pruned model therefore knows of the gated one."""
LAYER = "encoder.transformer.layers."


def guess_config(checkpoint: Checkpoint, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a foreign config would say.

    Args:
        checkpoint: the tensors.
        known: the config of the same model after pruning, where there is one: what it says of strides, style and
            normalisation then counts.

    Raises:
        InputError: the tensors leave something open; the message says what to put beside the file.
    """
    try:
        guessed = _guess(checkpoint)
    except (KeyError, IndexError) as error:
        raise InputError(f"{checkpoint.file}: lacks weights of an encoder ({error}); is it a whole model?") from error
    if known is None:
        return guessed
    guessed |= {key: known[key] for key in FIXED if key in known}
    strides = [stride for _, _, stride in known["extractor_conv_layer_config"]]
    convs = zip(guessed["extractor_conv_layer_config"], strides, strict=True)
    return guessed | {"extractor_conv_layer_config": [(width, kernel, stride) for (width, kernel, _), stride in convs]}


def _guess(checkpoint: Checkpoint) -> dict[str, Any]:
    encoder = checkpoint.encoder
    width, large = len(encoder["encoder.feature_projection.projection.weight"]), _is_large(encoder)
    layers = 1 + max(int(name.removeprefix(LAYER).split(".")[0]) for name in encoder if name.startswith(LAYER))
    positions = encoder["encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1"]
    return {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": _convolutions(checkpoint),
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in encoder,
        "encoder_embed_dim": width,
        "encoder_num_layers": layers,
        "encoder_pos_conv_kernel": positions.shape[2],
        "encoder_pos_conv_groups": width // positions.shape[1],
        "encoder_use_attention": [_has(encoder, layer, "attention.q_proj") for layer in range(layers)],
        "encoder_use_feed_forward": [_has(encoder, layer, "feed_forward.output_dense") for layer in range(layers)],
        "encoder_ff_interm_features": [
            _rows(encoder, layer, "feed_forward.intermediate_dense") for layer in range(layers)
        ],
        "encoder_layer_norm_first": large,
        "normalize_waveform": large,
        "encoder_layer_drop": 0.0,
        **{f"encoder_{name}": DROPOUT for name in DROPOUTS},
        **_heads(checkpoint, width, layers),
    }


def _convolutions(checkpoint: Checkpoint) -> list[tuple[int, int, int]]:
    names = [f"feature_extractor.conv_layers.{index}.conv.weight" for index in range(len(KERNELS))]
    weights = [checkpoint.encoder[name] for name in names]
    if (kernels := tuple(weight.shape[-1] for weight in weights)) != KERNELS:
        raise InputError(
            f"{checkpoint.file}: convolutions with kernels {kernels}, whose strides cannot be guessed; "
            "put the encoder's pytorch_model.bin beside it"
        )
    return [(len(weight), weight.shape[-1], stride) for weight, stride in zip(weights, STRIDES, strict=True)]


def _heads(checkpoint: Checkpoint, width: int, layers: int) -> dict[str, Any]:
    encoder = checkpoint.encoder
    constants = [tensor.shape[1] for name, tensor in encoder.items() if name.endswith("gru_rel_pos_const")]
    gated = [len(tensor) for name, tensor in checkpoint.gates.items() if "_for_heads" in name]
    total = (constants or gated or [width // HEAD_DIM])[0]
    counts = [_rows(encoder, layer, "attention.q_proj") * total // width for layer in range(layers)]
    if not constants:
        return {"encoder_num_heads": counts, "encoder_head_dim": width // total}
    used = [count for layer, count in enumerate(counts) if _has(encoder, layer, "attention.q_proj")]
    if any(count != total for count in used):
        raise InputError(
            f"{checkpoint.file}: has lost attention heads, and only a config says which; "
            "put the encoder's pytorch_model.bin or pruned_config.json beside it"
        )
    buckets = [len(tensor) for name, tensor in encoder.items() if name.endswith("rel_attn_embed.weight")]
    return {
        "encoder_total_num_heads": [total] * layers,
        "encoder_remaining_heads": [list(range(total))] * layers,
        "encoder_num_buckets": (buckets or [320])[0],
        "encoder_max_distance": 800,
    }


def _is_large(encoder: Mapping[str, Any]) -> bool:
    """Norms in every convolution, as in the Large models, which are also pre-norm and take normalised waveforms."""
    return "feature_extractor.conv_layers.1.layer_norm.weight" in encoder


def _has(encoder: Mapping[str, Any], layer: int, part: str) -> bool:
    return f"{LAYER}{layer}.{part}.weight" in encoder


def _rows(encoder: Mapping[str, Any], layer: int, part: str) -> int:
    return len(encoder[f"{LAYER}{layer}.{part}.weight"]) if _has(encoder, layer, part) else 0
