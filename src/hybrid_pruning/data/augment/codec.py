"""Codecs: encode and decode in memory, by libsndfile or FFmpeg (PyAV), with the codec's delay taken out.

ASVspoof 5 has codecs in its evaluation set only (Wang et al., "ASVspoof 5: Evaluation of Spoofing, Deepfake, and
Adversarial Attack Detection Using Crowdsourced Speech", arXiv 2601.03944): Opus, AMR and Speex at 16 and at 8 kHz, MP3
and M4A. Each is here with five settings, of the codec's own modes and not the corpus's, from its lowest to its usual
highest quality; G.711, G.722 and a plain 8 kHz channel stand for telephony. Encodec is a neural network of its own and
not simulated.
"""

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from av.container import InputContainer
from av.logging import Capture
from scipy.signal import fftconvolve, lfilter

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.effects import Wave, fit, limit
from hybrid_pruning.errors import InputError

NARROW_HZ = 8_000
DEMUXERS = {"adts": "aac"}  # the containers that FFmpeg reads by another name
TAIL = SAMPLE_RATE_HZ // 4  # silence behind the wave, so that a delayed codec keeps its end; no delay here is longer
KEY = "augment.codec.codecs"
INSTALL = "build av upon the system's FFmpeg, which may have it: pip install --force-reinstall --no-binary av av"


@dataclass(frozen=True)
class Sndfile:
    """A codec of libsndfile's at a compression level: 0 (best) to 1 (smallest), None where there is but one."""

    container: str
    subtype: str
    level: float | None = None  # of MP3, at a constant bit rate

    def require(self, name: str) -> None:
        """Raise InputError where libsndfile lacks the codec."""
        if self.subtype not in soundfile.available_subtypes(self.container):
            version = soundfile.__libsndfile_version__
            raise InputError(f"{KEY}: '{name}' is not in libsndfile {version}; pip install --upgrade soundfile")

    def __call__(self, wave: Wave, rate_hz: int) -> Wave:
        """Return the wave encoded and decoded, with the codec's delay."""
        kind = {"format": self.container, "subtype": self.subtype}
        quality = {"compression_level": self.level, "bitrate_mode": None if self.level is None else "CONSTANT"}
        coded = io.BytesIO()
        soundfile.write(coded, wave, rate_hz, **kind, **quality)
        coded.seek(0)
        return np.asarray(soundfile.read(coded, dtype="float32")[0])


@dataclass(frozen=True)
class Ffmpeg:
    """A codec of FFmpeg's at a bit rate in bit/s, where it has more than one, and options for the encoder."""

    encoder: str
    container: str
    bit_rate: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def require(self, name: str) -> None:
        """Raise InputError where FFmpeg's libraries lack the encoder."""
        try:
            av.Codec(self.encoder, "w")
        except ValueError as error:
            fault = f"'{name}' needs the encoder {self.encoder}, which the FFmpeg within av lacks"
            raise InputError(f"{KEY}: {fault}; leave it out, or {INSTALL}") from error

    def __call__(self, wave: Wave, rate_hz: int) -> Wave:
        """Return the wave encoded and decoded, with the codec's delay."""
        coded = io.BytesIO()
        with Capture(local=True), av.open(coded, "w", format=self.container) as out:
            stream: Any = out.add_stream(self.encoder, rate=rate_hz, layout="mono", options=dict(self.options))
            if self.bit_rate:
                stream.bit_rate = self.bit_rate
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate = rate_hz
            for piece in (*av.AudioResampler(stream.format, "mono", rate_hz).resample(frame), None):
                out.mux(stream.encode(piece))
        coded.seek(0)
        back = av.AudioResampler("fltp", "mono", rate_hz)
        with Capture(local=True), av.open(coded, format=DEMUXERS.get(self.container, self.container)) as given:
            assert isinstance(given, InputContainer)
            frames = [piece for frame in given.decode(audio=0) for piece in back.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


Coders = tuple[Sndfile | Ffmpeg, ...]


def _mp3(*kbps: int) -> Coders:
    """libsndfile's levels are linear in the bit rate, from 160 kbit/s down to 8."""
    return tuple(Sndfile("MP3", "MPEG_LAYER_III", (160 - rate) / 152) for rate in kbps)


def _ffmpeg(encoder: str, container: str, *bits_per_second: int) -> Coders:
    return tuple(Ffmpeg(encoder, container, rate) for rate in bits_per_second)


def _speex(*qualities: int) -> Coders:
    return tuple(Ffmpeg("libspeex", "ogg", options={"cbr_quality": str(quality)}) for quality in qualities)


CODECS: dict[str, tuple[int, Coders]] = {
    "opus": (SAMPLE_RATE_HZ, _ffmpeg("libopus", "ogg", 8_000, 12_000, 16_000, 24_000, 32_000)),
    "opus-nb": (NARROW_HZ, _ffmpeg("libopus", "ogg", 6_000, 8_000, 12_000, 16_000, 20_000)),
    "mp3": (SAMPLE_RATE_HZ, _mp3(16, 24, 32, 48, 64)),
    "mulaw": (NARROW_HZ, (Sndfile("WAV", "ULAW"),)),
    "alaw": (NARROW_HZ, (Sndfile("WAV", "ALAW"),)),
    "narrowband": (NARROW_HZ, (Sndfile("WAV", "PCM_16"),)),
    "speex": (SAMPLE_RATE_HZ, _speex(1, 3, 5, 7, 9)),  # 5.75 to 34.2 kbit/s
    "speex-nb": (NARROW_HZ, _speex(1, 3, 5, 7, 10)),  # 3.95 to 24.6 kbit/s
    "amr-nb": (NARROW_HZ, _ffmpeg("libopencore_amrnb", "amr", 4750, 5900, 7400, 7950, 12200)),
    "amr-wb": (SAMPLE_RATE_HZ, _ffmpeg("libvo_amrwbenc", "amr", 6600, 8850, 12650, 18250, 23850)),
    "m4a": (SAMPLE_RATE_HZ, _ffmpeg("aac", "adts", 16_000, 24_000, 32_000, 48_000, 64_000)),
    "g722": (SAMPLE_RATE_HZ, (Ffmpeg("g722", "g722"),)),
}
"""By name: the sample rate it works at, and its settings."""


class Codec:
    """Encodes and decodes; one codec of those named and one of its settings are drawn."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.delays = {name: _measure_delays(name) for name in self.names}

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] encoded and decoded, in place."""
        name = self.names[int(rng.integers(len(self.names)))]
        return self.recode(wave, name, int(rng.integers(len(self.delays[name]))))

    def recode(self, wave: Wave, name: str, setting: int) -> Wave:
        """Return the wave [S] after one codec at one of its settings, without its delay."""
        return fit(_recode(limit(wave), name, setting)[self.delays[name][setting] :], len(wave))


def _recode(wave: Wave, name: str, setting: int) -> Wave:
    """Encode and decode [S], and return it with the codec's delay and as long as that makes it."""
    rate_hz, coders = CODECS[name]
    padded = np.pad(wave, (0, TAIL))
    if rate_hz == SAMPLE_RATE_HZ:
        return np.asarray(coders[setting](padded, rate_hz), dtype=np.float32)
    coded = coders[setting](soxr.resample(padded, SAMPLE_RATE_HZ, rate_hz), rate_hz)
    return np.asarray(soxr.resample(coded, rate_hz, SAMPLE_RATE_HZ), dtype=np.float32)


@functools.cache
def _measure_delays(name: str) -> tuple[int, ...]:
    """Return the delay of each of a codec's settings in samples: where a probe correlates best with its coded self.

    MP3, for one, is delayed at the bit rates whose frames have no room for the tag that tells the delay.
    """
    probe, delays = _probe(), list[int]()
    for setting, coder in enumerate(CODECS[name][1]):
        coder.require(name)
        coded = fit(_recode(probe, name, setting), len(probe) + TAIL)
        delays.append(int(fftconvolve(coded, probe[::-1], mode="valid").argmax()))
    return tuple(delays)


def _probe() -> Wave:
    """A second of a vowel with pulses at no regular pitch: speech codecs can code it, and only one lag fits it."""
    rng = np.random.default_rng(0)
    wave = np.zeros(SAMPLE_RATE_HZ)
    pulses = np.cumsum(rng.integers(60, 260, 90))
    wave[pulses] = rng.uniform(0.5, 1, len(pulses)) * rng.choice([-1, 1], len(pulses))
    for formant_hz, width_hz in ((500, 80), (1500, 120), (2500, 160)):
        radius = np.exp(-np.pi * width_hz / SAMPLE_RATE_HZ)
        turn = 2 * np.pi * formant_hz / SAMPLE_RATE_HZ
        wave = lfilter([1], [1, -2 * radius * np.cos(turn), radius**2], wave)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)
