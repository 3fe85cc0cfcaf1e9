"""One audio file, whole or in part, as a mono waveform at 16 kHz.

Channels are averaged, unless that cancels sound out, as where one of two has the opposite sign. A second cancels where
the mean has 3 dB less power than the mean of unrelated channels would have. Where such seconds hold more than a
twentieth of a file's power, the channel with the most power is taken alone. This is decided from the whole file, or
its first hour, once, whichever part of it is read; a constant offset is no sound.
"""

import math
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias, Union

import numpy as np

from hybrid_pruning.errors import InputError

if TYPE_CHECKING:
    from hybrid_pruning.audio import ffmpeg, libsndfile

SAMPLE_RATE_HZ = 16_000
WINDOW_SECONDS = 30.0  # of the windows that longer recordings are scored in
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4_000, 400_000
DECIDING_SECONDS = 3600
CANCELLED_SHARE, CANCELLED_POWER = 0.05, 0.5
"""The power in seconds that cancel, of a file's, and the power of their means, of unrelated channels' mean."""
CONTEXT = 512  # samples at 16 kHz decoded on either side of a part that is resampled: the filter reaches no further
REMEMBERED = 600 * SAMPLE_RATE_HZ
"""Samples up to which a file that must be decoded to know its length is kept for the next read."""
NOWHERE = sys.maxsize  # place in a file from which nothing was read yet: behind every start
FRAME = SAMPLE_RATE_HZ // 50
FLOOR_DBFS, LEAST_FRAMES = -70.0, 5
"""The level of active speech is above the floor, the noise of 16 bits, at -90 to -96, below; a click is no speech."""
NO_SPEECH = f"holds no speech-like energy, nothing above {FLOOR_DBFS:g} dBFS"
LOUDEST = 100.0  # above this, 40 dB over full scale, floats were written on another scale than -1 to 1
SECONDS_TOLERANCE, SHARE_TOLERANCE = 0.2, 0.01
"""Differences allowed between a file's duration and its manifest's: rounding, and the padding of lossy codecs."""
ADVICE = "check the file and the manifest's path column"

Wave = np.ndarray[Any, np.dtype[np.float32]]
Source: TypeAlias = Union["libsndfile.SndfileStream", "ffmpeg.FfmpegStream"]


def read_audio(path: str | Path, start: int = 0, samples: int | None = None) -> Wave:
    """Decode a file, or a part of it, to mono at 16 kHz.

    A part is the slice of the whole: exactly, but within 1e-6 where PCM or FLAC is resampled. All else is decoded from
    its beginning.

    Args:
        start, samples: first sample at 16 kHz, and the number of samples at most; None for all.

    Returns:
        [S] float32.
    """
    with AudioFile(path) as audio:
        return audio.read(start, samples)


def read_whole(path: str | Path, longest: float) -> Wave:
    """Decode a stranger's file as `read_audio` does; one of more than `longest` seconds is refused."""
    most = round(longest * SAMPLE_RATE_HZ)
    with AudioFile(path, longest) as audio:
        wave = audio.read(0, most + 1)
    if len(wave) > most:
        raise InputError(f"{path}: lasts more than {longest:g} s, which are the most that is taken")
    return wave


def audio_samples(path: str | Path) -> int:
    """Return a file's length in samples at 16 kHz, from its header where that states it."""
    with AudioFile(path) as audio:
        return audio.samples


def check_seconds(path: str | Path, samples: int, seconds: float) -> None:
    """Compare a file's length in samples at 16 kHz with the duration its manifest has, nan where there is none."""
    found = samples / SAMPLE_RATE_HZ
    if abs(found - seconds) > max(SECONDS_TOLERANCE, SHARE_TOLERANCE * seconds):
        advice = "fetch it anew if it is cut short, or correct the column seconds ('-' where not known)"
        raise InputError(f"{path}: lasts {found:.3f} s, its manifest says {seconds:.3f}; {advice}")


def may_hold_speech(wave: Wave) -> bool:
    """Return whether the rms of 100 ms of a wave [S], or all of a shorter one, is above the floor.

    Taken in frames of 20 ms less their means.
    """
    size = min(FRAME, len(wave))
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    loud = frames.std(axis=1, dtype=np.float64) > 10 ** (FLOOR_DBFS / 20)
    return bool(loud.sum() >= min(LEAST_FRAMES, len(frames)))


class AudioFile:
    """One open audio file that libsndfile or FFmpeg reads; a context manager.

    Of a stranger's file, no more than the `longest` seconds are decoded, and nothing of it is remembered.
    """

    def __init__(self, path: str | Path, longest: float | None = None) -> None:
        self.path = Path(path)
        self._length: int | None = None
        self._remembered: Wave | None = None
        self._rest: Iterator[Wave] = iter(())
        self._block, self._place = np.zeros(0, np.float32), NOWHERE
        with ExitStack() as stack:
            self._file = stack.enter_context(_open(self.path))
            self._source = _choose_source(self.path, self._file)
            if longest is not None and (self._source.frames or 0) > longest * self._source.rate:
                raise InputError(f"{self.path}: lasts more than {longest:g} s, which are the most that is taken")
            self._channel = _choose_channel(self._source, self._file, longest)
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()
        self._file.close()

    @property
    def rate(self) -> int:
        """The file's own sample rate in Hz."""
        return self._source.rate

    @property
    def samples(self) -> int:
        """The length at 16 kHz: from the header, or by decoding where that does not state it."""
        frames, rate = self._source.frames, self._source.rate
        if self._length is None and frames is not None:
            self._length = (2 * frames * SAMPLE_RATE_HZ + rate) // (2 * rate)  # as soxr rounds, halves up
        if self._length is None:
            self._place, kept, length = NOWHERE, list[Wave](), 0
            for block in self._decoded():
                length += len(block)
                kept.append(block)
                if length > REMEMBERED:
                    kept.clear()
            self._length, self._remembered = length, _joined(kept) if length <= REMEMBERED else None
        return self._length

    def read(self, start: int = 0, samples: int | None = None) -> Wave:
        """Return [S] float32 at 16 kHz, `samples` at most from `start` on; all are finite and not too large."""
        if self._remembered is not None:
            wave = self._remembered[start:][:samples].copy()
        elif self._source.seekable and (start or samples is not None):
            wave = self._read_part(start, samples)
        else:
            wave = self._read_on(start, samples)
        if not len(wave):
            raise InputError(f"{self.path}: holds no audio; remove it from the manifest")
        if not np.isfinite(wave).all():
            raise InputError(f"{self.path}: holds values that are not finite; remove it from the manifest")
        loudest = float(np.abs(wave).max())
        if loudest > LOUDEST:
            raise InputError(f"{self.path}: holds values up to {loudest:.3g}, expected -1 to 1; write it on that scale")
        return np.ascontiguousarray(wave, dtype=np.float32)

    def _read_part(self, start: int, samples: int | None) -> Wave:
        """Decode the part alone, with the context that resampling needs."""
        rate, frames = self._source.rate, self._source.frames or 0
        common = math.gcd(rate, SAMPLE_RATE_HZ)
        period = SAMPLE_RATE_HZ // common  # samples after which input and output fall together again
        context = 0 if rate == SAMPLE_RATE_HZ else CONTEXT
        periods = max(0, start - context) // period
        first = min(periods * (rate // common), frames)
        end = frames if samples is None else -(-(start + samples + context) * rate // SAMPLE_RATE_HZ)
        last = min(frames, end)
        if first >= last:
            return np.zeros(0, np.float32)
        mono = _joined(self._mixed(block) for _, block in self._source.blocks(first, last))
        if rate != SAMPLE_RATE_HZ:
            import soxr

            mono = soxr.resample(mono, rate, SAMPLE_RATE_HZ)
        return mono[start - periods * period :][:samples]

    def _read_on(self, start: int, samples: int | None) -> Wave:
        """Decode on from where the last part ended, or else from the beginning, keeping no more than is asked for."""
        rest, block, place = self._rest, self._block, self._place
        if start < place:
            rest, block, place = self._decoded(), block[:0], 0
        self._place = NOWHERE  # until this has gone well
        kept = [block[start - place :]]
        while samples is None or place + len(block) < start + samples:
            place += len(block)
            following = next(rest, None)
            if following is None:
                return _joined(kept)
            block = following
            kept.append(block[max(0, start - place) :])
        self._rest, self._block, self._place = rest, block, place
        return _joined(kept)[:samples]

    def _decoded(self) -> Iterator[Wave]:
        """Yield the whole file at 16 kHz, block by block."""
        import soxr

        rate, resampler = SAMPLE_RATE_HZ, None
        for found, block in self._source.blocks():
            if found != rate:  # at the beginning, and in chained streams
                if resampler is not None:
                    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                rate = found
                resampler = None if rate == SAMPLE_RATE_HZ else soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1)
            mono = self._mixed(block)
            yield mono if resampler is None else resampler.resample_chunk(mono)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _mixed(self, block: Wave) -> Wave:
        """[N, channels] -> [N]."""
        if self._channel is not None or block.shape[1] == 1:
            return block[:, min(self._channel or 0, block.shape[1] - 1)]
        with np.errstate(all="ignore"):  # values that are not finite are reported in one line
            return block.mean(axis=1)


def _open(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        ordinary = stat.S_ISREG(status.st_mode)  # opening a pipe would wait for its writer
        file = path.open("rb", buffering=0) if ordinary and status.st_size else None
    except (OSError, ValueError) as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "no such file" if gone else f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise InputError(f"{path}: {reason}; {ADVICE}") from error
    if file is None:
        kind = "empty, 0 bytes" if ordinary else "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
        raise InputError(f"{path}: is {kind}; {ADVICE}")
    return file


def _choose_source(path: Path, file: BinaryIO) -> Source:
    """Return the stream of the decoder that takes the file."""
    from hybrid_pruning.audio import libsndfile  # programs that read no audio need none

    source: Source
    try:
        source = libsndfile.SndfileStream(path, file)
    except libsndfile.NotRecognized:
        from hybrid_pruning.audio import ffmpeg  # nor those that read WAV and FLAC alone its libraries

        try:
            source = ffmpeg.FfmpegStream(path, file)
        except InputError as error:
            file.seek(0)
            text = _text(file.read(512))
            raise InputError(f"{path}: cannot be decoded (it is text, '{text}'); {ADVICE}") if text else error from None
    if not LOWEST_RATE_HZ <= source.rate <= HIGHEST_RATE_HZ:
        source.close()
        fault = f"its sample rate is {source.rate} Hz, expected {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}"
        raise InputError(f"{path}: {fault}; is its header damaged?")
    return source


_channels: dict[tuple[int, ...], int | None] = {}
"""The one channel that is taken of a file, None for their mean, by device, inode, size and time of the file."""


def _choose_channel(source: Source, file: BinaryIO, longest: float | None) -> int | None:
    """Return the channel to take alone, None to average all: decided once in a process, from an hour at most.

    With a `longest` it is decided from so many seconds, each time.
    """
    if source.channels == 1:
        return None
    status = os.fstat(file.fileno())
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _channels:
        power, cancelled, begun = np.zeros(source.channels), 0.0, 0.0
        with np.errstate(all="ignore"):
            for rate, block in source.blocks():
                begun += len(block) / rate
                if begun > (longest or DECIDING_SECONDS):
                    break
                if block.shape[1] != source.channels:
                    continue
                for piece in (block[start : start + rate] for start in range(0, len(block), rate)):
                    each, mean = piece.var(axis=0, dtype=np.float64), piece.mean(axis=1).var(dtype=np.float64)
                    power += len(piece) * each
                    if mean < CANCELLED_POWER * each.mean() / source.channels:
                        cancelled += len(piece) * float(each.sum())
        strongest = int(power.argmax())
        chosen = strongest if cancelled > CANCELLED_SHARE * power.sum() else None
        if longest is not None:
            return chosen
        _channels[key] = chosen
    return _channels[key]


def _text(head: bytes) -> str:
    """Return the beginning of a file that is text, such as an error page saved in place of the audio; else nothing."""
    try:
        words = " ".join(head.decode("ascii").split())
    except UnicodeDecodeError:
        return ""
    return words[:40] if words.isprintable() else ""


def _joined(blocks: Iterable[Wave]) -> Wave:
    kept = list(blocks)
    return kept[0] if len(kept) == 1 else np.concatenate([np.zeros(0, np.float32), *kept])
