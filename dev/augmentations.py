"""A picture of every kind of augmentation, or its cost: python dev/augmentations.py CLIP (--out SHEET.png | --cost).

The noise, the music and the room are synthetic, so that no corpus is needed; the babble is other files of the clip's
own folder. A sheet has one clip as it is, and after every kind at one telling setting.
"""

import argparse
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from matplotlib.figure import Figure
from PIL import Image
from scipy.signal import lfilter, stft

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.config import RawBoostConfig
from hybrid_pruning.console import say
from hybrid_pruning.data.augment.codec import Codec
from hybrid_pruning.data.augment.effects import (
    Noise,
    Reverberation,
    Speed,
    Transform,
    Volume,
    Wave,
    fit,
    limit,
    list_folder,
)
from hybrid_pruning.data.augment.rawboost import RawBoost
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write

CLIP_SECONDS, SEED = 3.0, 4  # a seed with notches that are easy to see
ROUNDS = 9
SECONDS = 6
NOISE_DB, MUSIC_DB, VOICE_DB, VOICES = 5.0, 5.0, 10.0, 4
REVERBERATION_SECONDS = 0.6
RAWBOOST = {
    1: "RawBoost 1: filtered, and its powers",
    2: "RawBoost 2: impulses",
    3: "RawBoost 3: coloured noise",
    5: "RawBoost 5: 1, then 2",
}
CODEC_NAMES = {  # each at its lowest bit rate
    "opus": "Opus, 8 kbit/s",
    "opus-nb": "Opus at 8 kHz, 6 kbit/s",
    "mp3": "MP3, 16 kbit/s",
    "m4a": "M4A (AAC), 16 kbit/s",
    "speex": "Speex, 5.75 kbit/s",
    "speex-nb": "Speex at 8 kHz, 3.95 kbit/s",
    "amr-nb": "AMR-NB, 4.75 kbit/s",
    "amr-wb": "AMR-WB, 6.6 kbit/s",
    "g722": "G.722, 64 kbit/s",
    "mulaw": "G.711 \N{GREEK SMALL LETTER MU}-law, 64 kbit/s",
    "alaw": "G.711 A-law, 64 kbit/s",
    "narrowband": "8 kHz, no codec",
}

COLUMNS = 4
WINDOW, HOP, MELS = 512, 128, 200
DYNAMIC_RANGE_DB = 70
COLOURS: dict[str, Any] = {"vmin": -DYNAMIC_RANGE_DB, "vmax": 0, "cmap": "magma", "origin": "lower"}
TOP_HZ = SAMPLE_RATE_HZ / 2
TICKS_HZ = (0, 500, 1000, 2000, 4000, 8000)


def demonstrate(clip: Path, folder: Path) -> tuple[dict[str, Transform], list[str]]:
    """Return a transform for every kind, by title, and why the others are not there.

    Args:
        clip: the recording that is to be augmented; its folder's other recordings become babble.
        folder: where the stand-ins are written.
    """
    for name, make in STAND_INS.items():
        (folder / name).mkdir(parents=True)
        soundfile.write(folder / name / "1.wav", make(np.random.default_rng(0)), SAMPLE_RATE_HZ, subtype="FLOAT")
    noise, music, room = (list_folder(folder / name, name) for name in STAND_INS)
    voices = list_folder(clip.parent, "babble")
    transforms: dict[str, Transform] = {
        f"noise, {NOISE_DB:.0f} dB": Noise(noise, (NOISE_DB, NOISE_DB)),
        f"music, {MUSIC_DB:.0f} dB": Noise(music, (MUSIC_DB, MUSIC_DB)),
        f"babble, {VOICES} voices, {VOICE_DB:.0f} dB each": Noise(voices, (VOICE_DB, VOICE_DB), (VOICES, VOICES)),
        f"reverberation, {REVERBERATION_SECONDS} s": Reverberation(room),
        "speed 0.9": Speed((0.9,)),
        "speed 1.1": Speed((1.1,)),
        "volume, \N{MINUS SIGN}18 dB": Volume((-18.0, -18.0)),
    }
    transforms |= {title: RawBoost(RawBoostConfig(algorithm=number)) for number, title in RAWBOOST.items()}
    missing = []
    for name, title in CODEC_NAMES.items():
        try:
            transforms[title] = _lowest(Codec((name,)), name)
        except InputError as error:
            missing.append(str(error))
    return transforms, missing


def _lowest(codec: Codec, name: str) -> Transform:
    def recode(wave: Wave, rng: np.random.Generator) -> Wave:  # noqa: ARG001 - nothing is left to chance
        return codec.recode(wave, name, 0)

    return recode


def _pink_noise(rng: np.random.Generator) -> Wave:
    """Noise with the same power in every octave."""
    spectrum = np.fft.rfft(rng.standard_normal(SECONDS * SAMPLE_RATE_HZ))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 20)))
    return (0.1 * pink / pink.std()).astype(np.float32)


def _music(rng: np.random.Generator) -> Wave:
    """Chords of plucked strings (Karplus, Strong, "Digital synthesis of plucked-string and drum timbres", 1983)."""
    wave = np.zeros(SECONDS * SAMPLE_RATE_HZ)
    for beat in range(2 * SECONDS):
        root = (0, 7, 9, 5)[beat // 2 % 4]
        for step in (0, 4, 7, 12):
            period = round(SAMPLE_RATE_HZ / (196 * 2 ** ((root + step) / 12)))
            pluck = fit(rng.uniform(-1, 1, period).astype(np.float32), SAMPLE_RATE_HZ)
            feedback = np.zeros(period + 2)
            feedback[[0, period, period + 1]] = 1, -0.498, -0.498
            start = beat * SAMPLE_RATE_HZ // 2
            string = lfilter([1], feedback, pluck)[: len(wave) - start]
            wave[start : start + len(string)] += string
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def _room(rng: np.random.Generator) -> Wave:
    """Direct sound after 5 ms, and noise that decays by 60 dB in the reverberation time."""
    seconds = np.arange(round(1.5 * REVERBERATION_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    response = 0.04 * rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / REVERBERATION_SECONDS)
    direct = SAMPLE_RATE_HZ // 200
    response[:direct] = 0
    response[direct] = 1
    return response.astype(np.float32)


STAND_INS: dict[str, Callable[[np.random.Generator], Wave]] = {
    "noise": _pink_noise,
    "music": _music,
    "room": _room,
}


def draw_sheet(waves: Mapping[str, Wave], path: Path) -> None:
    """Draw the spectrograms of waves [S] at 16 kHz, by title, on shared axes and one scale of colours.

    Args:
        waves: the first is the original; its loudest point is 0 dB.
        path: the PNG file to write.
    """
    rows = math.ceil(len(waves) / COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 1.9 * rows + 0.5), dpi=100, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    spectra = {title: mel_spectrogram(wave) for title, wave in waves.items()}
    original, loudest = next((title, spectrum.max()) for title, spectrum in spectra.items())
    seconds = len(waves[original]) / SAMPLE_RATE_HZ
    for panel, (title, spectrum) in zip(panels.flat, spectra.items(), strict=False):
        image = panel.imshow(spectrum - loudest, extent=(0, seconds, 0, _mel(TOP_HZ)), aspect="auto", **COLOURS)
        panel.set_title(title, fontsize=10, loc="left", fontweight="bold" if title == original else "normal")
        panel.set_yticks([_mel(hz) for hz in TICKS_HZ], [f"{hz / 1000:g}" for hz in TICKS_HZ])
        panel.set_ylabel("kHz (mel scale)" if panel in panels[:, 0] else "")
        panel.set_xlabel("seconds" if panel in panels[-1] else "")
    for panel in panels.flat[len(waves) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=panels, aspect=60, pad=0.01, label="dB, 0 is the original's loudest point")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    palette = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)  # a quarter of the size
    with atomic_write(path, "wb") as handle:
        palette.save(handle, format="png", optimize=True)


def mel_spectrogram(wave: Wave) -> npt.NDArray[np.float64]:
    """Return a wave's power in dB [MELS, T] around frequencies from 0 to 8 kHz that are evenly spaced in mel."""
    _, _, spectrum = stft(wave.astype(np.float64), SAMPLE_RATE_HZ, nperseg=WINDOW, noverlap=WINDOW - HOP)
    bins = np.arange(len(spectrum))
    place = 700 * np.expm1(np.linspace(0, np.log1p(TOP_HZ / 700), MELS)) / TOP_HZ * bins[-1]
    width = np.maximum(np.gradient(place), 1)[
        :, None
    ]  # interpolates where rows are denser than bins, averages elsewhere
    weights = np.maximum(1 - np.abs(bins - place[:, None]) / width, 0)
    power = weights / weights.sum(axis=1, keepdims=True) @ np.abs(spectrum) ** 2
    return np.asarray(10 * np.log10(power + 1e-12))


def _mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


def measure_costs(wave: Wave, transforms: Mapping[str, Transform], folder: Path) -> dict[str, float]:
    """Return the median processor time of each transform on a wave [S], by title, over that of decoding it from flac.

    Kinds take turns, round after round, so that whatever else the machine does meets all of them.

    Args:
        wave: what is augmented.
        transforms: by title.
        folder: where the wave is written as flac.
    """
    path = folder / "clip.flac"
    soundfile.write(path, wave, SAMPLE_RATE_HZ)
    rng = np.random.default_rng(0)
    tasks: dict[str, Callable[[], object]] = {"decoding": lambda: read_audio(path)}
    tasks |= {title: partial(transform, wave, rng) for title, transform in transforms.items()}
    seconds: dict[str, list[float]] = {title: [] for title in tasks}
    for title, task in [*tasks.items()] * ROUNDS:
        started = _processor_seconds()
        task()
        seconds[title].append(_processor_seconds() - started)
    decoding = float(np.median(seconds.pop("decoding")))
    return {title: float(np.median(times)) / decoding for title, times in seconds.items()}


def _processor_seconds() -> float:
    """What this process and those it waited for have used."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the sheet, or print the costs."""
    options = _parse(arguments)
    try:
        _run(options)
    except InputError as error:
        say(str(error))
        sys.exit(2)


def _run(options: argparse.Namespace) -> None:
    wave = read_audio(options.clip, 0, round(CLIP_SECONDS * SAMPLE_RATE_HZ))
    with tempfile.TemporaryDirectory() as folder:
        transforms, missing = demonstrate(options.clip, Path(folder))
        for reason in missing:
            say(f"left out: {reason}")
        if options.cost:
            for title, ratio in measure_costs(wave, transforms, Path(folder)).items():
                say(f"{ratio:7.1f}  {title}")
        else:
            changed = {title: limit(each(wave, np.random.default_rng(SEED))) for title, each in transforms.items()}
            draw_sheet({"the clip": wave, **changed}, options.out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path, help="a recording of speech; the others in its folder become babble")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--out", type=Path, help="the PNG file to draw spectrograms into")
    wanted.add_argument(
        "--cost", action="store_true", help="print each kind's processor time over that of decoding the clip"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
