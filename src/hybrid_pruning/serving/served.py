"""The models of a server: found by name, loaded once, by ONNX Runtime where their .onnx file is there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybrid_pruning.errors import InputError
from hybrid_pruning.models import artifact
from hybrid_pruning.models.onnx.runtime import FILE, OnnxModel, read_beside
from hybrid_pruning.scoring.backend import Backend
from hybrid_pruning.scoring.engine import Embedder, Engine, load_embedder

BESIDE = str(Path(FILE).with_suffix(".json"))


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
            size = loaded.path.stat().st_size
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
            "engine": "onnx" if onnx else "torch",
            "weights": onnx.description.get("weights", "float32") if onnx else "float32",
            "megabytes": round(self.megabytes, 3),
            "calibrated": self.calibrated,
            "window_seconds": self.engine.window_seconds,
            "load_seconds": round(self.load_seconds, 3),
        }


def prefer_onnx(model: str | Path, device: str = "auto") -> str | Path:
    """Return a model's .onnx file where it lies in the folder, or the hub's, of its artifact and is up to date."""
    if find_spec("onnxruntime") is None or device not in ("auto", "cpu") or Path(model).is_file():
        return model
    try:
        folder = artifact.locate(model, [FILE, BESIDE])
        exported, config = read_beside(folder / BESIDE), artifact.read_config(folder)
    except InputError:
        return model
    current = exported.get("calibration") == config.get("calibration")
    return folder / FILE if current and (folder / FILE).is_file() else model


def name_models(models: Sequence[str]) -> list[str]:
    """Return a public name for each model: the last part of its own, numbered where it would stand twice."""
    names: list[str] = []
    for model in models:
        path = Path(model)
        if path.suffix == ".onnx":
            path = path.absolute().parent if path.name == FILE else path.with_suffix("")
        name = path.absolute().name or "model"
        taken = sum(one.rpartition("-")[0] == name or one == name for one in names)
        names.append(f"{name}-{taken + 1}" if name in names else name)
    return names
