"""Audio files -> mono waveforms at 16 kHz: decode, mix down, resample; a bad file is one clear line."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from hybrid_pruning.errors import InputError

SAMPLE_RATE_HZ = 16_000


def read_audio(path: str | Path, start: int = 0, samples: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Decode a file to mono at 16 kHz.

    Args:
        path: any file that libsndfile reads.
        start: where to begin, in samples at 16 kHz.
        samples: how many to return at most; None for all.

    Returns:
        [S] float32.

    Raises:
        InputError: the file is missing, empty, cannot be decoded, or holds values that are not finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if rate == SAMPLE_RATE_HZ:  # decode no more than is asked for
                file.seek(min(start, file.frames))
                wave = file.read(-1 if samples is None else samples, dtype="float32", always_2d=True)
            else:
                wave = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        reason = "no such file" if not Path(path).exists() else f"cannot be decoded ({error})"
        raise InputError(f"{path}: {reason}; check the file and the manifest's path column") from error
    mono = wave.mean(axis=1)
    if rate != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate, SAMPLE_RATE_HZ)[start:][:samples]
    if not len(mono):
        raise InputError(f"{path}: holds no audio; remove it from the manifest")
    if not np.isfinite(mono).all():
        raise InputError(f"{path}: holds values that are not finite; remove it from the manifest")
    return np.ascontiguousarray(mono, dtype=np.float32)


def audio_samples(path: str | Path) -> int:
    """Return a file's length in samples at 16 kHz, from its header.

    Raises:
        InputError: the file is missing or no audio.
    """
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        reason = "no such file" if not Path(path).exists() else f"cannot be decoded ({error})"
        raise InputError(f"{path}: {reason}; check the file and the manifest's path column") from error
    return round(info.frames * SAMPLE_RATE_HZ / info.samplerate)
