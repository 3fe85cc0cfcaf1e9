"""A hub id, a transformers folder or a config -> a backbone, with every weight accounted for."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file, extract_commit_hash

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError, first_line
from hybrid_pruning.files import split_revision
from hybrid_pruning.models.backbone.base import Backbone
from hybrid_pruning.models.backbone.configs import FAMILIES, build, read_config
from hybrid_pruning.models.backbone.families import HOP, WINDOW
from hybrid_pruning.models.backbone.formats import describe_file, describe_folder
from hybrid_pruning.models.backbone.wav2vec2 import Wav2Vec2Backbone
from hybrid_pruning.models.backbone.whisper import WhisperBackbone
from hybrid_pruning.trees import read_json

FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
"""Appended to either name where the weights are spread over several files."""
PROCESSOR, EXTRACTOR = "processor_config.json", "preprocessor_config.json"
NESTED = ("feature_extractor", "audio_processor")
ASSUMED = "assumed of feat_extract_norm"
"""Begins the origin of a normalisation that no file states."""
NO_MODEL = "no transformers model there"
WHISPER_REST = ("model.decoder.", "decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")
"""Other parts of transformers' Whisper models, which are left out knowingly."""
DAMAGED = (
    *(OSError, RuntimeError, ValueError, EOFError, AttributeError, TypeError, LookupError),
    *(SafetensorError, UnpicklingError),
)
"""Raised when reading a file that is damaged, or holds something else."""


def load_transformers(name_or_path: str | Path, random: bool = False) -> Backbone:
    """Load an encoder from a hub id (with ``@`` a revision or without) or a folder; `random`: with fresh weights."""
    file = _find_config(name_or_path)
    config = read_config(read_json(file, damaged=NO_MODEL), str(name_or_path))
    name, _ = split_revision(name_or_path)
    origin = {}
    commit = None if Path(name).is_dir() else extract_commit_hash(str(file), None)
    if commit is not None:  # all files are of one state of the repository
        origin = {"hub_id": name, "commit": commit}
        name = f"{name}@{commit}"
    normalize, source = _read_normalize(name, str(name_or_path), config)
    if random:
        model = build(config)
    else:
        with torch.device("meta"):  # no time and no memory for weights that are about to be replaced
            model = build(config)
        model.load_state_dict(_read_weights(name, config, model.state_dict()), strict=True, assign=True)
    backbone = wrap(model, normalize)
    backbone.origin = {**origin, "normalize": source}
    if source.startswith(ASSUMED):
        line = f"{name_or_path}: no {EXTRACTOR} there says whether waveforms are normalised; assumed that they are "
        say(f"{line}{'' if normalize else 'not '}({source})")
    return backbone


def load_config(name_or_path: str | Path) -> Any:
    """Read an encoder's transformers config from a hub id or a local folder."""
    return read_config(read_json(_find_config(name_or_path), damaged=NO_MODEL), str(name_or_path))


def skeleton(config: Any, normalize: bool) -> Backbone:
    """Build a dense backbone with fresh float32 weights from a transformers config or its dictionary."""
    plain = config if isinstance(config, Mapping) else config.to_dict()
    return wrap(build(read_config(plain, "the encoder")), normalize)


def wrap(model: Any, normalize: bool = False) -> Backbone:
    """Make a backbone of a Wav2Vec2Model, HubertModel, WavLMModel, WhisperModel or WhisperEncoder, which it takes over.

    `normalize` brings each waveform to zero mean and unit variance first, as the checkpoint was trained.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise InputError(f"model type '{family}' is not supported; known are {', '.join(FAMILIES)}")
    return (WhisperBackbone if family == "whisper" else Wav2Vec2Backbone)(model, normalize)


def read_pickle(file: Path) -> Any:
    """Read tensors and plain values, or raise one of `DAMAGED`; nothing in the file is executed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's guesses at the kind of a damaged file
        return torch.load(file, map_location="cpu", weights_only=True)


def to_new_name(name: str) -> str:
    """Return the name of a weight; those of weight normalisation were others before torch 2."""
    for old, new in (("g", "original0"), ("v", "original1")):
        name = name.replace(f".conv.weight_{old}", f".conv.parametrizations.weight.{new}")
    return name


def _find_config(name_or_path: str | Path) -> Path:
    if Path(name_or_path).is_file():
        kind = describe_file(Path(name_or_path)) or "is a file, and none that is known; give a folder or a hub id"
        raise InputError(f"{name_or_path}: {kind}")
    try:
        if (file := _find_file(name_or_path, "config.json")) is not None:
            return file
        raise OSError(describe_folder(Path(name_or_path)) or "it holds no config.json")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name_or_path}: {NO_MODEL} ({first_line(error)}); give a hub id or a folder with config.json and weights"
        ) from error


def _find_file(name_or_path: str | Path, file: str, optional: bool = False) -> Path | None:
    """Return a repository's file, downloaded where need be; None where it has none, or `optional` cannot be fetched."""
    name, revision = split_revision(name_or_path)
    options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": not optional}
    try:
        found = cached_file(name, file, revision=revision, **options)
    except OSError:
        if not optional:
            raise
        return None
    return None if found is None else Path(found)


def _read_normalize(name: str, shown: str, config: Any) -> tuple[bool, str]:
    """Return whether waveforms are normalised, and the source; other settings of an extractor have to be ours."""
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
        path = _find_file(name, file, optional=True)
        settings: Any = None if path is None else read_json(path, damaged=NO_MODEL)
        if settings is not None and file == PROCESSOR:
            settings = next((settings[key] for key in NESTED if settings.get(key) is not None), None)
        if settings is not None:
            if not isinstance(settings, dict):
                raise InputError(f"{path}: the feature extractor's settings are no keys and values")
            return settings, file
    return None, ""


def _read_weights(name: str, config: Any, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read exactly the `expected` weights of an encoder, in float32, from a hub id or a folder.

    In a Whisper checkpoint every name has to be known; of the others', which come with heads of any task, all names
    that are not expected are left out.
    """
    whisper = config.model_type == "whisper"
    prefixes = ("model.encoder.", "encoder.") if whisper else (f"{config.model_type}.",)
    found: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    for file in _weight_files(name):
        for full, tensor in _read_tensors(file, WHISPER_REST if whisper else ()).items():
            bare = to_new_name(full.removeprefix(next((prefix for prefix in prefixes if full.startswith(prefix)), "")))
            if not whisper and bare not in expected:
                continue
            if bare in names:
                raise InputError(f"{file}: '{names[bare]}' and '{full}' are the same weight; which one counts?")
            found[bare], names[bare] = tensor, full
    if (mask := expected.get("masked_spec_embed")) is not None:  # no hidden state depends on it
        found.setdefault("masked_spec_embed", torch.zeros(mask.shape))
    prefix = next((full.removesuffix(bare) for bare, full in names.items() if bare in expected), prefixes[-1])
    if missing := [bare for bare in expected if bare not in found]:
        raise InputError(
            f"{name}: {len(missing)} weights are missing from the checkpoint, first '{prefix}{missing[0]}'; "
            "they would be random"
        )
    if unexpected := [names[bare] for bare in names if bare not in expected]:
        raise InputError(
            f"{name}: {len(unexpected)} weights are not of the model that config.json describes, "
            f"first '{unexpected[0]}'; do they belong together?"
        )
    for bare, full in names.items():
        tensor, asked = found[bare], expected[bare]
        if not isinstance(tensor, torch.Tensor) or tensor.is_floating_point() != asked.is_floating_point():
            raise InputError(f"{name}: '{full}' is no tensor of floating-point numbers; quantised weights?")
        if tensor.shape != asked.shape:
            raise InputError(
                f"{name}: '{full}' is of the wrong size: {list(tensor.shape)}, config.json asks for {list(asked.shape)}"
            )
    return {bare: found[bare].to(tensor.dtype) for bare, tensor in expected.items()}


def _weight_files(name: str) -> list[Path]:
    for whole in FILES:
        if (file := _find_weights(name, whole)) is not None:
            return [file]
        if (index := _find_weights(name, whole + INDEX)) is None:
            continue
        try:
            shards = sorted(set(read_json(index)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"is no index of shards: {first_line(error)}"
            raise InputError(f"{index}: the weights cannot be loaded ({problem})") from error
        files = {shard: _find_weights(name, str(shard)) for shard in shards}
        if missing := [shard for shard, file in files.items() if file is None]:
            raise InputError(f"{index}: the weights cannot be loaded (it names '{missing[0]}', which is not there)")
        return [file for file in files.values() if file is not None]
    raise InputError(
        f"{name}: the weights cannot be loaded ({describe_folder(Path(name)) or 'none there'}); "
        f"expected {' or '.join(FILES)}, whole or in shards"
    )


def _find_weights(name: str, file: str) -> Path | None:
    try:
        return _find_file(name, file)
    except OSError as error:
        raise InputError(f"{name}: {file} cannot be fetched ({first_line(error)})") from error


def _read_tensors(file: Path, without: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Read the tensors of a file but for those whose names begin so; nothing in it is executed."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys() if not name.startswith(without)}  # noqa: SIM118
        return {name: tensor for name, tensor in read_pickle(file).items() if not name.startswith(without)}
    except DAMAGED as error:
        problem = describe_file(file) or first_line(error)
        raise InputError(f"{file}: the weights cannot be loaded ({problem})") from error


hub_logging.set_verbosity_error()  # an unreachable hub is one line of ours, not one for every retry
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
