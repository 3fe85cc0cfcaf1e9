"""The programs that can run a model, each as a function from waves to whatever it computes of them.

Nothing is imported before it is needed: what an engine takes to start, and its memory, are its own.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.errors import InputError

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
Run = Callable[[FloatArray], object]
"""[B, S] at 16 kHz -> embeddings, or all hidden states."""

TRANSFORMERS = "transformers"
"""A dense model as its users run it: all hidden states in float32, no head."""


def run_torch(path: str) -> Run:
    """Run an artifact in float32."""
    import torch

    from hybrid_pruning.models.speech_model import SpeechModel

    model = SpeechModel.from_pretrained(path)
    return torch.inference_mode()(lambda wave: model.embed(torch.from_numpy(wave)))


def run_bf16(path: str) -> Run:
    """Run an artifact with its matrix products and convolutions in bfloat16."""
    import torch

    run = run_torch(path)
    return torch.autocast("cpu", torch.bfloat16)(run)


def run_onnx(path: str) -> Run:
    """Run an .onnx file, of either kind."""
    from hybrid_pruning.models.onnx.runtime import OnnxModel

    model = OnnxModel.from_file(path)

    def run(wave: FloatArray) -> object:
        if model.longest_samples is not None and wave.shape[1] > model.longest_samples:
            raise InputError(f"{path}: takes {model.longest_samples / 16_000:.2f} s at most; give shorter --seconds")
        return model.embed_arrays(wave)

    return run


def run_transformers(path: str) -> Run:
    """Run a transformers model; Whisper's encoder without its log-mel, on the 30 s it insists on."""
    import torch

    from hybrid_pruning.models.backbone import build, load_config

    model = build(load_config(path)).eval()  # random weights take as long as trained ones
    if model.config.model_type == "whisper":
        size = model.config.num_mel_bins, 2 * model.config.max_source_positions  # of 10 ms
        return torch.inference_mode()(lambda wave: model(torch.zeros(len(wave), *size), output_hidden_states=True))
    return torch.inference_mode()(lambda wave: model(torch.from_numpy(wave), output_hidden_states=True))


ENGINES: Mapping[str, Callable[[str], Run]] = {
    "torch": run_torch,
    "torch-bf16": run_bf16,
    "onnx": run_onnx,
    "onnx-int8": run_onnx,
    TRANSFORMERS: run_transformers,
}
CHOICES = tuple(name for name in ENGINES if name != TRANSFORMERS)
"""What an artifact can be run by."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def choose_engines(names: str) -> tuple[str, ...]:
    """Return the engines asked for, separated by commas; for an empty text all that are installed.

    Raises:
        InputError: one is unknown or not installed.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if not names:
        return CHOICES if not missing else tuple(name for name in CHOICES if not name.startswith("onnx"))
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in chosen:
        if name not in CHOICES:
            raise InputError(f"--engines: '{name}' is unknown; known are {', '.join(CHOICES)}")
        if name.startswith("onnx") and missing:
            raise InputError(f"--engines: '{name}' needs {missing[0]}; install it: pip install 'hybrid-pruning[onnx]'")
    return chosen


def size_on_disk(path: str | Path) -> int:
    """Return the bytes of a model's file, or of all files in its folder."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
