"""A hub id, a transformers folder or a config -> a backbone, with every weight accounted for."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging as transformers_logging

from hybrid_pruning.errors import InputError

from . import wav2vec2, whisper
from .base import Backbone
from .logmel import HOP, SAMPLE_RATE_HZ, WINDOW
from .wav2vec2 import Wav2Vec2Backbone
from .weights import find_file, first_line, read_encoder
from .whisper import WhisperBackbone

FAMILIES = (*wav2vec2.FAMILIES, *whisper.FAMILIES)
WHISPER_PREFIXES = ("model.encoder.", "encoder.")
WHISPER_REST = ("model.decoder.", "decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")
"""What transformers' Whisper models hold beside the encoder, which is left out knowingly."""


def load_transformers(name_or_path: str | Path, random: bool = False) -> Backbone:
    """Load an encoder from a hub id or a local transformers folder.

    Args:
        name_or_path: e.g. ``microsoft/wavlm-base`` or a folder with config.json and its weights.
        random: take the architecture alone, with fresh weights.

    Raises:
        InputError: it cannot be found or read, is of another family, or lacks weights.
    """
    config = load_config(name_or_path)
    preprocessor = _read_preprocessor(name_or_path)
    normalize = bool(preprocessor.get("do_normalize", False))
    if config.model_type in whisper.FAMILIES:
        _check_spectrogram(name_or_path, config, preprocessor)
    if random:
        return skeleton(config, normalize)
    load = _load_whisper if config.model_type in whisper.FAMILIES else _load_wav2vec2
    return wrap(load(name_or_path, config), normalize)


def load_config(name_or_path: str | Path) -> Any:
    """Read an encoder's transformers config.

    Raises:
        InputError: there is none, or it is of a family without a plan.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{name_or_path}: no transformers model there ({first_line(error)}); "
            "give a hub id or a folder with config.json and weights"
        ) from error
    if config.model_type not in FAMILIES:
        raise InputError(f"{name_or_path}: model type '{config.model_type}'; supported are {', '.join(FAMILIES)}")
    return config


def skeleton(config: Any, normalize: bool) -> Backbone:
    """Build a dense backbone with fresh float32 weights from a transformers config or its dictionary."""
    if isinstance(config, dict):
        config = AutoConfig.for_model(**config)
    if config.model_type in whisper.FAMILIES:
        return wrap(_whisper_encoder(config), normalize)
    return wrap(AutoModel.from_config(config, attn_implementation=_attention(config), dtype=_dtype(config)), normalize)


def wrap(model: Any, normalize: bool = False) -> Backbone:
    """Make a backbone of transformers' model, whose modules it takes over under their names.

    Args:
        model: a Wav2Vec2Model, HubertModel, WavLMModel, WhisperModel or WhisperEncoder.
        normalize: whether to bring each waveform to zero mean and unit variance first, as the checkpoint was trained.

    Raises:
        InputError: a model type of another family.
    """
    family = model.config.model_type
    if family in wav2vec2.FAMILIES:
        return Wav2Vec2Backbone(model, normalize)
    if family in whisper.FAMILIES:
        return WhisperBackbone(model, normalize)
    raise InputError(f"model type '{family}' is not supported; known are {', '.join(FAMILIES)}")


def _load_wav2vec2(name_or_path: str | Path, config: Any) -> Any:
    try:
        model, info = AutoModel.from_pretrained(
            name_or_path,
            attn_implementation=_attention(config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise InputError(f"{name_or_path}: the weights cannot be loaded ({first_line(error)})") from error
    missing = sorted(set(info["missing_keys"]) - {"masked_spec_embed"})
    if missing or info.get("mismatched_keys"):
        raise InputError(
            f"{name_or_path}: {len(missing)} weights are missing from the checkpoint or of the wrong size, first "
            f"'{(missing or sorted(map(str, info['mismatched_keys'])))[0]}'; they would be random"
        )
    return model


def _load_whisper(name_or_path: str | Path, config: Any) -> Any:
    """Load the encoder alone; transformers' own loading would leave it random without a word."""
    with torch.device("meta"):  # no time for weights that are about to be replaced
        encoder = _whisper_encoder(config)
    shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    weights = read_encoder(name_or_path, shapes, WHISPER_PREFIXES, WHISPER_REST)
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder


def _whisper_encoder(config: Any) -> Any:
    return WhisperEncoder._from_config(config, attn_implementation=_attention(config), dtype=_dtype(config))


def _attention(config: Any) -> str:
    return "eager" if config.model_type == "wavlm" else "sdpa"  # WavLM's is replaced by ours


def _dtype(config: Any) -> torch.dtype | None:
    """float32 also where the checkpoint was stored in half of it; None, torch's own, where nothing is said."""
    return None if config.dtype is None else torch.float32


def _read_preprocessor(name_or_path: str | Path) -> dict[str, Any]:
    """Return the checkpoint's preprocessor_config.json, empty where there is none."""
    file = find_file(name_or_path, "preprocessor_config.json", optional=True)
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: is not a preprocessor's JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: is not a preprocessor's JSON (expected keys and values)")
    return found


def _check_spectrogram(name_or_path: str | Path, config: Any, preprocessor: dict[str, Any]) -> None:
    """Refuse a Whisper that was trained on another spectrogram than ours."""
    ours = {"sampling_rate": SAMPLE_RATE_HZ, "n_fft": WINDOW, "hop_length": HOP, "feature_size": config.num_mel_bins}
    for key, value in ours.items():
        if preprocessor.get(key, value) != value:
            raise InputError(
                f"{name_or_path}: preprocessor_config.json has {key} {preprocessor[key]}, supported is {value} "
                "(for feature_size, config.json's num_mel_bins)"
            )


hub_logging.set_verbosity_error()  # an unreachable hub is one line of ours, not one for every retry
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()  # its report of unused keys fills the screen; missing ones are an error here
