"""Audio files of every format with every damage, and the line that `score` prints of each."""

import io
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

import sounds
from bad_input import Case
from corpus import SAMPLE_RATE_HZ, noise
from damage import changed
from hybrid_pruning.data.manifest import read_manifest

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


def encode(name: str) -> bytes:
    """Return half a second of noise in a format."""
    wave, buffer = noise(SAMPLE_RATE_HZ // 2), io.BytesIO()
    if name in FFMPEG:
        return sounds.encode(wave, *FFMPEG[name])
    kind, subtype = FORMATS[name]
    soundfile.write(buffer, wave, SAMPLE_RATE_HZ, format=kind, subtype=subtype)
    return buffer.getvalue()


def clip(world: Path) -> Path:
    return read_manifest(world / "dev" / "manifest.tsv")[2].path


def damaged(name: str, change: Callable[[bytes], bytes], world: Path) -> None:
    clip(world).write_bytes(change(encode(name)))


def replaced(make: Callable[[Path], object], world: Path) -> None:
    """Have something else made in the clip's place."""
    path = clip(world)
    path.unlink()
    make(path)


def middle(hole: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Change the data from its middle on."""
    half, new = len(data) // 2, hole(data[len(data) // 2 :])
    return data[:half] + new + data[half + len(new) :]


DAMAGES = {
    "half": (lambda data: data[: len(data) // 2], (*FORMATS, *FFMPEG)),
    "the end missing": (lambda data: data[: len(data) * 97 // 100], FORMATS),
    "20 bytes": (lambda data: data[:20], ("wav", "flac", "opus", "mp3")),
    "overwritten by zeros": (partial(middle, lambda rest: bytes(len(rest))), ("flac", "vorbis", "opus")),
    "a hole in the middle": (partial(middle, lambda _: b"\x55" * 400), ("flac", "vorbis", "opus", "mp3", *FFMPEG)),
    "a turned bit": (partial(middle, lambda rest: bytes([rest[0] ^ 1])), ("flac", "tta")),
}


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def spiked(value: float) -> Callable[[Path], object]:
    wave = noise(4000)
    wave[2000] = value
    return lambda path: soundfile.write(path, wave, SAMPLE_RATE_HZ, subtype="FLOAT", format="WAV")


def of_rate(rate_hz: int) -> Callable[[Path], object]:
    data = encode("wav")
    return written(data[:24] + struct.pack("<I", rate_hz) + data[28:])


FILES = {
    "no such file": (lambda _: None, ": no such file; check"),
    "an empty file": (written(b""), ": is empty, 0 bytes"),
    "a folder": (Path.mkdir, ": is a folder"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere.wav"), ": no such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), ": cannot be read .*(symbolic links|symlinks)"),
    "a named pipe": (os.mkfifo, ": is no ordinary file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), ": is no ordinary file"),
    "a web page": (written(b"<!DOCTYPE html>\n<h1>404</h1>"), "decoded .it is text, '<!DOCTYPE"),
    "random bytes": (written(np.random.default_rng(0).bytes(5000)), ": cannot be decoded"),
    "zeros": (written(bytes(5000)), ": cannot be decoded"),
    "a picture": (written(b"\x89PNG\r\n\x1a\n" + bytes(500)), ": cannot be decoded"),
    "an archive": (written(b"PK\3\4" + bytes(500)), ": cannot be decoded"),
    "a wav without samples": (
        lambda path: soundfile.write(path, np.zeros(0), SAMPLE_RATE_HZ, subtype="FLOAT", format="WAV"),
        ": holds no audio",
    ),
    "nan": (spiked(np.nan), ": holds values that are not finite"),
    "infinity": (spiked(-np.inf), ": holds values that are not finite"),
    "another scale": (spiked(20_000), ": holds values up to 2e.04, expected -1 to 1"),
    "a rate of 1 Hz": (of_rate(1), ": its sample rate is 1 Hz"),
    "a rate of 2 GHz": (of_rate(2_000_000_000), ": its sample rate is 2000000000 Hz"),
}


def long_name(world: Path) -> None:
    changed("dev/manifest.tsv", lambda text: text.replace(clip(world).name, "a" * 300 + ".wav"), world)


def seconds(value: str, world: Path) -> None:
    """Give the third clip another duration in the manifest."""
    path = world / "dev" / "manifest.tsv"
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    rows[2][header.index("seconds")] = value
    path.write_text("".join("\t".join(cells) + "\n" for cells in (header, *rows)))


def lasting_longer(world: Path) -> None:
    clip(world).write_bytes(encode("wav"))
    seconds("0.1", world)


MANIFESTS = {
    "a name that is too long": (long_name, "aaa.wav: cannot be read .*too long"),
    "longer than its manifest says": (lasting_longer, ": lasts 0.500 s, its manifest says 0.100"),
    "shorter than its manifest says": (partial(seconds, "60"), r": lasts 0\.\d+ s, its manifest says 60"),
}
SCORE = "score model dev/manifest.tsv --workers 0 --out new.tsv"
UNREADABLE = r"bonafide-02.wav: (cannot be decoded|is cut short|is damaged|holds no audio)"
AUDIO = {
    **{
        f"{name}, {damage}": Case(partial(damaged, name, change), SCORE, UNREADABLE)
        for damage, (change, names) in DAMAGES.items()
        for name in names
    },
    **{name: Case(partial(replaced, make), SCORE, expected) for name, (make, expected) in FILES.items()},
    **{name: Case(change, SCORE, expected) for name, (change, expected) in MANIFESTS.items()},
}
