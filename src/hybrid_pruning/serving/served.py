"""The models of a server: found by name, loaded once, by OpenVINO or ONNX Runtime where their graph is there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_pruning.models.onnx.runtime import FILE, OPENVINO, SUFFIXES, OnnxModel
from hybrid_pruning.scoring.backend import Backend
from hybrid_pruning.scoring.engine import Embedder, Engine, load_embedder, prefer_onnx


@dataclass(frozen=True, slots=True)
class Served:
    """A model under its public name, how it is run, and what is told of it."""

    name: str
    engine: Engine
    backend: Backend | None
    """Of a model for speaker verification."""
    megabytes: float
    load_seconds: float

    @classmethod
    def load(cls, name: str, model: str | Path | Embedder, window_seconds: float, device: str = "auto") -> "Served":
        """Load a model."""
        started = time.perf_counter()
        loaded = load_embedder(prefer_onnx(model, device) if isinstance(model, (str, Path)) else model, device)
        engine = Engine(loaded, window_seconds=window_seconds, workers=0)
        engine.check_window()
        if isinstance(loaded, OnnxModel):
            size = sum(path.stat().st_size for path in loaded.files)
        else:
            loaded.eval()
            size = sum(parameter.numel() * parameter.element_size() for parameter in loaded.parameters())
        backend = Backend.of(loaded) if loaded.task == "speaker-verification" else None
        return cls(name, engine, backend, size / 1e6, time.perf_counter() - started)

    @property
    def calibrated(self) -> bool:
        """Whether its scores are log-likelihood ratios."""
        return self.engine.model.calibration is not None

    def about(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        model = self.engine.model
        onnx = model if isinstance(model, OnnxModel) else None
        return {
            "name": self.name,
            "task": model.task,
            "engine": onnx.engine if onnx else "torch",
            "weights": onnx.description.get("weights", "float32") if onnx else "float32",
            "megabytes": round(self.megabytes, 3),
            "calibrated": self.calibrated,
            "window_seconds": self.engine.window_seconds,
            "load_seconds": round(self.load_seconds, 3),
        }


def name_models(models: Sequence[str]) -> list[str]:
    """Return a public name for each model: the last part of its own, numbered where it would stand twice."""
    names: list[str] = []
    for model in models:
        path = Path(model)
        if path.suffix in SUFFIXES:
            path = path.absolute().parent if path.name in (FILE, OPENVINO) else path.with_suffix("")
        name = path.absolute().name or "model"
        taken = sum(one.rpartition("-")[0] == name or one == name for one in names)
        names.append(f"{name}-{taken + 1}" if name in names else name)
    return names
