"""Audio files of every format with every damage: what `score` says of each."""

import io
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

import sounds
from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.data.manifest import read_manifest
from world import Case

SCORE = "score model dev/manifest.tsv --workers 0 --out new.tsv"
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav of floats": ("WAV", "FLOAT"),
    "wav in mu-law": ("WAV", "ULAW"),
    "wav in ADPCM": ("WAV", "MS_ADPCM"),
    "extensible wav": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "sphere": ("NIST", "PCM_16"),
}
FFMPEG = {
    "m4a": ("ipod", "aac"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "webm": ("matroska", "libopus"),
    "tta": ("tta", "tta"),
}
Change = Callable[[bytes], bytes]


def encode(kind: str, subtype: str) -> bytes:
    """Return half a second of noise in a format."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(SAMPLE_RATE_HZ // 2), SAMPLE_RATE_HZ, format=kind, subtype=subtype)
    return buffer.getvalue()


def clip(world: Path) -> Path:
    """Return the file to damage: the third of the manifest."""
    return read_manifest(world / "dev" / "manifest.tsv")[2].path


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def almost_all(data: bytes) -> bytes:
    return data[: len(data) * 97 // 100]


def head(data: bytes) -> bytes:
    return data[:20]


def overwritten(data: bytes) -> bytes:
    """Zeros from the middle on, as a disk that filled up leaves them."""
    return half(data) + bytes(len(data) - len(half(data)))


def garbled(data: bytes) -> bytes:
    """A hole in the middle."""
    middle = len(data) // 2
    return data[:middle] + b"\x55" * 400 + data[middle + 400 :]


def turned(data: bytes) -> bytes:
    """One bit, in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def written(change: Change, kind: str, subtype: str, world: Path) -> None:
    clip(world).write_bytes(change(encode(kind, subtype)))


def written_by_ffmpeg(change: Change, kind: str, codec: str, world: Path) -> None:
    clip(world).write_bytes(change(sounds.encode(noise(SAMPLE_RATE_HZ // 2), kind, codec)))


def content(data: bytes, world: Path) -> None:
    clip(world).write_bytes(data)


def values(wave: np.ndarray, world: Path) -> None:
    soundfile.write(clip(world), wave, SAMPLE_RATE_HZ, subtype="FLOAT", format="WAV")


def rate(rate_hz: int, world: Path) -> None:
    data = bytearray(encode("WAV", "PCM_16"))
    data[24:28] = struct.pack("<I", rate_hz)
    clip(world).write_bytes(data)


def gone(world: Path) -> None:
    clip(world).unlink()


def folder(world: Path) -> None:
    clip(world).unlink()
    clip(world).mkdir()


def link(target: str, world: Path) -> None:
    clip(world).unlink()
    clip(world).symlink_to(target)


def pipe(world: Path) -> None:
    clip(world).unlink()
    os.mkfifo(clip(world))


def long_name(world: Path) -> None:
    path = world / "dev" / "manifest.tsv"
    path.write_text(path.read_text().replace(clip(world).name, "a" * 300 + ".wav"))


def seconds(value: str, world: Path) -> None:
    """Give the third clip another duration in the manifest."""
    path = world / "dev" / "manifest.tsv"
    lines = path.read_text().splitlines()
    cells = lines[3].split("\t")
    cells[lines[0].split("\t").index("seconds")] = value
    lines[3] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")


def lasting_longer(world: Path) -> None:
    clip(world).write_bytes(encode("WAV", "PCM_16"))
    seconds("0.1", world)


def spiked(value: float) -> np.ndarray:
    wave = noise(4000)
    wave[2000] = value
    return wave


UNREADABLE = r"bonafide-02.wav: (cannot be decoded|is cut short|is damaged|holds no audio)"
AUDIO: dict[str, Case] = {
    **{f"{name}, half": Case(partial(written, half, *form), SCORE, UNREADABLE) for name, form in FORMATS.items()},
    **{
        f"{name}, the end missing": Case(partial(written, almost_all, *form), SCORE, UNREADABLE)
        for name, form in FORMATS.items()
    },
    **{
        f"{name}, 20 bytes": Case(partial(written, head, *FORMATS[name]), SCORE, UNREADABLE)
        for name in ("wav", "flac", "opus", "mp3")
    },
    **{
        f"{name}, overwritten by zeros": Case(partial(written, overwritten, *FORMATS[name]), SCORE, UNREADABLE)
        for name in ("flac", "vorbis", "opus")
    },
    **{
        f"{name}, a hole in the middle": Case(partial(written, garbled, *FORMATS[name]), SCORE, UNREADABLE)
        for name in ("flac", "vorbis", "opus", "mp3")
    },
    **{
        f"{name}, half": Case(partial(written_by_ffmpeg, half, *form), SCORE, UNREADABLE)
        for name, form in FFMPEG.items()
    },
    **{
        f"{name}, a hole in the middle": Case(partial(written_by_ffmpeg, garbled, *form), SCORE, UNREADABLE)
        for name, form in FFMPEG.items()
    },
    "flac, a turned bit": Case(partial(written, turned, *FORMATS["flac"]), SCORE, UNREADABLE),
    "tta, a turned bit": Case(partial(written_by_ffmpeg, turned, *FFMPEG["tta"]), SCORE, UNREADABLE),
    "no such file": Case(gone, SCORE, ": no such file; check"),
    "an empty file": Case(partial(content, b""), SCORE, ": is empty, 0 bytes"),
    "a folder": Case(folder, SCORE, ": is a folder"),
    "a link to nothing": Case(partial(link, "nowhere.wav"), SCORE, ": no such file"),
    "a link to itself": Case(partial(link, "bonafide-02.wav"), SCORE, ": cannot be read .*(symbolic links|symlinks)"),
    "a named pipe": Case(pipe, SCORE, ": is no ordinary file"),
    "a device": Case(partial(link, "/dev/zero"), SCORE, ": is no ordinary file"),
    "a name that is too long": Case(long_name, SCORE, "aaa.wav: cannot be read .*too long"),
    "a web page": Case(partial(content, b"<!DOCTYPE html>\n<h1>404</h1>"), SCORE, "decoded .it is text, '<!DOCTYPE"),
    "random bytes": Case(partial(content, np.random.default_rng(0).bytes(5000)), SCORE, ": cannot be decoded"),
    "zeros": Case(partial(content, bytes(5000)), SCORE, ": cannot be decoded"),
    "a picture": Case(partial(content, b"\x89PNG\r\n\x1a\n" + bytes(500)), SCORE, ": cannot be decoded"),
    "an archive": Case(partial(content, b"PK\3\4" + bytes(500)), SCORE, ": cannot be decoded"),
    "a wav without samples": Case(partial(values, np.zeros(0)), SCORE, ": holds no audio"),
    "nan": Case(partial(values, spiked(np.nan)), SCORE, ": holds values that are not finite"),
    "infinity": Case(partial(values, spiked(-np.inf)), SCORE, ": holds values that are not finite"),
    "another scale": Case(partial(values, spiked(20_000)), SCORE, ": holds values up to 2e.04, expected -1 to 1"),
    "a rate of 1 Hz": Case(partial(rate, 1), SCORE, ": its sample rate is 1 Hz"),
    "a rate of 2 GHz": Case(partial(rate, 2_000_000_000), SCORE, ": its sample rate is 2000000000 Hz"),
    "longer than its manifest says": Case(lasting_longer, SCORE, ": lasts 0.500 s, its manifest says 0.100"),
    "shorter than its manifest says": Case(partial(seconds, "60"), SCORE, r": lasts 0\.\d+ s, its manifest says 60"),
}
