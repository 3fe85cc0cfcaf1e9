"""The programs that can run a model, each as a function from waves to its outputs, and their memory.

Nothing is imported before it is needed: the start of an engine and its memory are its own. Run as a program, this file
loads a model, computes one batch and prints the peak of its memory.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.extras import absence, first_absent
from hybrid_pruning.models.onnx.runtime import FILE, OPENVINO, PACKAGES, OnnxModel

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
Engine = Callable[[FloatArray], object]
"""[B, S] at 16 kHz -> embeddings, or all hidden states."""

TRANSFORMERS = "transformers"
"""A dense model as its users run it: all hidden states in float32, no head."""
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""glibc then keeps no large block that was freed."""
MODULE = "hybrid_pruning.benchmarks.engines"


def run_torch(path: str) -> Engine:
    """Run an artifact in float32."""
    import torch

    from hybrid_pruning.models.speech_model import SpeechModel

    model = SpeechModel.from_pretrained(path)
    return torch.inference_mode()(lambda wave: model.embed(torch.from_numpy(wave)))


def run_bf16(path: str) -> Engine:
    """Run an artifact with its matrix products and convolutions in bfloat16."""
    import torch

    return torch.autocast("cpu", torch.bfloat16)(run_torch(path))


def run_graph(path: str) -> Engine:
    """Run an .onnx or .xml file, of any precision."""
    model = OnnxModel.from_file(path)

    def run(wave: FloatArray) -> object:
        if model.longest_samples is not None and wave.shape[1] > model.longest_samples:
            raise InputError(f"{path}: takes {model.longest_samples / 16_000:.2f} s at most; give shorter --seconds")
        return model.embed_arrays(wave)

    return run


def run_transformers(path: str) -> Engine:
    """Run a transformers model; Whisper's encoder without its log-mel, on the 30 s it insists on."""
    import torch

    from hybrid_pruning.models.backbone import build, load_config

    model = build(load_config(path)).eval()  # random weights take as long as trained ones
    if model.config.model_type == "whisper":
        size = model.config.num_mel_bins, 2 * model.config.max_source_positions  # of 10 ms
        return torch.inference_mode()(lambda wave: model(torch.zeros(len(wave), *size), output_hidden_states=True))
    return torch.inference_mode()(lambda wave: model(torch.from_numpy(wave), output_hidden_states=True))


CHOICES: Mapping[str, Callable[[str], Engine]] = {
    "torch": run_torch,
    "torch-bf16": run_bf16,
    "onnx": run_graph,
    "onnx-int8": run_graph,
    "openvino": run_graph,
    "openvino-bf16": run_graph,
    "openvino-int8": run_graph,
}
"""Engines that run an artifact."""
GRAPHS = {"onnx": FILE, "openvino": OPENVINO}
"""Engine -> the file it runs."""
ENGINES = {**CHOICES, TRANSFORMERS: run_transformers}


def choose_engines(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named engines once each; where none is named, all that are installed and gain on this processor."""
    missing = {engine: first_absent(*PACKAGES[file]) for engine, file in GRAPHS.items()}
    if not names:
        slow = () if has_bf16() else ("torch-bf16", "openvino-bf16")
        return tuple(name for name in CHOICES if name not in slow and missing.get(program(name)) is None)
    for name in names:
        if name not in CHOICES:
            raise InputError(f"--engines: '{name}' is unknown; known are {', '.join(CHOICES)}")
        if package := missing.get(program(name)):
            raise InputError(f"--engines {name}: {absence(package)}")
    return tuple(dict.fromkeys(names))


def program(engine: str) -> str:
    """Return the program of an engine: torch, onnx or openvino."""
    return engine.partition("-")[0]


def precision(engine: str) -> str:
    """Return the precision of an engine's products: f32, bf16 or int8."""
    return engine.partition("-")[2] or "f32"


def has_bf16() -> bool:
    """Return whether this processor multiplies in bfloat16; torch emulates it elsewhere, many times slower."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def peak_elsewhere(module: str, *arguments: str) -> int:
    """Run a module that prints its peak of memory, in a process of its own: a process never forgets its peak."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **KEEP})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"measuring memory failed ({reason}); is there enough of it?")
    return int(done.stdout)


def high_water_bytes() -> int:
    """Return this process's peak of resident memory so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage, on Linux, starts from the peak of the process that launched this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(engine: str, path: str, batch: str, samples: str) -> None:
    """Load a model, compute once, and print the peak in bytes."""
    wave = np.random.default_rng(0).normal(size=(int(batch), int(samples))).astype(np.float32)
    ENGINES[engine](path)(wave)
    say(str(high_water_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
