"""What libsndfile reads: wav, flac, ogg (vorbis, opus), mp3, aiff, au, caf, sphere, w64 and their kin."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from hybrid_pruning.audio.containers import WithLength, find_fault, is_mpeg
from hybrid_pruning.errors import InputError

BLOCK = 1 << 18
"""Samples decoded at a time, all channels together: what a header claims is never allocated unseen."""
NOT_KNOWN = 1 << 62
"""From here on a number of frames is libsndfile's way to say that the header has none."""
UNSIZED = ("WAV", "WAVEX", "RF64")
"""Formats whose header says 0 where the program that wrote it to a pipe could not go back to fill the length in."""
PREROLL_SECONDS = 0.5
"""What an MP3's decoder needs before a place to give there what it gives on the way."""
LAST_PAGE_SECONDS = 10
"""More than the last page of an Ogg holds: libsndfile goes to a wrong place in there."""
LENIENCE = 0.01
"""How far an MP3's length may be from the estimate where it does not announce it."""

ADVICE = "fetch it anew or remove it from the manifest"
_stderr = threading.Lock()


class NotRecognized(Exception):  # noqa: N818  no error yet: another decoder may know the file
    """libsndfile cannot read a file; the message says why."""


class Stream:
    """The samples of a file at its own rate.

    Args:
        path: the file, for messages.
        file: the same, open, without a buffer.

    Attributes:
        rate: in Hz.
        frames: samples of each channel; None where the header has no number.
        seekable: whether decoding may begin anywhere.

    Raises:
        InputError: the file is shorter than its header promises.
        NotRecognized: libsndfile does not know the format, or the header is damaged.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        fault = find_fault(file, os.fstat(file.fileno()).st_size)
        if fault:
            raise InputError(f"{path}: {fault}; fetch it anew or remove it from the manifest")
        file.seek(0)
        self._is_mp3 = is_mpeg(file.read(16))
        file.seek(0)
        try:
            with self._quiet():
                self._sound = _SoundFile(file.fileno(), closefd=False)
            if not self._sound.frames and self._sound.format in UNSIZED:
                self._sound.close()
                self._sound = _SoundFile(WithLength(file))
        except soundfile.LibsndfileError as error:
            raise NotRecognized(_reason(error)) from error
        self._is_mp3 = "MPEG" in self._sound.subtype  # in a WAV, too
        self._place = 0
        self.rate: int = self._sound.samplerate
        self.frames: int | None = self._sound.frames if self._sound.frames < NOT_KNOWN else None
        self.seekable = self._sound.can_seek and self.frames is not None

    def blocks(self, first: int, last: int | None) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        """Yield [N, channels] from sample `first` up to `last`, None for the end.

        Raises:
            InputError: the file is damaged, or ends before its header says.
        """
        size = BLOCK // self._sound.channels + 1
        end = NOT_KNOWN if self.frames is None else min(last or self.frames, self.frames)
        try:
            self._go_before(first)
            while self._place < end:
                with self._quiet():
                    block = self._sound.read(min(size, end - self._place), dtype="float32", always_2d=True)
                if not len(block):
                    break
                self._place += len(block)
                yield block[max(0, len(block) - (self._place - first)) :]
        except soundfile.LibsndfileError as error:
            raise InputError(f"{self.path}: cannot be decoded ({_reason(error)}); {ADVICE}") from error
        if self.frames is not None and self._place < end * (1 - LENIENCE if self._is_mp3 else 1):
            raise InputError(
                f"{self.path}: is cut short or damaged: its header promises {self.frames} samples, {self._place} could "
                f"be decoded; {ADVICE}"
            )

    def close(self) -> None:
        """Let go of the decoder; the file stays open."""
        with self._quiet():
            self._sound.close()

    def _go_before(self, first: int) -> None:
        """Go to where decoding must begin to be right at sample `first`."""
        start = first
        if self._is_mp3:
            start = max(0, first - round(PREROLL_SECONDS * self.rate))
        elif self._sound.format == "OGG":
            start = min(first, max(0, (self.frames or 0) - LAST_PAGE_SECONDS * self.rate))
        if start != self._place:
            with self._quiet():
                self._sound.seek(start)
            self._place = start

    def _quiet(self) -> AbstractContextManager[None]:
        return _without_stderr() if self._is_mp3 else nullcontext()


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types before 0.14
    """One that reads straight on: soundfile seeks after every read, which FLAC's decoder does by decoding again."""

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        return bool(super().seekable())


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep libmpg123 from printing: it reports what is normal after a seek, and what we report in one line."""
    with _stderr:
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)


def _reason(error: Any) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")
