"""Packages that a base installation leaves out, and the extra that brings each: one line where an import fails."""

from importlib.util import find_spec

from hybrid_pruning.errors import InputError

EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "onnx": "train",
    "onnxscript": "train",
    "openvino": "openvino",
    "nncf": "openvino",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
    "python_multipart": "serve",
    "pyworld": "quickstart",
    "G722": "quickstart",
    "tensorboard": "tensorboard",
    "sounddevice": "microphone",
}
"""Module -> the extra of pyproject.toml."""


def first_absent(*modules: str) -> str | None:
    """Return the first of some modules that is not installed."""
    return next((name for name in modules if find_spec(name) is None), None)


def require(*modules: str) -> None:
    """Refuse to begin what will need modules that are not installed."""
    if (name := first_absent(*modules)) is not None:
        raise InputError(absence(name))


def absence(module: str) -> str:
    """Return the line on a module that is not installed, with its remedy."""
    return f"{module} is not installed; it comes with: {remedy(module)}"


def remedy(module: str) -> str:
    """Return the command that installs a module of an extra, or of the base."""
    extra = EXTRAS.get(module)
    return f'pip install "hybrid-pruning[{extra}]"' if extra else "pip install hybrid-pruning"


def explain(error: ImportError) -> Exception:
    """Return an import's failure as a user's mistake where its package is one of an extra, else as it is."""
    module = (error.name or "").partition(".")[0]
    return InputError(absence(module)) if isinstance(error, ModuleNotFoundError) and module in EXTRAS else error
