"""Tiny random encoders of every family and style, gates set to try them with, and the errors to compare by."""

import math
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import torch
from transformers import PreTrainedConfig, WhisperConfig

from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.backbone.configs import MODELS
from hybrid_pruning.pruning import Gates

FAMILIES = {family: (config, model) for family, (config, model, _) in MODELS.items()}
STYLES = {
    "base": {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False},
    "large": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
}
ON_WAVEFORMS = [(family, style) for family in ("wav2vec2", "hubert", "wavlm") for style in STYLES]
LARGE = [(family, style) for family, style in ON_WAVEFORMS if style == "large"]
WHISPER = ("whisper", "only")
KINDS = [*ON_WAVEFORMS, WHISPER]
REPRESENTATIVE = [("wavlm", "base"), ("hubert", "large"), WHISPER]
"""Kinds that between them have every module: post-norm and pre-norm, relative positions, windows."""
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (12, 16, 12, 16),
    "conv_kernel": (10, 3, 3, 2),
    "conv_stride": (5, 2, 2, 2),
    "num_feat_extract_layers": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"), 0.0
)
TINY_WHISPER = {
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 4,
    "vocab_size": 9,
    "max_target_positions": 4,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
    "begin_suppress_tokens": None,
}
WHISPERS_WORDS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "hidden_dropout": "dropout",
    "layerdrop": "encoder_layerdrop",
}
LENGTHS = (4000, 2500, 3111)

MakeModel = Callable[..., torch.nn.Module]
MakeBackbone = Callable[..., Backbone]
Once = Callable[[str, Callable[[Path], object]], Path]


def make_config(family: str, style: str, **overrides: object) -> PreTrainedConfig:
    """Return a tiny model's config; words that Whisper has others for, or none, are translated or left out."""
    if family != "whisper":
        return FAMILIES[family][0](**{**TINY, **STYLES[style], **overrides})
    words = {name: value for name, value in {**TINY, **overrides}.items() if name not in TINY or name in WHISPERS_WORDS}
    return WhisperConfig(**{**TINY_WHISPER, **{WHISPERS_WORDS.get(name, name): words[name] for name in words}})


def with_random_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Fresh weights hide mistakes: biases are 0, norms are 1, and every sub-layer adds next to nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "gru_rel_pos_const" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "rel_attn_embed" in name:
                parameter.normal_()
            elif "parametrizations" not in name:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def spread(gates: Gates, seed: int = 0) -> None:
    """Give every unit a value of its own, as soft as the mask rule lets it be without closing any."""
    generator = torch.Generator().manual_seed(seed)
    for gate in gates.values():
        gate.log_alpha.data.uniform_(-1.5, 0.5, generator=generator)
        gate.log_alpha.data += math.log(gate.slot.size)
        while len(gate.kept()) < gate.slot.size:  # a few units may by chance all be low
            gate.log_alpha.data += 0.1


def shuffle(gates: Gates, seed: int) -> None:
    """Set random masks: about half of the units closed, layers as a whole among them."""
    generator = torch.Generator().manual_seed(seed)
    for gate in gates.values():
        gate.log_alpha.data.normal_(0, 3, generator=generator)


def close(gates: Gates, *patterns: str, share: float = 1.0) -> None:
    """Close all units, or the first `share` of them, of the slots whose names match."""
    for name, gate in gates.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            gate.log_alpha.data[: round(share * gate.slot.size)] = -20.0


@torch.no_grad()
def states_of_transformers(model: torch.nn.Module, wave: torch.Tensor, **arguments: object) -> torch.Tensor:
    """Return all hidden states of transformers' model, the last one before the final norm of pre-norm models."""
    encoder, last = getattr(model, "encoder", model), {}
    handle = encoder.layers[-1].register_forward_hook(lambda _, __, output: last.update(output=output))
    found = model(wave, output_hidden_states=True, **arguments)
    handle.remove()
    output = last["output"][0] if isinstance(last["output"], tuple) else last["output"]
    pre_norm = getattr(model.config, "do_stable_layer_norm", True)  # as Whisper is
    assert torch.equal(encoder.layer_norm(output) if pre_norm else output, found.last_hidden_state)
    return torch.stack([*found.hidden_states[: len(encoder.layers)], output])


def relative_error(expected: torch.Tensor, found: torch.Tensor, lengths: torch.Tensor | None = None) -> float:
    """Return the largest error of any hidden state over valid frames, by the largest value in that hidden state."""
    worst = 0.0
    for state, other in zip(expected, found, strict=True):
        valid = torch.ones(state.shape[:2], dtype=torch.bool)
        if lengths is not None:
            valid = torch.arange(state.shape[1]) < lengths[:, None]
        error = (state - other)[valid].abs().max() / state[valid].abs().max()
        if not torch.isfinite(error):
            return float("inf")
        worst = max(worst, float(error))
    return worst
