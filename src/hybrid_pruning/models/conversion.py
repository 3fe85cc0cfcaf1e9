"""Models of other programs -> our artifact; an artifact's encoder -> a plain transformers folder."""

from pathlib import Path
from typing import Any

from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import new_folder, require_new_folder
from hybrid_pruning.models import foreign
from hybrid_pruning.models.backbone import Backbone, build, skeleton
from hybrid_pruning.models.backbone.families import HOP
from hybrid_pruning.models.size import count_parameters
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone, save_backbone
from hybrid_pruning.pruning import plan_for, shape_of, widen

EXTRAS = ("channel_scale", "waveform_eps")
"""Keys of our configs of foreign encoders that transformers' lack."""


def convert(
    source: str | Path,
    out: str | Path,
    to: str = "artifact",
    zero_pad: bool = False,
    as_trained: bool = False,
) -> dict[str, Any]:
    """Write a model of another program as an artifact, or any encoder as a folder that transformers loads by itself.

    Args:
        source: a file of WeDefense, DPHuBERT or DiariZen, its folder, or a hub id; to transformers also an artifact.
        out: the folder to write, new or empty.
        to: "artifact" (a whole model scores, an encoder alone is to train on) or "transformers", of the encoder.
        zero_pad: to transformers: zeros where units were cut out: the same function at the dense size and speed.
        as_trained: to an artifact, where gates are still there: keep the gated model's outputs; the recipe's own
            export, the default, changes them.

    Returns:
        To an artifact: the artifact's record of its origin, with ``parameters``, the encoder's. To transformers:
        ``loader``, the name of transformers' class that loads it: AutoModel, for Whisper WhisperEncoder.
    """
    if to not in ("artifact", "transformers"):
        raise InputError(f"to '{to}': expected 'artifact' or 'transformers'")
    if as_trained and to == "transformers":
        raise InputError("--as-trained belongs to --to artifact")
    if zero_pad and to == "artifact":
        raise InputError("--zero-pad belongs to --to transformers")
    place, out = foreign.locate_model(source), require_new_folder(out)
    if to == "transformers":
        backbone = load_backbone(place)
        parts = (build_transformers(backbone, str(source), zero_pad), build_extractor(backbone))
        with new_folder(out) as folder:
            for part in parts:
                part.save_pretrained(folder)
        return {"loader": "WhisperEncoder" if backbone.config.model_type == "whisper" else "AutoModel"}
    file = foreign.find_model(place) or foreign.find_backbone(place)
    if file is None:
        raise InputError(f"{source}: holds no model of WeDefense, DPHuBERT or DiariZen (a .bin, .pt or .pth file)")
    checkpoint = foreign.read_checkpoint(file)
    if as_trained and not checkpoint.gates:
        raise InputError(f"{file}: has no gates any more; --as-trained is for checkpoints before the recipe's export")
    with new_folder(out) as folder:
        if checkpoint.rest:
            model = SpeechModel.from_recipe(checkpoint, as_trained)
            backbone, provenance = model.backbone, model.provenance
            model.save_pretrained(folder)
        else:
            backbone = foreign.build_backbone(checkpoint, as_trained)
            provenance = foreign.provenance_of(checkpoint, as_trained)
            save_backbone(backbone, folder, provenance)
    return {**provenance["converted"], "parameters": count_parameters(backbone)}


def build_transformers(backbone: Backbone, source: str, zero_pad: bool = False) -> Any:
    """Return transformers' own model with a backbone's function; one that is not dense needs `zero_pad`."""
    config = {name: value for name, value in backbone.config.to_diff_dict().items() if name not in EXTRAS}
    scale = getattr(backbone, "channel_scale", None)
    if scale is not None and bool((scale != 1).any()):
        raise InputError(
            f"{source}: scales its last convolution's channels in front of a norm, as the public recipe's pruned "
            "models do; transformers has no place for that: keep it as an artifact"
        )
    dense, shape = skeleton(config, backbone.normalize), shape_of(backbone)
    if shape is not None and not zero_pad:
        whole = plan_for(dense).all_units()
        for name, units in shape.kept.items():
            if units != whole[name]:
                raise InputError(
                    f"{source}: '{name}' keeps {len(units)} of {len(whole[name])} units, and transformers has no place "
                    "for that; --zero-pad fills up with zeros (the same function, at the dense size and speed)"
                )
    widen(backbone, dense)
    old, new = "encoder.position_bias.embedding.", "encoder.layers.0.attention.rel_attn_embed."
    if backbone.config.model_type == "whisper":
        old, new = "encoder.", ""
    model = build(dense.config)
    model.load_state_dict({name.replace(old, new): weight for name, weight in dense.state_dict().items()}, strict=True)
    return model.eval()


def build_extractor(backbone: Backbone) -> Any:
    """Return transformers' own extractor of a backbone's input."""
    config, normalize = backbone.config, backbone.normalize
    if config.model_type != "whisper":
        return Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    seconds = 2 * HOP * config.max_source_positions // SAMPLE_RATE_HZ
    return WhisperFeatureExtractor(config.num_mel_bins, chunk_length=seconds, do_normalize=normalize)
