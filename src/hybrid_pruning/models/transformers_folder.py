"""A model -> a folder for transformers: narrow, with modeling_pruned.py in it, or dense and without code."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.errors import InputError
from hybrid_pruning.models import modeling_pruned
from hybrid_pruning.models.backbone import Backbone, build, skeleton
from hybrid_pruning.models.backbone.families import HOP, WAV2VEC2, WHISPER
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import plan_for, shape_of, widen
from hybrid_pruning.pruning.shrink import Closed
from hybrid_pruning.tasks import Label

EXTRAS = ("channel_scale", "waveform_eps")
"""Keys of our configs of foreign encoders that transformers' lack."""
CODE = Path(modeling_pruned.__file__)
DETECTORS: dict[str, Any] = {
    "wav2vec2": modeling_pruned.Wav2Vec2ForSequenceClassification,
    "hubert": modeling_pruned.HubertForSequenceClassification,
    "wavlm": modeling_pruned.WavLMForSequenceClassification,
    "whisper": modeling_pruned.WhisperForAudioClassification,
}
"""Family -> the code's detector, with its `encoder_class` and their `config_class`."""


def write_transformers(
    model: SpeechModel | Backbone, folder: Path, source: str, zero_pad: bool = False
) -> dict[str, Any]:
    """Fill a folder with a detector or an encoder, and return what `convert` does; `source` is named in errors."""
    whole = model if isinstance(model, SpeechModel) and not zero_pad else None
    backbone = model.backbone if isinstance(model, SpeechModel) else model
    code = whole is not None or not (zero_pad or _is_dense(backbone))
    network = build_pruned(backbone, whole) if code else build_transformers(backbone, source)
    for part in (network, build_extractor(backbone, code)):
        part.save_pretrained(folder)
    if code:
        shutil.copyfile(CODE, folder / CODE.name)
    loader = "AutoModel" if code or backbone.config.model_type != "whisper" else "WhisperEncoder"
    return {"loader": loader if whole is None else "AutoModelForAudioClassification", "code": code}


def _is_dense(backbone: Backbone) -> bool:
    """Return whether transformers' own classes have a place for all that a backbone is."""
    shape = shape_of(backbone)
    with torch.device("meta"):
        whole = plan_for(skeleton(backbone.config, backbone.normalize)).all_units()
    all_there = shape is None or all(units == whole[name] for name, units in shape.kept.items())
    own_eps = backbone.normalize and hasattr(backbone.config, "waveform_eps")
    return all_there and not own_eps and not hasattr(backbone, "channel_scale")


def build_pruned(backbone: Backbone, detector: SpeechModel | None = None) -> Any:
    """Return transformers' own model narrowed to a backbone's widths; of a detector with its head on it."""
    family = backbone.config.model_type
    network = DETECTORS[family]
    config_class, encoder_class = network.config_class, network.encoder_class
    plain = {name: value for name, value in backbone.config.to_diff_dict().items() if name != "model_type"}
    if not backbone.normalize:
        plain.pop("waveform_eps", None)
    config = config_class(**plain, **_widths(backbone))
    prefix = "encoder." if family == "whisper" else ""
    weights = {name.removeprefix(prefix): tensor for name, tensor in backbone.state_dict().items()}
    loaders = {"AutoConfig": config_class, "AutoModel": encoder_class}
    if detector is None:
        network = encoder_class
    else:
        loaders["AutoModelForAudioClassification"] = network
        weights = {f"{network.base_model_prefix}.{name}": tensor for name, tensor in weights.items()}
        weights |= _describe_head(detector, config)
    config.auto_map = {loader: f"{CODE.stem}.{found.__name__}" for loader, found in loaders.items()}
    with torch.device("meta"):
        model = network(config)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def _widths(backbone: Backbone) -> dict[str, Any]:
    """Return the keys of a pruned model's config, see modeling_pruned.py."""
    config, shape = backbone.config, shape_of(backbone)
    names = WHISPER if config.model_type == "whisper" else WAV2VEC2
    kept_heads: list[list[int] | None] = []
    ffn_widths: list[int | None] = []
    for index, layer in enumerate(backbone.encoder.layers):
        attention, ffn = (layer.get_submodule(name) for name in (names.attention, names.feed_forward))
        if isinstance(attention, Closed):
            kept_heads.append(None if attention.bias is None else [])
        else:
            kept = {} if shape is None else shape.kept
            kept_heads.append([*kept.get(f"head.{index}", range(config.num_attention_heads))])
        if isinstance(ffn, Closed):
            ffn_widths.append(None if ffn.bias is None else 0)
        else:
            ffn_widths.append(len(layer.get_submodule(names.first).weight))
    if config.model_type == "whisper":
        convs = [backbone.encoder.conv1]
    else:
        extractor: Any = backbone.feature_extractor
        convs = [layer.conv for layer in extractor.conv_layers]
    return {"conv_widths": [len(conv.weight) for conv in convs], "kept_heads": kept_heads, "ffn_widths": ffn_widths}


def _describe_head(model: SpeechModel, config: Any) -> dict[str, torch.Tensor]:
    """Add a detector's head to a config, and return the weights of head and classifier.

    Bona fide speech becomes the classifier's first class, its biases lose the training's priors, and a batch norm
    becomes the scale and the shift that it is in evaluation.
    """
    assert model.classes is not None
    head, labels = model.head_config.model_dump(), model.classes.labels
    config.head = {**head, "classifier_norm": "layer" if head["classifier_norm"] == "layer" else "affine"}
    config.classes, config.id2label = len(labels), dict(enumerate(map(str, (Label.BONAFIDE, Label.SPOOF))))
    config.label2id = {label: index for index, label in config.id2label.items()}
    fit = model.calibration
    config.calibration = {"scale": 1.0, "offset": 0.0} if fit is None else {"scale": fit.scale, "offset": fit.offset}
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    norm: Any = model.classifier[0]  # type: ignore[index]
    if isinstance(norm, torch.nn.BatchNorm1d):
        *own, mean, variance, _ = (weights.pop(f"classifier.0.{name}") for name in norm.state_dict())
        scale = own[0] * (variance + norm.eps).rsqrt()
        weights |= {"classifier.0.weight": scale, "classifier.0.bias": own[1] - mean * scale}
    order = sorted(range(len(labels)), key=lambda place: labels[place] != Label.BONAFIDE)
    counts = torch.tensor(model.classes.counts, dtype=torch.float64)
    priors = (counts / counts.sum()).log().to(weights["classifier.2.bias"])
    weights["classifier.2.weight"] = weights["classifier.2.weight"][order]
    weights["classifier.2.bias"] = (weights["classifier.2.bias"] - priors)[order]
    return weights


def build_transformers(backbone: Backbone, source: str) -> Any:
    """Return transformers' own model with a backbone's function, with zeros where units were cut out."""
    config = {name: value for name, value in backbone.config.to_diff_dict().items() if name not in EXTRAS}
    scale = getattr(backbone, "channel_scale", None)
    if scale is not None and bool((scale != 1).any()):
        raise InputError(
            f"{source}: scales its last convolution's channels in front of a norm, as the public recipe's pruned "
            "models do; transformers' own classes have no place for that: leave --zero-pad out"
        )
    dense = widen(backbone, skeleton(config, backbone.normalize))
    old, new = "encoder.position_bias.embedding.", "encoder.layers.0.attention.rel_attn_embed."
    if backbone.config.model_type == "whisper":
        old, new = "encoder.", ""
    model = build(dense.config)
    model.load_state_dict({name.replace(old, new): weight for name, weight in dense.state_dict().items()}, strict=True)
    return model.eval()


def build_extractor(backbone: Backbone, code: bool = False) -> Any:
    """Return the extractor of a backbone's input: transformers' own, for a pruned Whisper that of our `code`."""
    config, normalize = backbone.config, backbone.normalize
    if config.model_type != "whisper":
        inside = code and hasattr(config, "waveform_eps")  # which transformers' has no place for: the model does it
        return Wav2Vec2FeatureExtractor(do_normalize=normalize and not inside, return_attention_mask=True)
    seconds = 2 * HOP * config.max_source_positions // SAMPLE_RATE_HZ
    options = {"chunk_length": seconds, "do_normalize": normalize}
    if not code:
        return WhisperFeatureExtractor(config.num_mel_bins, **options)
    extractor = modeling_pruned.PrunedWhisperFeatureExtractor
    auto_map = {"AutoFeatureExtractor": f"{CODE.stem}.{extractor.__name__}"}
    return extractor(config.num_mel_bins, **options, auto_map=auto_map)
