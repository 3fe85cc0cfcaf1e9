"""Parity, drift and size of each family's ONNX graph at Base's width and few layers: python dev/onnx_table.py [LAYERS].

Weights are random, so that int8's drift is that of embeddings, as correlation; EER needs a trained model.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone import skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.onnx.runtime import OnnxModel
from hybrid_pruning.models.speech_model import SpeechModel

SAMPLES = (64_000, 33_333, 48_000, 16_000)
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{family}, Base style": (family, {}) for family in ("wav2vec2", "hubert", "wavlm")},
    **{f"{family}, Large style": (family, LARGE) for family in ("wav2vec2", "hubert", "wavlm")},
    "whisper": ("whisper", {"d_model": 768, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072}),
}


def main(layers: int) -> None:
    """Print a row for each family."""
    print("| model | parity | int8: correlation | int8: largest difference | float32 MB | int8 MB |")
    print("|---|---|---|---|---|---|")
    for name, (family, overrides) in KINDS.items():
        depth = {"encoder_layers" if family == "whisper" else "num_hidden_layers": layers}
        torch.manual_seed(0)
        backbone = skeleton(AutoConfig.for_model(family, **overrides, **depth), False)
        model = SpeechModel.build(backbone, HeadConfig(), Classes(("bonafide", "spoof"), (1, 1))).eval()
        print(f"| {name}, {layers} layers | " + " | ".join(measure(model)) + " |", flush=True)


def measure(model: SpeechModel) -> list[str]:
    """Return the cells of a row."""
    wave = np.random.default_rng(0).standard_normal((len(SAMPLES), max(SAMPLES))).astype(np.float32)
    lengths = np.array(SAMPLES)
    expected = model.embed_arrays(wave, lengths)
    with tempfile.TemporaryDirectory() as folder:
        files = [export_onnx(model, Path(folder) / str(int8), int8) for int8 in (False, True)]
        plain, small = (OnnxModel.from_file(file).embed_arrays(wave, lengths) for file in files)
        sizes = [f"{file.stat().st_size / 1e6:.1f}" for file in files]
    largest = np.abs(expected).max()
    parity, drift = (float(np.abs(found - expected).max() / largest) for found in (plain, small))
    correlation = float(np.corrcoef(small.ravel(), expected.ravel())[0, 1])
    return [f"{parity:.1e}", f"{correlation:.5f}", f"{drift:.1e}", *sizes]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
