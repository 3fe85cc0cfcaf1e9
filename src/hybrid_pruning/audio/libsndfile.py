"""PCM and its kin (wav, aiff, au, caf, w64) and FLAC through libsndfile, which decodes them from any place on."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from hybrid_pruning.errors import InputError

BLOCK = 1 << 18  # samples decoded at a time, all channels together: a length that a header claims is not allocated
NOT_KNOWN = 1 << 62  # from here on a number of frames stands for a header that has none
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"caff", b".snd", b"dns.", b"fLaC")
PLACEHOLDERS = (  # and 0, which promises nothing: written by programs that cannot go back to fill the length in
    (0x7F000000, 0x7F000040),
    (0x7FFFF000, 0x7FFFF040),
    (0x7FFFFFC0, 0x80000040),
    (0xFFFFFF00, 0xFFFFFFFF),
)
LOGGED = re.compile(r"^(?:riff|data| *Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""A note of libsndfile on a Wave64, CAF or AU that is not as long as its header promises."""
MOST_CHUNKS = 1000
ADVICE = "fetch it anew or remove it from the manifest"


Samples = np.ndarray[Any, np.dtype[np.float32]]


class NotRecognized(Exception):  # noqa: N818  no error yet: another decoder may take the file
    """libsndfile cannot read a file; the message says why."""


class SndfileStream:
    """The samples of a file at its own rate; `frames` of each channel are None where the header has no number.

    Raises:
        NotRecognized: the format is none of libsndfile's, or the header is damaged.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        file.seek(0)
        head = file.read(12)
        if not head.startswith(MAGIC):
            raise NotRecognized("of no known format")
        chunk = _find_samples(file, head)
        file.seek(0)
        try:
            self._sound = _SoundFile(file.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            raise NotRecognized(str(error.error_string).removeprefix("Error : ").rstrip(".")) from error
        lengths = [(int(said), int(there)) for said, there in LOGGED.findall(self._sound.extra_info)]
        for promised, there in [chunk[1:]] if chunk else lengths:
            if there < promised and not any(first <= promised <= last for first, last in PLACEHOLDERS):
                self._sound.close()
                found = f"its header promises {promised} bytes of audio, {max(there, 0)} are there"
                raise InputError(f"{path}: is cut short: {found}; {ADVICE}")
        kind = self._sound.subtype
        unsized = chunk is not None and chunk[2] > 0 and not self._sound.frames
        if "MPEG" in kind or (unsized and "ADPCM" in kind):
            self._sound.close()
            raise NotRecognized("of no known format")
        if chunk and unsized:  # in its format, from there to the end
            rest, (rate, channels) = [(chunk[0], chunk[0] + chunk[2])], (self._sound.samplerate, self._sound.channels)
            endian = "BIG" if head[:4] in (b"RIFX", b"FORM") else "LITTLE"
            self._sound.close()
            self._sound = _SoundFile(View(file, rest), "r", rate, channels, kind, endian, "RAW")
        self._place = 0
        self.rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        self.frames: int | None = self._sound.frames if self._sound.frames < NOT_KNOWN else None
        self.seekable = self._sound.can_seek and self.frames is not None

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Samples]]:
        """Yield rate and [N, channels] from sample `first` up to `last`, None for the end."""
        size = BLOCK // self.channels + 1
        end = NOT_KNOWN if self.frames is None else min(last or self.frames, self.frames)
        try:
            if first != self._place:
                self._sound.seek(first)
                self._place = first
            while self._place < end:
                block = self._sound.read(min(size, end - self._place), dtype="float32", always_2d=True)
                if not len(block):
                    break
                self._place += len(block)
                yield self.rate, block
        except soundfile.LibsndfileError as error:
            reason = str(error.error_string).removeprefix("Error : ").rstrip(".")
            raise InputError(f"{self.path}: cannot be decoded ({reason}); {ADVICE}") from error
        if self.frames is not None and self._place < end:
            found = f"its header promises {self.frames} samples, {self._place} could be decoded"
            raise InputError(f"{self.path}: is cut short or damaged: {found}; {ADVICE}")

    def close(self) -> None:
        """Close the decoder; the file stays open."""
        self._sound.close()


class View:
    """Pieces of a file, from a first byte to before a last, as if there were nothing between them, without a name."""

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]) -> None:
        self._file, self._pieces, self._place = file, pieces, 0
        self._size = sum(end - start for start, end in pieces)

    def read(self, size: int) -> bytes:
        """Read on, perhaps less than asked for; nothing at the end."""
        passed, place = 0, self._place
        for start, end in self._pieces:
            if place < passed + end - start:
                self._file.seek(start + place - passed)
                data = self._file.read(min(size, passed + end - start - place))
                self._place += len(data)
                return data
            passed += end - start
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the place."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types before 0.14
    """One that reads straight on: soundfile seeks after every read, which FLAC's decoder does by decoding again."""

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        return bool(super().seekable())


def _find_samples(file: BinaryIO, head: bytes) -> tuple[int, int, int] | None:
    """Return where the samples of a WAV, RF64 or AIFF begin, the bytes that it promises, and those that are there.

    A chunk of length 0 with another one behind it holds nothing; with anything else behind it, its length is not known.
    """
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        return None
    size, start, long = os.fstat(file.fileno()).st_size, 12, 0
    layout = ">4sI" if head[:4] in (b"RIFX", b"FORM") else "<4sI"
    for _ in range(MOST_CHUNKS):
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return None
        name, length = struct.unpack(layout, header[:8])
        if name == b"ds64":
            file.seek(start + 16)
            long = int.from_bytes(file.read(8), "little")
        elif name in (b"data", b"SSND"):
            empty = not length and header[8:12].strip().isalnum()
            return start + 8, long or length if length == 0xFFFFFFFF else length, 0 if empty else size - start - 8
        start += 8 + length + length % 2
    return None
