"""Audio containers: does a file hold what its own header promises? Half a WAV, OGG or MP3 decodes without complaint.

Sources: the Multimedia Programming Interface and EBU Tech 3306 (WAV, RF64), Sony's Wave64, Apple's AIFF and CAF, Sun's
AU, NIST's SPHERE, RFC 3533 (Ogg), ISO/IEC 11172-3 and the Xing and VBRI headers in use (MP3).
"""

import io
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MOST_CHUNKS = 1000
LARGEST_PAGE = 27 + 255 + 255 * 255
LARGEST_TAG = 1 << 16
"""Bytes in which the first frame of an MP3 must begin."""

PLACEHOLDERS = (  # and 0, which promises nothing
    (0x7F000000, 0x7F000040),
    (0x7FFFF000, 0x7FFFF040),
    (0x7FFFFFC0, 0x80000040),
    (0xFFFFFF00, 0xFFFFFFFF),
)
MPEG_2_5, RESERVED, MPEG_2, MPEG_1 = range(4)
BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
LOW_BITRATES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
RATES_HZ = (44100, 48000, 32000)


def find_fault(file: BinaryIO, size: int) -> str | None:
    """Say what is missing in an audio file of `size` bytes; None where nothing is, or its format does not tell.

    FLAC is not looked at: its decoder finds what is missing or damaged.
    """
    file.seek(0)
    head = file.read(16)
    if head.startswith(b"ID3") or Frame.parse(head) is not None:
        return _mp3(file, size)
    check = next((check for magic, check in CHECKS.items() if head.startswith(magic)), None)
    try:
        return check(file, size) if check else None
    except (struct.error, ValueError):  # the header itself is cut or damaged: the decoder says so
        return None


class WithLength(io.RawIOBase):
    """A WAV or RF64 whose header gives no length, with one that says so in the way that libsndfile understands."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        file.seek(0)
        self._changes = {0: b"RIFF"}
        for name, start, length in _chunks(file, os.fstat(file.fileno()).st_size, 12, "<4sI"):
            if name == b"data" and length == 0 and not file.read(4).strip().isalnum():  # no other chunk follows
                self._changes[start - 4] = b"\xff" * 4
        file.seek(0)

    def readinto(self, buffer: Any) -> int:
        """Read, with the changes laid over what is there."""
        start, view = self._file.tell(), memoryview(buffer).cast("B")
        count = self._file.readinto(view)  # type: ignore[attr-defined]
        for place, content in self._changes.items():
            for offset, byte in enumerate(content, place - start):
                if 0 <= offset < count:
                    view[offset] = byte
        return int(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go somewhere."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return where we are."""
        return self._file.tell()


def is_mpeg(head: bytes) -> bool:
    """Whether a file that begins like this may be taken for MPEG audio, damaged or not."""
    return head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def _missing(promised: int, there: int) -> str | None:
    if there >= promised:
        return None
    return f"is cut short: its header promises {promised} bytes of audio, {max(there, 0)} are there"


def _says_nothing(length: int) -> bool:
    """Whether a length is what programs write that cannot go back to fill it in: ffmpeg, SoX, arecord and their kin."""
    return any(first <= length <= last for first, last in PLACEHOLDERS)


def _chunks(file: BinaryIO, size: int, start: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, first byte, length) of a RIFF's or its kin's chunks, padded to even lengths."""
    header = struct.calcsize(layout)
    for _ in range(MOST_CHUNKS):
        if start + header > size:
            return
        file.seek(start)
        name, length = struct.unpack(layout, file.read(header))
        yield name, start + header, length
        start += header + length + length % 2


def _riff(file: BinaryIO, size: int, order: str = "<") -> str | None:
    """WAV, and RF64 with its 64-bit lengths in a chunk of their own."""
    long = 0
    for name, start, length in _chunks(file, size, 12, f"{order}4sI"):
        if name == b"ds64":
            file.seek(start + 8)
            (long,) = struct.unpack("<Q", file.read(8))
        elif name == b"data":
            if long and length == 0xFFFFFFFF:
                return _missing(long, size - start)
            return None if _says_nothing(length) else _missing(length, size - start)
    return None


def _aiff(file: BinaryIO, size: int) -> str | None:
    for name, start, length in _chunks(file, size, 12, ">4sI"):
        if name == b"SSND":
            return None if _says_nothing(length) else _missing(length, size - start)
    return None


def _wave64(file: BinaryIO, size: int) -> str | None:
    """Chunks named by 16 bytes, their lengths with the header's 24, padded to 8."""
    start = 40
    for _ in range(MOST_CHUNKS):
        if start + 24 > size:
            return None
        file.seek(start)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name.startswith(b"data"):
            return None if length <= 24 or length >= 1 << 62 else _missing(length - 24, size - start - 24)
        start += max((length + 7) // 8 * 8, 24)
    return None


def _caf(file: BinaryIO, size: int) -> str | None:
    start = 8
    for _ in range(MOST_CHUNKS):
        if start + 12 > size:
            return None
        file.seek(start)
        name, length = struct.unpack(">4sq", file.read(12))
        if length < 0:  # -1: up to the end of the file
            return None
        if name == b"data" or start + 12 + length > size:
            return _missing(length, size - start - 12)
        start += 12 + length
    return None


def _au(file: BinaryIO, size: int) -> str | None:
    file.seek(4)
    start, length = struct.unpack(">II", file.read(8))
    return None if _says_nothing(length) else _missing(length, size - start)


def _sphere(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    header = file.read(1024).decode("latin-1")
    found = dict(re.findall(r"^(sample_count|sample_n_bytes|channel_count) -i (\d+)", header, re.MULTILINE))
    if len(found) < 3 or "shorten" in header:
        return None
    promised = int(found["sample_count"]) * int(found["sample_n_bytes"]) * int(found["channel_count"])
    return _missing(promised, size - int(header.split()[1]))


def _ogg(file: BinaryIO, size: int) -> str | None:
    """The last page must be whole and marked as the end of its stream."""
    file.seek(max(0, size - LARGEST_PAGE))
    tail = file.read(LARGEST_PAGE)
    place = tail.rfind(b"OggS")
    if place < 0:
        return "is cut short or overwritten: its end holds no Ogg page"
    page = tail[place:]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "is cut short: its last Ogg page is incomplete"
    return None if page[5] & 4 else "is cut short: its last Ogg page is not marked as the end"


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of one MPEG audio frame of layer III.

    Args:
        size: bytes of the whole frame.
        bitrate: in kbit/s.
    """

    size: int
    bitrate: int

    @classmethod
    def parse(cls, header: bytes) -> "Frame | None":
        """Read four bytes; None where they are no frame's, or one of free format."""
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
            return None
        version, rate, bitrate = header[1] >> 3 & 3, header[2] >> 2 & 3, header[2] >> 4
        if version == RESERVED or rate == 3 or not 0 < bitrate < 15:
            return None
        kbits = (BITRATES if version == MPEG_1 else LOW_BITRATES)[bitrate - 1]
        rate_hz = RATES_HZ[rate] // {MPEG_1: 1, MPEG_2: 2, MPEG_2_5: 4}[version]
        return cls((144 if version == MPEG_1 else 72) * kbits * 1000 // rate_hz + (header[2] >> 1 & 1), kbits)


def _mp3(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    head = file.read(10)
    start = 0
    if head.startswith(b"ID3"):
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    file.seek(start)
    data = file.read(LARGEST_TAG)
    place = next((p for p in range(len(data)) if data[p] == 0xFF and Frame.parse(data[p : p + 4])), None)
    if place is None:
        return "is cut short: its tag is followed by no audio" if start else None
    begin = start + place
    first = data[place : place + 200]
    for name, announced in ((b"Xing", _xing), (b"Info", _xing), (b"VBRI", _vbri)):
        found = first.find(name, 4, 44)  # behind the frame's header and side information
        if found >= 0:
            promised = announced(first[found + 4 :])
            return None if promised is None else _missing(promised, size - begin)
    return _walk(file, begin, size)


def _xing(tag: bytes) -> int | None:
    """Return the number of bytes that a Xing or Info header announces: flags, frames and bytes, if there."""
    flags = int.from_bytes(tag[:4], "big")
    place = 8 if flags & 1 else 4
    return int.from_bytes(tag[place : place + 4], "big") if flags & 2 else None


def _vbri(tag: bytes) -> int:
    """Return the number of bytes that a VBRI header announces: after version, delay and quality."""
    return int.from_bytes(tag[6:10], "big")


def _walk(file: BinaryIO, start: int, size: int) -> str | None:
    """Follow the frames of an MP3 that announces nothing."""
    bitrates = set()
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        while (frame := Frame.parse(data[start : start + 4])) is not None:
            bitrates.add(frame.bitrate)
            start += frame.size
    if start > size:
        return _missing(start, size)
    if len(bitrates) > 1:
        return "is an MP3 of varying bit rate that does not announce its length; rewrite it: ffmpeg -i OLD -c copy NEW"
    return None


CHECKS: dict[bytes, Callable[[BinaryIO, int], str | None]] = {
    b"RIFF": _riff,
    b"RIFX": lambda file, size: _riff(file, size, ">"),
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _wave64,
    b"FORM": _aiff,
    b"caff": _caf,
    b".snd": _au,
    b"NIST_1A": _sphere,
    b"OggS": _ogg,
}
