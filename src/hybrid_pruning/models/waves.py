"""Waveforms in any of their forms -> a checked batch: one rule for torch and for ONNX Runtime."""

import sys
from typing import Any

import numpy as np

from hybrid_pruning.errors import InputError

FULL_SCALE = {"int16": 1 << 15, "int32": 1 << 31}
"""Divisors of integer samples."""
FLOATS = ("float16", "bfloat16", "float32", "float64")
NOT_FINITE = "wave: an utterance holds NaN or infinity; expected finite samples"


def as_batch(wave: Any, lengths: Any, minimum: int, values: bool = True) -> tuple[Any, Any]:
    """Return wave [B, S] in floating point and lengths [B] as integers; tensors stay such, all else becomes numpy's.

    Args:
        wave: [B, S], or [S] as a batch of one: floating point, or 16 and 32-bit integers, which are brought to -1..1.
        lengths: [B] whole numbers of samples, `minimum` at least, or None where all have S.
        values: check the values of lengths too, for which a GPU has to be waited for.
    """
    wave = _as_floats(_as_array(wave, "wave"))
    count, size = wave.shape
    if lengths is not None:
        lengths = _as_lengths(_as_array(lengths, "lengths"), count, values)
    found = [size] if lengths is None or not values else lengths.tolist()
    if max(found) > size:
        raise InputError(f"lengths: {max(found)} samples, but wave holds {size}; expected at most as many")
    if min(*found, size) < minimum:
        raise InputError(f"a wave of {min(*found, size)} samples; one frame needs {minimum}: pad it")
    return wave, lengths


def as_numpy(array: Any) -> Any:
    """Return an array, or a tensor on any device, as numpy's array."""
    if isinstance(array, np.ndarray):
        return array
    array = array.detach().cpu()
    return (array.float() if array.is_floating_point() else array).numpy()


def _as_floats(wave: Any) -> Any:
    wave = wave[None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not len(wave):
        raise InputError(f"wave: expected [B, S] at 16 kHz, one channel, B above 0; found {list(wave.shape)}")
    kind = _kind(wave)
    if kind not in (*FULL_SCALE, *FLOATS):
        raise InputError(f"wave: expected floating point, int16 or int32; found {kind}")
    if not isinstance(wave, np.ndarray):
        return wave / FULL_SCALE[kind] if kind in FULL_SCALE else wave
    wave = wave.astype(np.float64 if kind == "float64" else np.float32, copy=False)
    return wave / np.float32(FULL_SCALE[kind]) if kind in FULL_SCALE else wave


def _as_lengths(lengths: Any, count: int, values: bool) -> Any:
    lengths = lengths.reshape(1) if lengths.ndim == 0 and count == 1 else lengths
    kind = _kind(lengths)
    if tuple(lengths.shape) != (count,):
        raise InputError(f"lengths: expected [{count}], one for each utterance; found {list(lengths.shape)}")
    if not kind.startswith(("int", "uint", "float")):
        raise InputError(f"lengths: expected whole numbers of samples; found {kind}")
    relative = kind.startswith("float")
    found = lengths.tolist() if values or relative else []
    if wrong := [value for value in found if value <= relative or not float(value).is_integer()]:
        advice = "; multiply relative lengths by the samples of wave" if relative else ""
        raise InputError(f"lengths: expected whole numbers of samples above 0; found {wrong[0]:g}{advice}")
    return lengths.astype(np.int64) if isinstance(lengths, np.ndarray) else lengths.long()


def _as_array(found: Any, name: str) -> Any:
    """Return a tensor as it is, and all else as numpy's array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(found, torch.Tensor):
        return found
    try:
        return np.asarray(found)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name}: expected one array of numbers; found {type(found).__name__} ({error})") from error


def _kind(array: Any) -> str:
    """Return the name of an array's or a tensor's type of numbers."""
    return getattr(array.dtype, "name", None) or str(array.dtype).removeprefix("torch.")
