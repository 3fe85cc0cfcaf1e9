"""Tiny corpora, recipes and encoders on disk, for the tests that start from files."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import WavLMConfig, WavLMModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import hybrid_pruning as hp
from encoders import NO_DROPOUT, STYLES, TINY, WHISPER, make_config, with_random_weights
from hybrid_pruning.config import Config, HeadConfig, check_config
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.models.backbone import load_transformers
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.engine import Embedder
from hybrid_pruning.tasks import Label

SAMPLE_RATE_HZ = 16_000
MINUTE = {  # a recipe whose training takes about a second
    "data": {"crop_seconds": 0.05, "workers": 0},
    "head": {"heads": 4, "compression": 8, "embedding": 16},
    "training": {"epochs": 2, "batch_size": 8, "lr": 2e-3, "final_lr": 1e-3, "lr_warmup_epochs": 1, "log_every": 1},
    "pruning": {
        "use_pruning_loss": True,
        "target_sparsity": 0.4,
        "initial_reg_lr": 0.1,
        "sparsity_warmup_epochs": 1,
        "macs_seconds": 0.5,
        "constraint_solver": "lagrangian",
    },
}
ODD = (
    'she said "yes"', '"', '""x"', "'", " a ", "#x", "100%", "[/x]", "[unknown]", ":smile:", "a,b", "=1+1", "+1", "-1",
    "@x", "\\n", "C\\d", "|", "`x`", "<img src=x>", "NA", "nan", "-", "1e5", "true", "名前", "e\u0301", "\u05d0\u202eb",
    "\ufeffx", "a\xa0b", "filename", "cm-score", "x" * 5000,
)  # fmt: skip
"""Names that trip tables, terminals and pages."""


def swell(samples: np.ndarray) -> np.ndarray:
    """Return the loudness [S] at given samples [S] of what is 20 dB quieter in every fourth 20 ms, as speech is."""
    return np.where(samples // 320 % 4 == 0, 0.1, 1.0)


def noise(samples: int, seed: int = 0, channels: int = 1) -> np.ndarray[Any, Any]:
    """Return [samples] or [samples, channels] of quiet noise."""
    wave = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels))
    return (wave[:, 0] if channels == 1 else wave).astype(np.float32)


def write_corpus(folder: Path, clips: int, seed: int = 0, shortest: int = 1500, longest: int = 4000) -> Path:
    """Write noisy tones, high for bona fide and low for spoofed, and return their manifest."""
    rng = np.random.default_rng(seed)
    utterances = []
    for index in range(clips):
        label = (Label.BONAFIDE, Label.SPOOF)[index % 2]
        samples = int(rng.integers(shortest, longest))
        pitch = 0.7 if label == Label.BONAFIDE else 0.2
        wave = 0.3 * np.sin(pitch * np.arange(samples)) + noise(samples, seed * 1000 + index)
        path = folder / f"{label}-{index:02d}.{('wav', 'flac')[index % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, SAMPLE_RATE_HZ)
        utterances.append(Utterance(path.stem, path, label, seconds=samples / SAMPLE_RATE_HZ))
    write_manifest(folder / "manifest.tsv", utterances)
    return folder / "manifest.tsv"


def write_wavlm(folder: Path, **overrides: Any) -> Path:
    """Write a tiny random WavLM as transformers does and return its folder."""
    torch.manual_seed(0)
    model = WavLMModel(WavLMConfig(**{**TINY, **NO_DROPOUT, **STYLES["base"], **overrides}))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    return folder


def write_whisper(folder: Path, **overrides: Any) -> Path:
    """Write a tiny random encoder of Whisper's as transformers does and return its folder."""
    torch.manual_seed(0)
    WhisperEncoder(make_config(*WHISPER, **overrides)).save_pretrained(folder)
    return folder


def tiny_detector(folder: Path, **overrides: Any) -> SpeechModel:
    """Return a detector of random weights, with scores that differ; its encoder is written to the folder."""
    backbone = load_transformers(write_wavlm(folder, **overrides))
    with_random_weights(backbone)
    head = HeadConfig(heads=3, compression=4, embedding=5)
    return SpeechModel.build(backbone, head, Classes(("spoof", "bonafide"), (3, 1))).eval()


def score_utterances(model: Embedder, utterances: Sequence[Utterance], *options: Any, **more: Any) -> FloatArray:
    """Return the [N] scores of a manifest's utterances, of the durations that it has."""
    seconds = [utterance.seconds for utterance in utterances]
    return hp.score_paths(model, [utterance.path for utterance in utterances], *options, seconds=seconds, **more)


def write_world(folder: Path) -> dict[str, Any]:
    """Write train and dev sets and an encoder, and return the recipe that trains on them, as plain values."""
    return settings(
        MINUTE,
        {
            "data.train": str(write_corpus(folder / "train", 24, seed=1)),
            "data.dev": str(write_corpus(folder / "dev", 8, seed=2)),
            "backbone.source": str(write_wavlm(folder / "wavlm", hidden_dropout=0.1, attention_dropout=0.1)),
        },
    )


def write_clip(path: Path, speaker: str, samples: int, seed: int) -> None:
    tones = np.random.default_rng(sum(map(ord, speaker)) * 7919).uniform(0.1, 1.5, 2)
    wave = 0.2 * np.sin(np.outer(tones, np.arange(samples))).sum(axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave + 0.9 * noise(samples, seed), SAMPLE_RATE_HZ)


def write_learnable_speakers(folder: Path, speakers: Sequence[str], clips: int, seed: int = 0) -> Path:
    """Write clips of noise, each speaker's with two tones of its own, and return their manifest."""
    rng = np.random.default_rng(seed)
    utterances = []
    for (place, speaker), clip in product(enumerate(speakers), range(clips)):
        samples, path = int(rng.integers(1500, 4000)), folder / f"{speaker}-{clip:02d}.wav"
        write_clip(path, speaker, samples, seed * 1000 + 100 * place + clip)
        utterances.append(Utterance(path.stem, path, Label.BONAFIDE, speaker, seconds=samples / SAMPLE_RATE_HZ))
    write_manifest(folder / "manifest.tsv", utterances)
    return folder / "manifest.tsv"


def write_trials(path: Path, manifest: Path) -> Path:
    """Write every pair of a manifest's utterances as VoxCeleb does, `label enrol test`, and return the file."""
    pairs = combinations(read_manifest(manifest), 2)
    path.write_text("".join(f"{int(a.speaker == b.speaker)} {a.utt_id} {b.utt_id}\n" for a, b in pairs))
    return path


def write_speaker_world(folder: Path) -> dict[str, Any]:
    """Write train and dev speakers, trials and an encoder, and return the recipe that trains on them."""
    train = write_learnable_speakers(folder / "train", [f"s{index}" for index in range(6)], 6, seed=1)
    dev = write_learnable_speakers(folder / "dev", [f"d{index}" for index in range(4)], 4, seed=2)
    return settings(
        MINUTE,
        {
            "task": "speaker-verification",
            "data.train": str(train),
            "data.dev": str(dev),
            "data.trials": {"dev": str(write_trials(folder / "dev.trials", dev))},
            "objective": {"kind": "aam", "scale": 16, "margin": 0.1},
            "backbone.source": str(write_wavlm(folder / "wavlm", hidden_dropout=0.1, attention_dropout=0.1)),
        },
    )


def write_voxceleb(root: Path, clips: int = 5) -> Path:
    """Write VoxCeleb 1 and 2 as released, converted, with the lists O and H over the same recordings."""
    parts = {"vox2/dev/wav": range(20, 26), "vox2/test/wav": range(50, 54), "vox1/test/wav": range(10270, 10275)}
    for part, speakers in parts.items():
        for speaker in (f"id{number:05d}" for number in speakers):
            for clip in range(clips):
                samples = 1500 + 400 * clip
                write_clip(root / part / speaker / "video" / f"{clip:05d}.wav", speaker, samples, 10 * clip)
    names = [path.relative_to(root / part).as_posix() for path in files_below(root / part)]
    pairs = [f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in combinations(names, 2)]
    (root / "veri_test2.txt").write_text("".join(pairs))
    (root / "list_test_hard2.txt").write_text("".join(pairs[::2]))
    return root


def describe_voxceleb(folder: Path) -> dict[str, Any]:
    names, manifests = ("vox1-H", "vox1-O"), folder / "manifests"
    changes = {
        "task": "speaker-verification",
        "data.eval": {name: str(manifests / "vox1.tsv") for name in names},
        "data.trials": {name: str(manifests / f"{name}.trials") for name in ("dev", *names)},
        "objective": {"kind": "aam", "scale": 16, "margin": 0.1},
    }
    return describe_job(folder, "voxceleb", changes)


def describe_job(folder: Path, corpus: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe on FOLDER/corpus, its manifests in FOLDER/manifests, with the encoder FOLDER/wavlm."""
    sets = {f"data.{part}": str(folder / "manifests" / f"{part}.tsv") for part in ("train", "dev")}
    start = {"corpus": {"name": corpus, "root": str(folder / "corpus")}, "backbone.source": str(folder / "wavlm")}
    return settings(MINUTE, {**sets, **start, **changes})


PROTOCOLS = {
    "T": ("flac_T", "ASVspoof5.train.tsv"),
    "D": ("flac_D", "ASVspoof5.dev.track_1.tsv"),
    "E": ("flac_E_eval", "ASVspoof5.eval.track_1.tsv"),
}


def write_asvspoof5(root: Path, clips: int = 16) -> Path:
    """Write tones as ASVspoof 5 was released: high ones are bona fide; in eval every other clip has a codec."""
    for letter, (folder, protocol) in PROTOCOLS.items():
        (root / folder).mkdir(parents=True)
        lines = []
        for index in range(clips):
            name, spoof = f"{letter}_{index:010d}", index % 2
            tone = 0.3 * np.sin((0.2 if spoof else 0.7) * np.arange(2000 + 100 * index))
            wave = tone + noise(len(tone), 1000 * ord(letter) + index)
            soundfile.write(root / folder / f"{name}.flac", wave, SAMPLE_RATE_HZ)
            codec = "C05" if letter == "E" and index % 4 > 1 else "-"
            keys = f"A{1 + index % 4:02d} spoof" if spoof else "- bonafide"
            lines.append(f"{letter}_{index // 4:04d} {name} F {codec} - - AC1 {keys} -\n")
        (root / protocol).write_text("".join(lines))
    return root


def describe_asvspoof5(folder: Path) -> dict[str, Any]:
    sets = {"eval": str(folder / "manifests" / "eval.tsv")}
    seed = 1  # with which so short a training separates the classes
    return describe_job(folder, "asvspoof5", {"data.eval": sets, "seed": seed})


def settings(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a recipe with dotted keys changed."""
    copy = yaml.safe_load(yaml.safe_dump(recipe))
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = copy
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return copy


def configure(recipe: dict[str, Any], **changes: Any) -> Config:
    """Return a checked recipe with keys changed, dots written as two underscores."""
    return check_config(settings(recipe, {key.replace("__", "."): value for key, value in changes.items()}), "test")


def files_below(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def touch(root: Path, *names: str, texts: Mapping[str, str] | None = None) -> Path:
    """Make empty files below a folder, and some with texts, and return it."""
    for name, text in {**dict.fromkeys(names, ""), **(texts or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8", newline="")
    return root


prepare = partial(hp.prepare, durations=False)
"""For corpora of empty files."""


def refuse(corpus: str, root: Path, out: Path, expected: str, **options: Any) -> str:
    """Require that a corpus is refused with one line and that nothing is written; return the line."""
    with pytest.raises(InputError, match=expected) as caught:
        prepare(corpus, root, out, **options)
    assert "\n" not in str(caught.value)
    assert not files_below(out)
    return str(caught.value)
