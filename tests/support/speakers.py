"""Speakers, their recordings and a tiny model for speaker verification on disk, for the tests that start from them."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from corpus import SAMPLE_RATE_HZ, noise, write_wavlm
from encoders import with_random_weights
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.data.manifest import Utterance, write_manifest
from hybrid_pruning.models.backbone import load_transformers
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.tasks import Label

EMBEDDING = 6


def tiny_verifier(folder: Path, **overrides: Any) -> SpeechModel:
    """Return a model without classes, of random weights, with embeddings that differ; its encoder is in the folder."""
    backbone = load_transformers(write_wavlm(folder, **overrides))
    with_random_weights(backbone)
    return SpeechModel.build(backbone, HeadConfig(heads=3, compression=4, embedding=EMBEDDING), None).eval()


def write_speakers(folder: Path, speakers: int, clips: int, seed: int = 0, prefix: str = "id") -> Path:
    """Write noisy tones of one pitch a speaker, of lengths that differ, and return their manifest."""
    rng = np.random.default_rng(seed)
    utterances = []
    for speaker in range(speakers):
        pitch = rng.uniform(0.05, 0.9)
        for clip in range(clips):
            samples = int(rng.integers(1200, 3000))
            wave = 0.3 * np.sin(pitch * np.arange(samples)) + noise(samples, seed * 1000 + speaker * 50 + clip)
            name = f"{prefix}{speaker:05d}/{clip:02d}"
            path = folder / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, SAMPLE_RATE_HZ)
            seconds = samples / SAMPLE_RATE_HZ
            utterances.append(Utterance(name, path, Label.BONAFIDE, speaker=f"{prefix}{speaker:05d}", seconds=seconds))
    write_manifest(folder / "manifest.tsv", utterances)
    return folder / "manifest.tsv"


def write_voxceleb_trials(path: Path, speakers: int, clips: int, suffix: str = ".wav") -> Path:
    """Write every pair of recordings in VoxCeleb's form, the last pair twice."""
    names = [(speaker, f"id{speaker:05d}/{clip:02d}{suffix}") for speaker in range(speakers) for clip in range(clips)]
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    lines = [f"{int(a[0] == b[0])} {a[1]} {b[1]}\n" for a, b in pairs]
    path.write_text("".join([*lines, lines[-1]]))
    return path
