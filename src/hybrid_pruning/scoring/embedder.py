"""What scoring needs of a model, whichever program runs it: arrays in, embeddings and scores out.

`SpeechModel` is one, run by torch, and `OnnxModel` another, run by ONNX Runtime without torch.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.models.onnx.runtime import OnnxModel, find_onnx

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda", "mps")

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


class Embedder(Protocol):
    """A trained model, from waveforms to scores."""

    @property
    def task(self) -> str:
        """What it was trained for: anti-spoofing or speaker-verification."""

    @property
    def cohort(self) -> Cohort | None:
        """What a verifier's embeddings are centred with and its scores normalised against; None where nothing is."""

    @property
    def calibration(self) -> Any:
        """What made its scores log-likelihood ratios; None where nothing did."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How it came about; free-form."""

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform it takes, in samples at 16 kHz."""

    @property
    def longest_samples(self) -> int | None:
        """The longest waveform it takes, in samples at 16 kHz; None where there is no limit."""

    @property
    def embedding_width(self) -> int:
        """E, the width of an embedding."""

    @property
    def device_type(self) -> str:
        """Where it computes, such as `cpu`."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Keep it from behaving as in training, for as long as the context lasts."""

    def embed_arrays(self, wave: FloatArray, lengths: IntArray | None) -> FloatArray:
        """Return the embeddings [B, E] of wave [B, S] at 16 kHz with lengths [B], or None where all have S."""

    def classify_arrays(self, embeddings: FloatArray) -> FloatArray:
        """Return the score [B] of each embedding [B, E]."""

    def architecture(self) -> Mapping[str, Any]:
        """Return what it is, as plain values."""

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Yield names and bytes of all that it learnt."""


def load_embedder(name_or_path: str, device: str = "auto") -> Embedder:
    """Return a model by its name, on a device.

    Args:
        name_or_path: an .onnx file or the folder of one, which is run without torch, or else the folder or hub id of an
            exported model.
        device: as `choose_device` takes it; an .onnx file runs on the CPU.

    Raises:
        InputError: there is none, it cannot be used, or the device cannot.
    """
    file = find_onnx(name_or_path)
    if file is None:
        from hybrid_pruning.models.speech_model import SpeechModel

        return SpeechModel.from_pretrained(name_or_path).to(choose_device(device))
    if device not in ("auto", "cpu"):
        raise InputError(f"device '{device}': {file} runs on the CPU; leave --device out, or export without --onnx")
    return OnnxModel.from_file(file)


def choose_device(name: str = "auto") -> "torch.device":
    """Return a device by its name; `auto` is CUDA where there is one, and otherwise the CPU.

    Raises:
        InputError: this machine, or this build of torch, has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise InputError(f"device '{name}' is unknown; expected one of auto, {', '.join(DEVICES)}, or e.g. cuda:1")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"device '{name}' cannot be used here ({reason}); 'hybrid-pruning doctor' lists them"
        ) from error
    return device
