"""What libsndfile cannot read (m4a, aac, amr, wma, webm, ...), through the program ffmpeg where it is installed."""

import contextlib
import functools
import importlib
import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from hybrid_pruning.errors import InputError

WHERE = "on Debian and Ubuntu: apt install ffmpeg; on macOS: brew install ffmpeg; anywhere: pip install imageio-ffmpeg"
BLOCK = 1 << 16
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,g722,g726,gsm,ilbc,loas,matroska,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,nistsphere,ogg,oma,qcp,rm,shn,tak,tta,voc,w64,wav,wv,xwma"
)
"""Containers of audio alone: a playlist that calls itself audio could name any other file or address."""


@functools.cache
def find_programs() -> tuple[str, ...]:
    """Return every ffmpeg at hand: the one on the PATH first, then that of the package imageio-ffmpeg."""
    found = [shutil.which("ffmpeg")]
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        with contextlib.suppress(RuntimeError):  # the package is there, its program is not
            found.append(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    return tuple(program for program in found if program)


class Stream:
    """The samples of a file's first audio stream at its own rate.

    Args:
        path: the file.

    Attributes:
        rate: in Hz.
        frames: None: only decoding tells.
        seekable: False: what ffmpeg decodes from a place on is not always what it decodes there on the way.

    Raises:
        InputError: ffmpeg cannot read it.
    """

    frames: int | None = None
    seekable = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  a pipe nobody reads could fill up
        self._program = subprocess.Popen(_command(self.path), stdout=subprocess.PIPE, stderr=self._complaints)
        self._decoding = False
        try:
            self.rate, self._channels = self._read_header()
        except BaseException:
            self.close()
            raise

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[Any]:
        """Yield [N, channels] float32 from the beginning to the end; `first` and `last` are for those that can seek.

        Raises:
            InputError: the file is damaged.
        """
        if first or last is not None:
            raise ValueError("ffmpeg's streams are read from the beginning")
        if self._decoding:
            self.close()
            self._start()
        self._decoding = True
        while data := self._output.read(BLOCK * self._channels * 4):
            yield np.frombuffer(data, np.float32, len(data) // 4).reshape(-1, self._channels)
        self._program.wait()
        self._require_silence()

    def close(self) -> None:
        """End the program, whether or not it has come to its end."""
        self._output.close()
        self._program.kill()
        self._program.wait()
        self._complaints.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self._program.stdout is not None
        return self._program.stdout

    def _read_header(self) -> tuple[int, int]:
        """Read ffmpeg's WAV up to its first sample and return (rate, channels)."""
        rate = channels = 0
        self._output.read(12)
        while len(header := self._output.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                return rate, channels
            content = self._output.read(length + length % 2)
            if name == b"fmt ":
                _, channels, rate = struct.unpack("<HHI", content[:8])
        self._program.wait()
        self._require_silence()
        raise InputError(f"{self.path}: holds no audio that ffmpeg could find; remove it from the manifest")

    def _require_silence(self) -> None:
        """Take whatever ffmpeg reports as an error for one: it goes on with less audio than there was."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").splitlines()
        reasons = [_reason(line) for line in lines if line.strip() and "Last message repeated" not in line]
        if self._program.returncode or reasons:
            reason = reasons[0] if reasons else f"exit code {self._program.returncode}"
            raise InputError(f"{self.path}: cannot be decoded (ffmpeg: {reason}); fetch it anew or remove it")


def _reason(line: str) -> str:
    """A line of ffmpeg's without the file's name and without addresses in memory."""
    return re.sub(r"\[(\S+) @ 0x[0-9a-f]+\]", r"\1:", re.sub(r"^file:.*: ", "", line.strip()))


def _command(path: Path) -> list[str]:
    """Decode the first audio stream into a WAV of 32-bit floats on standard output; the first error ends it."""
    reading = ["-threads", "1", "-xerror", "-err_detect", "crccheck+explode"]
    safety = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
    source = ["-i", f"file:{path.absolute()}", "-map", "0:a:0", "-map_metadata", "-1"]
    output = ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
    return [find_programs()[0], "-nostdin", "-v", "error", *reading, *safety, *source, *output]
