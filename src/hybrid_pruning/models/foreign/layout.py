"""A foreign config -> a dense skeleton of transformers' and the units of it that are left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_pruning.errors import InputError

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
BLAME = {  # part of a tensor's name -> what in the config decides its size
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
PER_LAYER = ("encoder_use_attention", "encoder_use_feed_forward", "encoder_ff_interm_features")


@dataclass(frozen=True, slots=True)
class Layout:
    """An encoder: the skeleton it is cut from, and the cut.

    The convolutions of the skeleton have the widths that are left, because the foreign code's norm after them averages
    over those alone.

    Args:
        config: transformers' config of the skeleton, as plain values.
        normalize: whether each waveform is brought to zero mean and unit variance first.
        kept: slot name -> units that are left, of heads, neurons and layers.
    """

    config: Mapping[str, Any]
    normalize: bool
    kept: Mapping[str, tuple[int, ...]]


def read_layout(config: Mapping[str, Any], source: str) -> Layout:
    """Understand a foreign config.

    Args:
        config: as WeDefense, DPHuBERT and DiariZen write it.
        source: the file to name in errors.

    Raises:
        InputError: a value is missing or makes no sense; the message names it.
    """
    try:
        return _layout(config)
    except KeyError as error:
        raise InputError(f"{source}: the config lacks {error}; was the file written by an older program?") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{source}: the config cannot be understood ({error})") from error


def blame(name: str) -> str:
    """Return what in a foreign config decides a tensor's size."""
    return next((key for part, key in BLAME.items() if part in name), "encoder_embed_dim")


def _layout(config: Mapping[str, Any]) -> Layout:
    relative = "encoder_remaining_heads" in config
    heads, width, layers = _heads(config), int(config["encoder_embed_dim"]), int(config["encoder_num_layers"])
    for key in PER_LAYER:
        _check_layers(key, config[key], layers)
    total = int(config["encoder_total_num_heads"][0]) if relative else width // int(config["encoder_head_dim"])
    if width % total:
        raise ValueError(f"encoder_embed_dim {width} is no multiple of {total} heads")
    about = {theirs: config[ours] for ours, theirs in {**PLAIN, **(WAVLM if relative else {})}.items()}
    about |= _convolutions(config) | {"model_type": "wavlm" if relative else "hubert", "num_attention_heads": total}
    about["intermediate_size"] = max(int(size) for size in config["encoder_ff_interm_features"])
    about |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}  # there is no embedding of masked frames
    normalize = bool(config["normalize_waveform"])
    return Layout(about | ({"waveform_eps": WAVEFORM_EPS} if normalize else {}), normalize, _kept(config, heads))


def _heads(config: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The heads that are left of each layer; where no position bias tells them apart, the first ones."""
    layers = int(config["encoder_num_layers"])
    if "encoder_remaining_heads" in config:
        _check_layers("encoder_remaining_heads", config["encoder_remaining_heads"], layers)
        return [tuple(int(head) for head in heads) for heads in config["encoder_remaining_heads"]]
    _check_layers("encoder_num_heads", config["encoder_num_heads"], layers)
    return [_range(count) for count in config["encoder_num_heads"]]


def _convolutions(config: Mapping[str, Any]) -> dict[str, Any]:
    widths, kernels, strides = zip(*config["extractor_conv_layer_config"], strict=True)
    mode = config["extractor_mode"]
    if mode not in MODES:
        raise ValueError(f"extractor_mode '{mode}', expected {' or '.join(MODES)}")
    found = {"conv_dim": widths, "conv_kernel": kernels, "conv_stride": strides}
    sizes = {key: [int(size) for size in value] for key, value in found.items()}
    return {**sizes, "num_feat_extract_layers": len(widths), "feat_extract_norm": MODES[mode]}


def _kept(config: Mapping[str, Any], heads: Sequence[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    kept: dict[str, tuple[int, ...]] = {}
    for index, units in enumerate(heads):
        kept[f"head.{index}"] = units
        kept[f"attlayer.{index}"] = (0,) if config["encoder_use_attention"][index] else ()
        kept[f"interm.{index}"] = _range(config["encoder_ff_interm_features"][index])
        kept[f"ffnlayer.{index}"] = (0,) if config["encoder_use_feed_forward"][index] else ()
    return kept


def _range(count: Any) -> tuple[int, ...]:
    """Return so many units; what a damaged config claims is not written out in memory."""
    if not 0 <= int(count) <= MOST_UNITS:
        raise ValueError(f"{count} heads or neurons in a layer, expected 0 to {MOST_UNITS}")
    return tuple(range(int(count)))


def _check_layers(key: str, values: Sequence[Any], layers: int) -> None:
    if len(values) != layers:
        raise ValueError(f"{key} is of {len(values)} layers, encoder_num_layers says {layers}")
