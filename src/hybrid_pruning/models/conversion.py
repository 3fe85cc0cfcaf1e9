"""Models of other programs -> our artifact; an artifact's encoder -> a plain transformers folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import new_folder, require_new_folder
from hybrid_pruning.models import foreign
from hybrid_pruning.models.backbone import Backbone, build, read_config, skeleton
from hybrid_pruning.models.backbone.families import HOP
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone, save_backbone
from hybrid_pruning.pruning import plan_for, shape_of, widen

EXTRAS = ("channel_scale", "waveform_eps")
"""What our configs of foreign encoders have and transformers' do not."""
POSITION_BIAS = {"encoder.position_bias.embedding.": "encoder.layers.0.attention.rel_attn_embed."}


def convert_foreign(source: str | Path, out: str | Path, as_trained: bool = False) -> dict[str, Any]:
    """Write a WeDefense, DPHuBERT or DiariZen model as an artifact.

    A whole model becomes one that scores; an encoder alone one that `load_backbone` and recipes take.

    Args:
        source: a file, the recipe's folder, or a hub id.
        out: the artifact's folder, new or empty.
        as_trained: where there still are gates, keep the outputs of the gated model; the recipe's own export, the
            default, changes them.

    Returns:
        What the artifact records of its origin, with ``parameters``, the encoder's.

    Raises:
        InputError: nothing to convert, a damaged file, or a taken folder.
    """
    place, out = foreign.locate_model(source), require_new_folder(out)
    file = foreign.find_model(place) or foreign.find_backbone(place)
    if file is None:
        raise InputError(f"{source}: holds no model of WeDefense, DPHuBERT or DiariZen (a .bin, .pt or .pth file)")
    checkpoint = foreign.read_checkpoint(file)
    if as_trained and not checkpoint.gates:
        raise InputError(f"{file}: has no gates any more; --as-trained is for checkpoints before the recipe's export")
    if checkpoint.rest:
        model = SpeechModel.from_recipe(foreign.build_model(checkpoint, as_trained))
        backbone, provenance = model.backbone, model.provenance
        with new_folder(out) as folder:
            model.save_pretrained(folder)
    else:
        backbone, provenance = (
            foreign.build_backbone(checkpoint, as_trained),
            foreign.provenance_of(checkpoint, as_trained),
        )
        with new_folder(out) as folder:
            save_backbone(backbone, folder, provenance)
    return {**provenance["converted"], "parameters": sum(p.numel() for p in backbone.parameters())}


def write_transformers(source: str | Path, out: str | Path, zero_pad: bool = False) -> str:
    """Write a model's encoder as a folder that transformers loads by itself.

    Args:
        source: an artifact, ours or of another program, or its id on the hub.
        out: the folder, new or empty.
        zero_pad: fill what was cut out with zeros: the same function at the dense size and speed.

    Returns:
        The name of the class of transformers that loads it: AutoModel, for Whisper WhisperEncoder.

    Raises:
        InputError: transformers cannot hold the encoder, or the folder is taken.
    """
    place, out = foreign.locate_model(source), require_new_folder(out)
    backbone = load_backbone(place)
    model = build_transformers(backbone, str(source), zero_pad)
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        _preprocessor(backbone).save_pretrained(folder)
    return "WhisperEncoder" if backbone.config.model_type == "whisper" else "AutoModel"


def build_transformers(backbone: Backbone, source: str, zero_pad: bool = False) -> Any:
    """Return transformers' own model that computes what a backbone does.

    Args:
        backbone: dense, or any shape with `zero_pad`.
        source: what to call it in errors.
        zero_pad: fill what was cut out with zeros.

    Raises:
        InputError: transformers cannot hold it.
    """
    _check_plain(backbone, source, zero_pad)
    plain = {name: value for name, value in backbone.config.to_diff_dict().items() if name not in EXTRAS}
    config = read_config(plain, source)
    dense = skeleton(config, backbone.normalize)
    unscaled = {name: tensor for name, tensor in backbone.state_dict().items() if name != "channel_scale"}
    if shape_of(backbone) is None:
        dense.load_state_dict(unscaled, strict=True)
    else:
        widen(backbone, dense)
    model = build(config)
    names = {"encoder.": ""} if config.model_type == "whisper" else POSITION_BIAS
    model.load_state_dict({_renamed(name, names): value for name, value in dense.state_dict().items()}, strict=True)
    return model.eval()


def _check_plain(backbone: Backbone, source: str, zero_pad: bool) -> None:
    """Refuse what transformers has no place for."""
    scale = getattr(backbone, "channel_scale", None)
    if scale is not None and bool((scale != 1).any()):
        raise InputError(
            f"{source}: scales its last convolution's channels in front of a norm, as the public recipe's pruned "
            "models do; transformers has no place for that: keep it as an artifact"
        )
    with torch.device("meta"):  # sizes without weights
        whole = plan_for(skeleton(backbone.config.to_diff_dict(), backbone.normalize)).all_units()
    shape = shape_of(backbone)
    cut = next((name for name, units in shape.kept.items() if units != whole[name]), None) if shape else None
    if cut is not None and shape is not None and not zero_pad:
        raise InputError(
            f"{source}: '{cut}' keeps {len(shape.kept[cut])} of {len(whole[cut])} units, and transformers has no "
            "place for that; --zero-pad fills up with zeros (the same function, at the dense size and speed)"
        )


def _preprocessor(backbone: Backbone) -> Any:
    """Return what transformers prepares waveforms for the encoder with."""
    if backbone.config.model_type == "whisper":
        seconds = 2 * HOP * backbone.config.max_source_positions // SAMPLE_RATE_HZ
        return WhisperFeatureExtractor(
            backbone.config.num_mel_bins, chunk_length=seconds, do_normalize=backbone.normalize
        )
    return Wav2Vec2FeatureExtractor(do_normalize=backbone.normalize, return_attention_mask=True)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name
