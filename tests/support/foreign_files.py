"""Small foreign checkpoints, written as WeDefense writes them, from tiny random models."""

from pathlib import Path
from typing import Any

import torch
import yaml

from encoders import FAMILIES, NO_DROPOUT, make_config, with_random_weights

CONVOLUTIONS = {
    "conv_dim": (12,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 7,
}
HEADS, COMPRESSION, EMBEDDING = 3, 4, 5
SOFT = 3.2
"""log_alpha of an open gate, just so open that the mask rule closes none of them; a closed one's is -25."""
RECIPE = {
    "dataset_args": {"cmvn": True, "cmvn_args": {"norm_mean": True, "norm_var": False}},
    "model": "SSL_BACKEND_MHFA",
    "model_args": {"compression_dim": COMPRESSION, "embed_dim": EMBEDDING, "head_nb": HEADS, "nb_layer": 4},
}


def make_model(family: str, style: str) -> Any:
    """Return transformers' tiny model with the convolutions that the published ones have."""
    torch.manual_seed(0)
    masks = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    config = make_config(family, style, **{**NO_DROPOUT, **CONVOLUTIONS, **masks})
    return with_random_weights(FAMILIES[family][1](config).eval())


def encoder_of(model: Any) -> dict[str, torch.Tensor]:
    found = {"feature_extractor.dummy_weight": torch.ones(model.config.conv_dim[-1])}
    for name, tensor in model.state_dict().items():
        foreign = name.replace("encoder.", "encoder.transformer.", 1)
        found[foreign.replace("feature_projection.", "encoder.feature_projection.")] = tensor.clone()
    return found


def config_of(model: Any) -> dict[str, Any]:
    c, layers = model.config, model.config.num_hidden_layers
    relative, head_dim = c.model_type == "wavlm", c.hidden_size // c.num_attention_heads
    heads = {"encoder_num_heads": [c.num_attention_heads] * layers, "encoder_head_dim": head_dim}
    if relative:
        heads = {"encoder_total_num_heads": [c.num_attention_heads] * layers}
        heads |= {"encoder_remaining_heads": [list(range(c.num_attention_heads))] * layers}
        heads |= {"encoder_num_buckets": c.num_buckets, "encoder_max_distance": c.max_bucket_distance}
    return {
        "extractor_mode": f"{c.feat_extract_norm}_norm",
        "extractor_conv_layer_config": list(zip(c.conv_dim, c.conv_kernel, c.conv_stride, strict=True)),
        "extractor_conv_bias": c.conv_bias,
        "encoder_embed_dim": c.hidden_size,
        "encoder_num_layers": layers,
        "encoder_pos_conv_kernel": c.num_conv_pos_embeddings,
        "encoder_pos_conv_groups": c.num_conv_pos_embedding_groups,
        "encoder_use_attention": [True] * layers,
        "encoder_use_feed_forward": [True] * layers,
        "encoder_ff_interm_features": [c.intermediate_size] * layers,
        "encoder_layer_norm_first": c.do_stable_layer_norm,
        "normalize_waveform": c.do_stable_layer_norm,
        **dict.fromkeys(("encoder_projection_dropout", "encoder_attention_dropout", "encoder_dropout"), 0.0),
        **dict.fromkeys(("encoder_ff_interm_dropout", "encoder_layer_drop"), 0.0),
        **heads,
    }


def gates_of(model: Any, closed: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Return foreign gates, all open but for the units named by slot."""
    c, layer = model.config, "encoder.transformer.layers.{}."
    kinds = {  # unit -> name and number of its gates
        "conv": ("feature_extractor.conv_layers.{}.hard_concrete", c.conv_dim[0]),
        "head": (f"{layer}attention.hard_concrete_for_heads", c.num_attention_heads),
        "attlayer": (f"{layer}attention.hard_concrete_for_layer", 1),
        "interm": (f"{layer}feed_forward.hard_concrete_for_intermediate", c.intermediate_size),
        "ffnlayer": (f"{layer}feed_forward.hard_concrete_for_layer", 1),
    }
    found = {}
    for unit, (place, size) in kinds.items():
        for index in range(len(c.conv_dim) if unit == "conv" else c.num_hidden_layers):
            log_alpha = torch.full((size,), SOFT) + 0.1 * torch.arange(size) / size
            log_alpha[closed.get(f"{unit}.{index}", [])] = -25.0
            found[f"{place}.log_alpha".format(index)] = log_alpha
    return found


def head_of(width: int, depth: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    parts = {
        "cmp_linear_k": torch.nn.Linear(width, COMPRESSION),
        "cmp_linear_v": torch.nn.Linear(width, COMPRESSION),
        "att_head": torch.nn.Linear(COMPRESSION, HEADS),
        "pooling_fc": torch.nn.Linear(HEADS * COMPRESSION, EMBEDDING),
        "projection.trans.0": torch.nn.BatchNorm1d(EMBEDDING),
        "projection.trans.2": torch.nn.Linear(EMBEDDING, 2),
    }
    norm = parts["projection.trans.0"]
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    found = {"weights_k": torch.randn(depth), "weights_v": torch.randn(depth)}
    for name, part in parts.items():
        found |= {f"{name}.{key}": value.clone() for key, value in part.state_dict().items()}
    return found


def write_encoder(folder: Path, family: str = "wavlm", style: str = "base") -> Path:
    model = make_model(family, style)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": encoder_of(model), "config": config_of(model)}, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def write_whole(folder: Path, family: str = "wavlm", style: str = "base", **closed: list[int]) -> Path:
    """Write a whole model as the recipe lays it out, with gates where units are closed, and return its file."""
    model = make_model(family, style)
    gates = {name.replace("_", "."): units for name, units in closed.items()}
    encoder = encoder_of(model) | (gates_of(model, gates) if gates else {})
    state = head_of(model.config.hidden_size, model.config.num_hidden_layers + 1)
    state |= {f"frontend.upstream.{name}": tensor for name, tensor in encoder.items()}
    file = folder / ("models/avg_model.pt" if gates else "pruned_model/whole_pytorch_model.bin")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    (folder / "config.yaml").write_text(yaml.safe_dump(RECIPE))
    return file
