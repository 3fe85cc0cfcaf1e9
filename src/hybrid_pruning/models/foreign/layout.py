"""A foreign config, stated or read off the tensors -> a dense skeleton of transformers' and its kept units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.foreign.checkpoint import (
    BACKBONE,
    Checkpoint,
    neighbours,
    read_checkpoint,
    read_descriptions,
)

PLAIN = {
    "encoder_embed_dim": "hidden_size",
    "encoder_num_layers": "num_hidden_layers",
    "encoder_pos_conv_kernel": "num_conv_pos_embeddings",
    "encoder_pos_conv_groups": "num_conv_pos_embedding_groups",
    "encoder_layer_norm_first": "do_stable_layer_norm",
    "encoder_projection_dropout": "feat_proj_dropout",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "hidden_dropout",
    "encoder_layer_drop": "layerdrop",
    "extractor_conv_bias": "conv_bias",
}
WAVLM = {"encoder_num_buckets": "num_buckets", "encoder_max_distance": "max_bucket_distance"}
MODES = {"group_norm": "group", "layer_norm": "layer"}
DECIDING = {  # part of a tensor's name -> the keys of the config that decide its size
    "feature_extractor.": "extractor_conv_layer_config",
    "feature_projection.layer_norm": "extractor_conv_layer_config",
    "pos_conv_embed": "encoder_pos_conv_kernel, encoder_pos_conv_groups",
    "rel_attn_embed": "encoder_num_buckets, encoder_total_num_heads",
    ".attention.": "encoder_remaining_heads (or encoder_num_heads)",
    ".feed_forward.": "encoder_ff_interm_features",
}
WAVEFORM_EPS = 1e-5
"""The foreign code normalises waveforms by torch's layer norm."""
MOST_UNITS = 65_536
"""In one layer, by far."""
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Of wav2vec 2.0, HuBERT and WavLM; strides leave no trace in the tensors."""
HEAD_DIM = 64
"""Of all published HuBERT and wav2vec 2.0 models."""
DROPOUTS = {f"encoder_{name}dropout": 0.1 for name in ("projection_", "attention_", "ff_interm_", "")}
UNPRUNED = (
    *("extractor_mode", "encoder_layer_norm_first", "normalize_waveform", "encoder_head_dim"),
    *("encoder_num_buckets", "encoder_max_distance", *DROPOUTS),
)
"""Keys that pruning leaves as they are: a pruned model's config has the gated one's values."""
LAYER = "encoder.transformer.layers."


@dataclass(frozen=True, slots=True)
class Layout:
    """An encoder: transformers' config of the skeleton it is cut from, and its kept heads, neurons and layers by slot.

    The convolutions of the skeleton have the widths that are kept, because the foreign code's norm after them averages
    over those alone.
    """

    config: Mapping[str, Any]
    normalize: bool
    kept: Mapping[str, tuple[int, ...]]


def find_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the encoder's config: the file's own, a neighbour's, or one read off the tensors."""
    if checkpoint.config is not None:
        return checkpoint.config
    known = next((found for found in read_descriptions(checkpoint.file) if "extractor_mode" in found), None)
    if known is None and (encoders := neighbours(checkpoint.file, [BACKBONE])):
        known = read_checkpoint(encoders[0]).config
    if known is not None and not checkpoint.gates:
        return known
    try:
        found = _read_off(checkpoint)
    except (KeyError, IndexError) as error:
        raise InputError(f"{checkpoint.file}: lacks weights of an encoder ({error}); is it a whole model?") from error
    if known is None:
        return found
    found |= {key: known[key] for key in UNPRUNED if key in known}
    strides = [stride for _, _, stride in known["extractor_conv_layer_config"]]
    convs = zip(found["extractor_conv_layer_config"], strides, strict=True)
    return found | {"extractor_conv_layer_config": [(width, kernel, stride) for (width, kernel, _), stride in convs]}


def read_layout(config: Mapping[str, Any], source: str) -> Layout:
    """Understand a config as WeDefense, DPHuBERT and DiariZen write it; `source` is its file, for errors."""
    try:
        return _read_layout(config)
    except KeyError as error:
        raise InputError(f"{source}: the config lacks {error}; was the file written by an older program?") from error
    except (TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise InputError(f"{source}: the config cannot be understood ({error})") from error


def config_keys(name: str) -> str:
    """Return the keys of a foreign config that decide a tensor's size."""
    return next((key for part, key in DECIDING.items() if part in name), "encoder_embed_dim")


def _read_layout(config: Mapping[str, Any]) -> Layout:
    relative = "encoder_remaining_heads" in config
    heads_key = "encoder_remaining_heads" if relative else "encoder_num_heads"
    width, layers = int(config["encoder_embed_dim"]), int(config["encoder_num_layers"])
    keys = ("encoder_use_attention", "encoder_use_feed_forward", "encoder_ff_interm_features", heads_key)
    for key in keys:
        if len(config[key]) != layers:
            raise ValueError(f"{key} is of {len(config[key])} layers, encoder_num_layers says {layers}")
    use_attention, use_ffn, neurons, heads = (config[key] for key in keys)
    total = int(config["encoder_total_num_heads"][0]) if relative else width // int(config["encoder_head_dim"])
    if width % total:
        raise ValueError(f"encoder_embed_dim {width} is no multiple of {total} heads")
    kept: dict[str, tuple[int, ...]] = {}
    for index in range(layers):  # where no position bias distinguishes heads, the first ones are kept
        kept[f"head.{index}"] = tuple(map(int, heads[index])) if relative else _first(heads[index])
        kept[f"attlayer.{index}"] = (0,) if use_attention[index] else ()
        kept[f"interm.{index}"] = _first(neurons[index])
        kept[f"ffnlayer.{index}"] = (0,) if use_ffn[index] else ()
    widths, kernels, strides = zip(*config["extractor_conv_layer_config"], strict=True)
    convolutions = {"conv_dim": widths, "conv_kernel": kernels, "conv_stride": strides}
    if (mode := config["extractor_mode"]) not in MODES:
        raise ValueError(f"extractor_mode '{mode}', expected {' or '.join(MODES)}")
    normalize = bool(config["normalize_waveform"])
    about = {
        **{theirs: config[ours] for ours, theirs in {**PLAIN, **(WAVLM if relative else {})}.items()},
        **{key: [int(size) for size in sizes] for key, sizes in convolutions.items()},
        **{"model_type": "wavlm" if relative else "hubert", "num_attention_heads": total},
        **{"intermediate_size": max(map(int, neurons))},
        **{"num_feat_extract_layers": len(widths), "feat_extract_norm": MODES[mode]},
        **{"mask_time_prob": 0.0, "mask_feature_prob": 0.0},  # there is no embedding of masked frames
        **({"waveform_eps": WAVEFORM_EPS} if normalize else {}),
    }
    return Layout(about, normalize, kept)


def _first(count: Any) -> tuple[int, ...]:
    """Return the first so many units; the count of a damaged config is not written out in memory."""
    if not 0 <= int(count) <= MOST_UNITS:
        raise ValueError(f"{count} heads or neurons in a layer, expected 0 to {MOST_UNITS}")
    return tuple(range(int(count)))


# --- a config read off the tensors of a whole model, which has none: widths are read, conventions assumed ---


def _read_off(checkpoint: Checkpoint) -> dict[str, Any]:
    encoder = checkpoint.encoder
    width = len(encoder["encoder.feature_projection.projection.weight"])
    # norms in every convolution are those of the Large models, which are also pre-norm and take normalised waveforms
    large = "feature_extractor.conv_layers.1.layer_norm.weight" in encoder
    layers = range(1 + max(int(name.removeprefix(LAYER).split(".")[0]) for name in encoder if name.startswith(LAYER)))
    positions = encoder["encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1"]
    weights = [encoder[f"feature_extractor.conv_layers.{index}.conv.weight"] for index in range(len(KERNELS))]
    if (kernels := tuple(weight.shape[-1] for weight in weights)) != KERNELS:
        raise InputError(
            f"{checkpoint.file}: convolutions with kernels {kernels}, whose strides cannot be guessed; "
            "put the encoder's pytorch_model.bin beside it"
        )
    attention, ffn_in, ffn_out = (
        [encoder.get(f"{LAYER}{layer}.{part}.weight") for layer in layers]
        for part in ("attention.q_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense")
    )
    return {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": [(len(w), w.shape[-1], s) for w, s in zip(weights, STRIDES, strict=True)],
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in encoder,
        "encoder_embed_dim": width,
        "encoder_num_layers": len(layers),
        "encoder_pos_conv_kernel": positions.shape[2],
        "encoder_pos_conv_groups": width // positions.shape[1],
        "encoder_use_attention": [weight is not None for weight in attention],
        "encoder_use_feed_forward": [weight is not None for weight in ffn_out],
        "encoder_ff_interm_features": [0 if weight is None else len(weight) for weight in ffn_in],
        "encoder_layer_norm_first": large,
        "normalize_waveform": large,
        "encoder_layer_drop": 0.0,
        **DROPOUTS,
        **_read_off_heads(checkpoint, width, [None if weight is None else len(weight) for weight in attention]),
    }


def _read_off_heads(checkpoint: Checkpoint, width: int, rows: Sequence[int | None]) -> dict[str, Any]:
    """Return the heads, from the rows of each layer's queries, None where a layer has no attention."""
    encoder = checkpoint.encoder
    constants = [tensor.shape[1] for name, tensor in encoder.items() if name.endswith("gru_rel_pos_const")]
    gated = [len(tensor) for name, tensor in checkpoint.gates.items() if "_for_heads" in name]
    total = (constants or gated or [width // HEAD_DIM])[0]
    if not constants:
        counts = [(count or 0) * total // width for count in rows]
        return {"encoder_num_heads": counts, "encoder_head_dim": width // total}
    if any(count is not None and count * total // width != total for count in rows):
        raise InputError(
            f"{checkpoint.file}: has lost attention heads, and only a config says which; "
            "put the encoder's pytorch_model.bin or pruned_config.json beside it"
        )
    buckets = [len(tensor) for name, tensor in encoder.items() if name.endswith("rel_attn_embed.weight")]
    return {
        "encoder_total_num_heads": [total] * len(rows),
        "encoder_remaining_heads": [list(range(total))] * len(rows),
        "encoder_num_buckets": (buckets or [320])[0],
        "encoder_max_distance": 800,
    }
