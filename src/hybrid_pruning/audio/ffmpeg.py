"""Everything but PCM and FLAC (mp3, ogg, opus, m4a, webm, amr, wma, sph, ...), decoded by FFmpeg's libraries (PyAV)."""

import logging
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.logging import Capture, set_level, set_skip_repeated

from hybrid_pruning.audio.libsndfile import ADVICE, BLOCK, Samples, View
from hybrid_pruning.errors import InputError

FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "nistsphere,ogg,oma,qcp,shn,tak,tta,voc,w64,wav,wv,xwma"
)
"""Formats of a file: no playlist among them, which could name any other file or address."""
ANNOUNCED = ("ape", "flac", "mp3", "nistsphere", "tak", "tta", "wv")  # formats whose header has the length of the audio
LENIENT: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}
"""Arguments by which tags that are no UTF-8 are no error: as PyAV takes them anyway from its 19 on (Python 3.12)."""
FRAME = 1152  # samples by which encoders differ in the length that an MP3's header announces
ESTIMATED, HARMLESS = "Estimating duration", "backstep"
"""In FFmpeg's messages on a header that announces nothing, and on an MP3 that begins in the middle of a stream."""
TAG = re.compile(rb"ID3[\2-\4].[\0\x10\x20\x40\x80]([\0-\x7f]{4})|APETAGEX....(....)", re.DOTALL)
BITRATES = {  # of MPEG audio in kbit/s: by layer in version 1, one list for both layers in versions 2 and 2.5
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    None: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}

set_level(av.logging.WARNING)
set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


class FfmpegStream:
    """The samples of a file's first audio stream; rate and channels are those at the beginning."""

    frames: int | None = None  # known after decoding
    seekable = False  # decoded from a place on, samples may differ from those decoded on the way
    _container: Any
    _stream: Any

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._stream = None
        self._decoding = False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            pieces, fault = _without_tags(data), None
            self._parts = [View(file, pieces)]
            if pieces and data[pieces[0][0] :][:4] == b"OggS":
                links, fault = _follow_pages(data, pieces[0][0])
                self._parts = [View(file, [link]) for link in links]
            self._start(self._parts[0])
            fault = fault or _find_fault(data, self._container.format.name)
            if fault:
                self.close()
                raise InputError(f"{path}: {fault}; {ADVICE}")

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Samples]]:
        """Yield rate and [N, channels] from the beginning to the end; chained streams may change both on the way."""
        if first or last is not None:
            raise ValueError("this is decoded from its beginning")
        if self._decoding:
            self.close()
            self._start(self._parts[0])
        self._decoding = True
        blocks = self._blocks()
        while True:
            with self._strict():  # not around the yield: FFmpeg's messages go by thread
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def close(self) -> None:
        """Close the decoder; the file stays open."""
        self._container.close()

    def _start(self, part: View) -> None:
        self._decoding, self._estimated = False, False
        part.seek(0)
        with self._strict() as logs:
            self._container = av.open(
                part,  # without a name: its suffix would decide the format
                options={"format_whitelist": FORMATS, "protocol_whitelist": "none"},
                **LENIENT,
            )
            if not self._container.streams.audio:
                self._container.close()
                raise InputError(f"{self.path}: holds no audio; remove it from the manifest")
            self._stream = self._container.streams.audio[0]
            context = self._stream.codec_context
            if context is None or not context.sample_rate:
                self._container.close()
                found = "damaged, or in a codec that av does not have"
                raise InputError(f"{self.path}: cannot be decoded ({found}); {ADVICE}")
            context.thread_type = "NONE"
            context.options = {"err_detect": "crccheck+explode"}
            if part is self._parts[0]:
                self.rate, self.channels = context.sample_rate, context.channels
            self._estimated = any(ESTIMATED in message for _, _, message in logs)

    def _blocks(self) -> Iterator[tuple[int, Samples]]:
        """Yield rate and [N, channels], frames of one kind together, link by link."""
        kept, kind, size = list[Samples](), (0, 0), 0
        for rate, samples in chain.from_iterable(self._decode(part) for part in self._parts):
            if kept and (kind != (rate, samples.shape[1]) or size >= BLOCK):
                yield kind[0], np.concatenate(kept)
                kept, size = [], 0
            kind, size = (rate, samples.shape[1]), size + samples.size
            kept.append(samples)
        if kept:
            yield kind[0], np.concatenate(kept)

    def _decode(self, part: View) -> Iterator[tuple[int, Samples]]:
        """Yield rate and [N, channels] frame by frame, and require that all of a link was there."""
        if part is not self._parts[0]:
            self.close()
            self._start(part)
            self._decoding = True
        name = self._container.format.name
        packets, seconds, head, size = 0, 0.0, b"", 0
        for packet in self._container.demux(self._stream):
            packets += bool(packet.size)
            if packet.is_corrupt and name != "wav":  # a WAV's own header counts, or holds no length
                raise self._cut("its last packet is incomplete")
            if name == "mp3" and packet.size > 3 and _mpeg_bytes(start := bytes(packet)[:4]):
                head, size = start, packet.size
            for frame in packet.decode():
                assert isinstance(frame, av.AudioFrame)
                seconds += frame.samples / frame.sample_rate
                yield frame.sample_rate, _samples(frame)
        if size < _mpeg_bytes(head):
            raise self._cut("its last frame is incomplete")
        if name.startswith(("mov", "avi")) and packets < self._stream.frames:
            raise self._cut(f"its header promises {self._stream.frames} packets, {packets} are there")
        promised = float((self._stream.duration or 0) * (self._stream.time_base or 0))
        tolerance = (FRAME if name == "mp3" else 1) / self._stream.codec_context.sample_rate
        if name in ANNOUNCED and not self._estimated and seconds < promised - tolerance:
            raise self._cut(f"its header promises {promised:.3f} s, {seconds:.3f} could be decoded")

    def _cut(self, reason: str) -> InputError:
        return InputError(f"{self.path}: is cut short or damaged: {reason}; {ADVICE}")

    @contextmanager
    def _strict(self) -> Iterator[list[tuple[int, str, str]]]:
        """Raise the errors that FFmpeg only reports: it goes on with less audio than there was."""
        reasons: list[str] = []
        try:
            with Capture(local=True) as logs:
                yield logs
        except InputError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            reasons.append(str(getattr(error, "strerror", None) or error))
        own = {self._container.format.name, self._stream.codec_context.name} if self._stream else None
        found = [
            f"{name}: {message.strip()}"
            for level, name, message in logs
            if level <= av.logging.ERROR and (own is None or name in own) and HARMLESS not in message
        ]
        if found or reasons:
            raise InputError(f"{self.path}: cannot be decoded ({[*found, *reasons][0]}); {ADVICE}")


def _samples(frame: av.AudioFrame) -> Samples:
    """Return the samples of a frame, [N, channels]."""
    values: Any = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2.0 ** (8 * values.itemsize - 1))
    return values.astype(np.float32)


def _without_tags(data: mmap.mmap) -> list[tuple[int, int]]:
    """Return the pieces of MPEG audio between its ID3v2 and APE tags, which joined files have in their middle."""
    if not (data[:3] == b"ID3" or (data[0] == 0xFF and data[1:2] >= b"\xe0")):
        return [(0, len(data))]
    pieces, place = [], 0
    for found in TAG.finditer(data):
        if found.start() < place:  # within the tag before
            continue
        if found[1]:
            size = sum(byte << shift for byte, shift in zip(found[1], (21, 14, 7, 0), strict=True))
            end = found.start() + 10 + size + (10 if found[0][5] & 0x10 else 0)
        else:
            end = found.start() + 32 + int.from_bytes(found[2], "little")
        if found.start() == place or data[end : end + 1] in (b"\xff", b"", b"I", b"A", b"T"):  # audio, a tag, the end
            pieces.append((place, found.start()))
            place = end
    return [(start, end) for start, end in [*pieces, (place, len(data))] if start < end]


def _mpeg_bytes(head: bytes) -> int:
    """Return the bytes of the frame of MPEG audio that begins like this; 0 where none does, or one of free format."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer, place, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer not in {2, 3} or not 0 < place < 15 or rate == 3:
        return 0
    kbits = BITRATES[layer if version == 3 else None][place - 1]
    hertz = (44100, 48000, 32000)[rate] // (4, 1, 2, 1)[version]
    return (144 if version == 3 or layer == 2 else 72) * kbits * 1000 // hertz + (head[2] >> 1 & 1)


def _find_fault(data: mmap.mmap, name: str) -> str | None:
    """Return the fault of a file that its format shows and FFmpeg does not report: fewer bytes than it promises."""
    promised = 0
    if name.startswith("mov"):
        promised = _end_of_boxes(data)
    elif name == "asf":  # file size and flags stand in its file properties
        place = data.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), 0, 1 << 20)
        if 0 <= place <= len(data) - 92 and not data[place + 88] & 1:
            promised = int.from_bytes(data[place + 40 : place + 48], "little")
    return f"is cut short: {promised} bytes are promised, {len(data)} are there" if promised > len(data) else None


def _end_of_boxes(data: mmap.mmap) -> int:
    """Return the end of the outermost boxes (ISO/IEC 14496-12), of which the last may be cut short."""
    place = 0
    while place + 16 <= len(data):
        size, name, long = struct.unpack_from(">I4sQ", data, place)
        if not size or not name.isalnum():  # up to the end, or no box
            break
        place += max(long if size == 1 else size, 8)
    return place


def _follow_pages(data: mmap.mmap, place: int) -> tuple[list[tuple[int, int]], str | None]:
    """Return the links of a chained Ogg (RFC 3533), and its fault: pages must be whole, and none missing."""
    starts, ended, goes_on, begins = [place], True, False, True
    last: dict[int, tuple[int, int]] = {}
    fault = None
    while place < len(data) and fault is None:
        if data[place : place + 4] != b"OggS"[: len(data) - place]:
            following = data.find(b"OggS", place)
            if not ended:
                fault = f"is damaged: no Ogg page at byte {place}"
            if following < 0:
                break
            place = following
        head = data[place : place + 27]
        sizes = data[place + 27 : place + 27 + head[26]] if len(head) == 27 else b""
        end = place + 27 + len(sizes) + sum(sizes)
        if len(head) < 27 or len(sizes) < head[26] or end > len(data):
            fault = "is cut short: its last Ogg page is incomplete"
            break
        flags, granule, serial, number = struct.unpack_from("<BqII", head, 5)
        if flags & 2 and not begins:
            starts.append(place)
            last.clear()
        before, expected = last.get(serial, (0, 0))
        if before and number != expected:  # behind its headers, a recorded broadcast begins anywhere
            fault = f"is damaged: an Ogg page is missing before byte {place}"
        last[serial] = granule, number + 1
        begins, ended, goes_on, place = bool(flags & 2), bool(flags & 4), sizes[-1:] == b"\xff", end
    if goes_on and not ended:
        fault = fault or "is cut short: its last Ogg packet is incomplete"
    return list(pairwise([*starts, len(data)])), fault
