"""An encoder's config.json -> transformers' config, made of checked values alone."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hybrid_pruning.errors import InputError, in_one_line

MOST_PARAMETERS = 4_000_000_000
"""Twice the largest published encoder (XLS-R 2B): 16 GB in float32."""
LONGEST_FRAME = 48_000
"""Samples that the convolutions may look at for one frame."""
WORKS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "quantization_config": (None,),
    **dict.fromkeys(("_attn_implementation", "attn_implementation", "_attn_implementation_internal"), WORKS),
    **dict.fromkeys(("dtype", "torch_dtype"), (None, "auto", "float32", "float16", "bfloat16", "float64")),
}
"""Keys that make transformers load other code or weights -> values that are ignored; any other is refused."""

Size = Annotated[int, Field(strict=True, ge=1, le=16_384)]
Width = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=256)]
Sizes = Annotated[tuple[Size, ...], Field(strict=False, min_length=1, max_length=16)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
ACTIVATIONS = (
    "gelu(_10|_accurate|_fast|_new|_python|_pytorch_tanh)?|quick_gelu|relu[26]?|leaky_relu|silu|swish|mish"
    "|tanh|hardswish|linear"
)
"""Those of transformers that have no weights and leave 0 as it is: closed channels are zeros behind them too."""
Activation = Annotated[str, Field(pattern=f"^({ACTIVATIONS})$")]

SHARED: Mapping[str, Any] = {
    **dict.fromkeys(("activation_dropout", "attention_dropout"), Fraction),
    "channel_scale": bool,
    "waveform_eps": Epsilon,
}
WAV2VEC2: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "num_attention_heads"), Size),
    "num_hidden_layers": Layers,
    "intermediate_size": Width,
    **dict.fromkeys(("hidden_act", "feat_extract_activation"), Activation),
    **dict.fromkeys(("hidden_dropout", "feat_proj_dropout", "layerdrop", "initializer_range"), Fraction),
    **dict.fromkeys(("mask_time_prob", "mask_feature_prob"), Fraction),
    "layer_norm_eps": Epsilon,
    "feat_extract_norm": Literal["group", "layer"],
    **dict.fromkeys(("conv_dim", "conv_stride", "conv_kernel"), Sizes),
    **dict.fromkeys(("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"), Size),
    **dict.fromkeys(("conv_bias", "do_stable_layer_norm"), bool),
    **SHARED,
}
OptionalSize = Size | None
ADAPTERS: Mapping[str, Any] = {"adapter_attn_dim": OptionalSize}
HUBERT: Mapping[str, Any] = dict.fromkeys(("feat_proj_layer_norm", "conv_pos_batch_norm"), bool)
WAVLM: Mapping[str, Any] = {
    "num_buckets": Annotated[int, Field(ge=4, le=65_536)],
    "max_bucket_distance": Annotated[int, Field(ge=2, le=1 << 20)],
}
WHISPER: Mapping[str, Any] = {
    **dict.fromkeys(("d_model", "encoder_attention_heads"), Size),
    "encoder_layers": Layers,
    "encoder_ffn_dim": Width,
    "num_mel_bins": Annotated[int, Field(ge=1, le=1024)],
    "max_source_positions": Annotated[int, Field(ge=1, le=65_536)],
    "activation_function": Activation,
    **dict.fromkeys(("dropout", "encoder_layerdrop", "init_std"), Fraction),
    **SHARED,
}
MODELS: Mapping[str, tuple[Any, Any, Mapping[str, Any]]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, {**WAV2VEC2, **ADAPTERS}),
    "hubert": (HubertConfig, HubertModel, {**WAV2VEC2, **ADAPTERS, **HUBERT}),
    "wavlm": (WavLMConfig, WavLMModel, {**WAV2VEC2, **WAVLM}),
    "whisper": (WhisperConfig, WhisperEncoder, WHISPER),
}
"""Model type -> transformers' config and model, and the keys that an encoder depends on; all others are left out."""
FAMILIES = tuple(MODELS)


CHECKS: Mapping[str, type[BaseModel]] = {
    family: create_model(  # type: ignore[call-overload]  # fields by name, each of any kind
        family,
        __config__=ConfigDict(extra="ignore", strict=True, allow_inf_nan=False),
        **{key: (kind, None) for key, kind in kinds.items()},
    )
    for family, (_, _, kinds) in MODELS.items()
}


def read_config(plain: Mapping[str, Any], source: str) -> Any:
    """Return transformers' config of an encoder from the content of a config.json; `source` is named in errors.

    Nothing is allocated before all of it is checked.
    """
    family = plain.get("model_type")
    if family is None:
        raise InputError(f"{source}: no transformers model there (config.json names no model_type)")
    if family in [f"pruned_{name}" for name in MODELS]:
        hint = "is of `convert --to transformers`; give the model that it was converted from"
        raise InputError(f"{source}: model type {_shown(family)} {hint}")
    if not isinstance(family, str) or family not in MODELS:
        raise InputError(f"{source}: model type {_shown(family)}; supported are {', '.join(FAMILIES)}")
    for key, values in HARMLESS.items():
        if plain.get(key) not in values:
            raise InputError(
                f"{source}: {key} {_shown(plain[key])} in its config is not supported; give the plain float32 model"
            )
    try:
        config = MODELS[family][0](**CHECKS[family].model_validate(dict(plain)).model_dump(exclude_unset=True))
    except ValidationError as error:
        first = error.errors()[0]
        key, fault = ".".join(map(str, first["loc"])), f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise InputError(f"{source}: {key} {_shown(first['input'])} in its config: {fault}") from error
    except (ValueError, StrictDataclassError) as error:  # transformers' own checks
        raise InputError(f"{source}: the config makes no sense ({in_one_line(error, 300)})") from error
    for fault in _faults(config):
        raise InputError(f"{source}: {fault} in its config")
    return config


def build(config: Any, **options: Any) -> Any:
    """Return transformers' model of a config from `read_config`, with fresh float32 weights."""
    attention = "eager" if config.model_type == "wavlm" else "sdpa"  # WavLM's is replaced by ours
    return MODELS[config.model_type][1]._from_config(config, attn_implementation=attention, **options)


def frame_samples(config: Any) -> int:
    """Return the samples that the convolutions look at for one frame."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def _faults(config: Any) -> Iterator[str]:
    """Yield the values that do not go together."""
    width, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    if width % heads:
        yield f"hidden_size {width} is no multiple of num_attention_heads {heads}"
    if config.model_type == "whisper":
        if width % 2:
            yield f"d_model {width} is odd"
        neurons = config.encoder_ffn_dim
        parameters = 3 * width * (config.num_mel_bins + width) + config.max_source_positions * width
    else:
        neurons, groups = config.intermediate_size, config.num_conv_pos_embedding_groups
        if width % groups:
            yield f"hidden_size {width} is no multiple of num_conv_pos_embedding_groups {groups}"
        if (samples := frame_samples(config)) > LONGEST_FRAME:
            yield f"conv_kernel and conv_stride make a frame of {samples} samples, more than {LONGEST_FRAME}"
        if config.model_type == "wavlm" and config.max_bucket_distance <= config.num_buckets // 4:
            yield f"max_bucket_distance {config.max_bucket_distance} is too small for {config.num_buckets} num_buckets"
        convs = zip((1, *config.conv_dim), config.conv_dim, config.conv_kernel, strict=False)
        parameters = sum(before * after * kernel for before, after, kernel in convs)
        parameters += width * config.conv_dim[-1] + width * width // groups * config.num_conv_pos_embeddings
        parameters += 2 * layers * width * (getattr(config, "adapter_attn_dim", None) or 0)
    parameters += layers * width * (4 * width + 2 * neurons)
    if parameters > MOST_PARAMETERS:
        yield f"the sizes make {parameters / 1e9:.1f} billion parameters, more than {MOST_PARAMETERS / 1e9:.0f}"


def _shown(value: object) -> str:
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 60, 60
    return short.repr(value)
