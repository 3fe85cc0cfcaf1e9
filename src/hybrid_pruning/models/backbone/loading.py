"""A hub id, a transformers folder or a config -> a backbone, with every weight accounted for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import extract_commit_hash

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import split_revision
from hybrid_pruning.models.backbone.base import Backbone
from hybrid_pruning.models.backbone.configs import FAMILIES, build, read_config
from hybrid_pruning.models.backbone.families import HOP, WINDOW
from hybrid_pruning.models.backbone.formats import describe_file, describe_folder
from hybrid_pruning.models.backbone.wav2vec2 import Wav2Vec2Backbone
from hybrid_pruning.models.backbone.weights import find_file, first_line, read_encoder
from hybrid_pruning.models.backbone.whisper import WhisperBackbone
from hybrid_pruning.trees import read_json

WHISPER_REST = ("model.decoder.", "decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")
"""What transformers' Whisper models hold beside the encoder, which is left out knowingly."""
PROCESSOR, EXTRACTOR = "processor_config.json", "preprocessor_config.json"
ASSUMED = "assumed of feat_extract_norm"
"""What the origin of a normalisation begins with that no file speaks of."""
NESTED = ("feature_extractor", "audio_processor")


def load_transformers(name_or_path: str | Path, random: bool = False) -> Backbone:
    """Load an encoder from a hub id or a local transformers folder.

    Args:
        name_or_path: e.g. ``microsoft/wavlm-base``, that ``@`` a revision, or a folder with config.json and its
            weights.
        random: take the architecture alone, with fresh weights.

    Returns:
        The encoder; its `origin` says where the normalisation of waveforms was read, and the hub's commit.

    Raises:
        InputError: it cannot be found or read, is of another family, or lacks weights.
    """
    file = _find_config(name_or_path)
    config = read_config(read_json(file, damaged="no transformers model there"), str(name_or_path))
    name, _ = split_revision(name_or_path)
    origin = {}
    commit = None if Path(name).is_dir() else extract_commit_hash(str(file), None)
    if commit is not None:  # all files are of one state of the repository
        origin = {"hub_id": name, "commit": commit}
        name = f"{name}@{commit}"
    normalize, origin["normalize"] = _read_normalize(name, str(name_or_path), config)
    if random:
        backbone = wrap(build(config), normalize)
    else:
        with torch.device("meta"):  # no time and no memory for weights that are about to be replaced
            model = build(config)
        model.load_state_dict(_weights(name, config, model.state_dict()), strict=True, assign=True)
        backbone = wrap(model, normalize)
    backbone.origin = origin
    if (said := origin["normalize"]).startswith(ASSUMED):
        line = f"{name_or_path}: no {EXTRACTOR} there says whether waveforms are normalised; assumed that they are "
        say(f"{line}{'' if normalize else 'not '}({said})")
    return backbone


def load_config(name_or_path: str | Path) -> Any:
    """Read an encoder's transformers config.

    Raises:
        InputError: there is none, it is of a family without a plan, or it makes no sense.
    """
    return read_config(read_json(_find_config(name_or_path), damaged="no transformers model there"), str(name_or_path))


def skeleton(config: Any, normalize: bool) -> Backbone:
    """Build a dense backbone with fresh float32 weights from a transformers config or its dictionary.

    Raises:
        InputError: the config makes no sense.
    """
    plain = config if isinstance(config, Mapping) else config.to_dict()
    return wrap(build(read_config(plain, "the encoder")), normalize)


def wrap(model: Any, normalize: bool = False) -> Backbone:
    """Make a backbone of transformers' model, whose modules it takes over under their names.

    Args:
        model: a Wav2Vec2Model, HubertModel, WavLMModel, WhisperModel or WhisperEncoder.
        normalize: whether to bring each waveform to zero mean and unit variance first, as the checkpoint was trained.

    Raises:
        InputError: a model type of another family.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise InputError(f"model type '{family}' is not supported; known are {', '.join(FAMILIES)}")
    return (WhisperBackbone if family == "whisper" else Wav2Vec2Backbone)(model, normalize)


def _weights(name: str, config: Any, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read an encoder's weights; what a model of another task holds beside it is left out."""
    if config.model_type == "whisper":
        return read_encoder(name, expected, ("model.encoder.", "encoder."), WHISPER_REST)
    return read_encoder(name, expected, (f"{config.model_type}.",), None, optional=("masked_spec_embed",))


def _find_config(name_or_path: str | Path) -> Path:
    if Path(name_or_path).is_file():
        said = describe_file(Path(name_or_path)) or "is a file, and none that is known; give a folder or a hub id"
        raise InputError(f"{name_or_path}: {said}")
    try:
        file = find_file(name_or_path, "config.json")
        if file is None:
            raise OSError(describe_folder(Path(name_or_path)) or "it holds no config.json")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name_or_path}: no transformers model there ({first_line(error)}); "
            "give a hub id or a folder with config.json and weights"
        ) from error
    return file


def _read_normalize(name: str, shown: str, config: Any) -> tuple[bool, str]:
    """Return whether waveforms are normalised, and what says so, after checks of all else a feature extractor does."""
    settings, file = _read_extractor(name)
    ours: dict[str, Any] = {"sampling_rate": SAMPLE_RATE_HZ, "feature_size": 1}
    kind = "Wav2Vec2FeatureExtractor"
    if whisper := config.model_type == "whisper":
        ours |= {"n_fft": WINDOW, "hop_length": HOP, "feature_size": config.num_mel_bins, "dither": 0.0}
        kind = "WhisperFeatureExtractor"
    if settings is None:
        layer = getattr(config, "feat_extract_norm", None) == "layer"
        return layer, "Whisper's own" if whisper else f"{ASSUMED} {config.feat_extract_norm}"
    for key, value in {**ours, "feature_extractor_type": kind}.items():
        if settings.get(key, value) != value:
            hint = " (config.json's num_mel_bins)" if whisper and key == "feature_size" else ""
            raise InputError(f"{shown}: {file} has {key} {settings[key]!r:.60}, supported is {value}{hint}")
    normalize = settings.get("do_normalize", not whisper)
    if normalize not in (True, False, None) or isinstance(normalize, float):
        raise InputError(f"{shown}: {file} has do_normalize {normalize!r:.60}, expected true or false")
    return bool(normalize), file if "do_normalize" in settings else f"{file}: transformers' default"


def _read_extractor(name: str) -> tuple[dict[str, Any] | None, str]:
    """Return the settings of transformers' feature extractor and their file, as transformers 5 looks for them."""
    for file in (PROCESSOR, EXTRACTOR):
        path = find_file(name, file, optional=True)
        settings: Any = None if path is None else read_json(path, damaged="no transformers model there")
        if settings is not None and file == PROCESSOR:
            settings = next((settings[key] for key in NESTED if settings.get(key) is not None), None)
        if settings is not None:
            if not isinstance(settings, dict):
                raise InputError(f"{path}: the feature extractor's settings are no keys and values")
            return settings, file
    return None, ""


hub_logging.set_verbosity_error()  # an unreachable hub is one line of ours, not one for every retry
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
