"""A sheet of spectrograms: one clip as it is, and after every kind of augmentation."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import stft

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.transform import Wave
from hybrid_pruning.files import atomic_write

COLUMNS = 4
WINDOW, HOP, MELS = 512, 128, 200
DYNAMIC_RANGE_DB = 70
COLOURS: dict[str, Any] = {"vmin": -DYNAMIC_RANGE_DB, "vmax": 0, "cmap": "magma", "origin": "lower"}
TOP_HZ = SAMPLE_RATE_HZ / 2
TICKS_HZ = (0, 500, 1000, 2000, 4000, 8000)


def draw_sheet(waves: Mapping[str, Wave], path: Path) -> None:
    """Draw the spectrograms of waves [S] at 16 kHz, by title, on shared axes and one scale of colours.

    Args:
        waves: the first is the original; its loudest point is 0 dB.
        path: the PNG file to write.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # takes as long to import as the rest of the program
    from PIL import Image  # comes with matplotlib

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
