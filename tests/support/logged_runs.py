"""Folders of runs as a training leaves them, written at once without one, for tests of reports."""

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import MINUTE, configure
from encoders import make_config
from hybrid_pruning import pruning
from hybrid_pruning.config import HeadConfig, save_config
from hybrid_pruning.models.backbone import skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel

EPOCHS, STEPS = 4, 10
"""Of the recipe, and in each epoch."""
UNITS = ("conv", "head", "attlayer", "interm", "ffnlayer")
BINS = 20
DRAWING = (
    *("score_tables.draw_det", "score_tables.draw_histograms", "page.draw_kept_units", "published.draw_sizes"),
    *("curves.draw_curves", "curves.draw_panels", "curves.draw_gates"),
)
LAYOUT = ("score_tables.to_inline_svg", "page.to_inline_svg", "curves.to_inline_svg", "plots.to_inline_svg")


def build_model() -> SpeechModel:
    torch.manual_seed(0)
    head = HeadConfig(heads=2, compression=4, embedding=8)
    return SpeechModel.build(
        skeleton(make_config("wavlm", "base"), False), head, Classes(("spoof", "bonafide"), (9, 5))
    )


@cache
def _architecture() -> tuple[str, dict[str, int]]:
    model = build_model()
    about = json.dumps(model.architecture())
    return about, {name: gate.slot.size for name, gate in pruning.attach(model.backbone).items()}


def draw_nothing(patch: pytest.MonkeyPatch, only_layout: bool = False) -> None:
    """Leave the figures out of pages, which take most of the time; or draw them, and leave out their layout alone."""
    for name in () if only_layout else DRAWING:
        patch.setattr(f"hybrid_pruning.reporting.{name}", lambda *_, **__: None)
    for name in LAYOUT:
        patch.setattr(f"hybrid_pruning.reporting.{name}", lambda *_: "<svg></svg>")


def write_run(folder: Path, epochs: int = EPOCHS, pruned: bool = True, seed: int = 0, **changes: Any) -> Path:
    """Write the folder of a training, pruned to 40% or dense.

    Args:
        folder: the run's.
        epochs: that are done, of EPOCHS.
        pruned: whether it prunes.
        seed: of its figures.
        changes: of the recipe, dots written as two underscores.
    """
    recipe = {**MINUTE, "data": {"train": "train.tsv", "dev": "dev.tsv"}, "backbone": {"source": "somewhere"}}
    changes = {"training__epochs": EPOCHS, "pruning__use_pruning_loss": pruned} | changes
    folder.mkdir(parents=True)
    save_config(configure(recipe, **changes), folder / "config.yaml")
    (folder / "architecture.json").write_text(_architecture()[0])
    add_records(folder, *_records(epochs, pruned, np.random.default_rng(seed)))
    for epoch in range(max(epochs - 1, 1), epochs + 1):
        write_checkpoint(folder, epoch, pruned, seed)
    if epochs:
        write_scores(folder / "dev_scores.tsv", seed=seed, labels=True)
    return folder


def add_records(run: Path, *records: object) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)


def write_checkpoint(run: Path, epoch: int, pruned: bool, seed: int = 0) -> None:
    """Write the part of a checkpoint that decides the kept units."""
    objective = {}
    if pruned:
        generator = torch.Generator().manual_seed(seed + epoch)
        for name, size in _architecture()[1].items():
            objective[f"gates.{name}.log_alpha"] = 2 + 2 * torch.randn(size, generator=generator)
    state = {"epoch": epoch, "step": epoch * STEPS, "objective": objective, "versions": {"torch": "9.8.7"}}
    (run / "checkpoints").mkdir(exist_ok=True)
    torch.save(state, run / "checkpoints" / f"epoch-{epoch:04d}.pt")


def write_scores(path: Path, trials: int = 60, distance: float = 2.0, seed: int = 0, labels: bool = False) -> Path:
    """Write scores of as many bona fide as spoofed trials, the former higher by `distance`."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [("filename", "cm-score", "cm-label")]
    for index in range(2 * trials):
        label = ("bonafide", "spoof")[index % 2]
        rows.append((f"utt{index}", repr(float(rng.normal(distance * (label == "bonafide"), 1))), label))
    path.write_text("".join("\t".join(row if labels else row[:2]) + "\n" for row in rows))
    return path


def write_keys(path: Path, trials: int = 60) -> Path:
    """Write the manifest of these trials, of ten speakers."""
    lines = ["utt_id\tpath\tlabel\tspeaker"]
    for index in range(2 * trials):
        lines.append(f"utt{index}\tutt{index}.wav\t{('bonafide', 'spoof')[index % 2]}\tspeaker{index % 10}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def _records(epochs: int, pruned: bool, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    groups = ("backbone", "backbone.no_decay", "head", *(("gates", "multipliers") if pruned else ()))
    about = {"parameters": 1000, "peak_learning_rate": 5e-4, "weight_decay": 0.01}
    yield {"step": 0, "groups": [{"name": name, **about} for name in groups]}
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * STEPS + 1, epoch * STEPS + 1):
            yield _step(step, epoch, groups, pruned, rng)
        figures = {"eer": 0.3 / epoch, "min_dcf": 0.5, "act_dcf": 0.6, "cllr": 0.4, "accuracy": 0.9}
        record = {"step": epoch * STEPS, "epoch": epoch, "dev": figures}
        if pruned:
            record["gates"] = {unit: rng.multinomial(30, np.ones(BINS) / BINS).tolist() for unit in UNITS}
        yield record


def _step(step: int, epoch: int, groups: tuple[str, ...], pruned: bool, rng: np.random.Generator) -> dict[str, Any]:
    target = 0.4 * step / (EPOCHS * STEPS)
    record = {
        "step": step,
        "epoch": epoch,
        "loss": {"task": math.exp(-step / 30) + 0.05 * rng.random()},
        "audio_seconds_per_second": 50.0,
        "padding": 0.125,
        "learning_rate": dict.fromkeys(groups, 5e-4),
        "gradient_norm": {"network": 2 + 2 * rng.random(), "backbone": 1.0, "head": 0.5},
    }
    if pruned:
        record["loss"]["sparsity"] = 0.01 * rng.random()
        record["sparsity"] = {"expected": target + 0.003, "target": target, "exact": target - 0.01}
        record["multipliers"] = {"lambda1": 0.1, "lambda2": 0.01 * step}
        record["kept"] = {"head.0": 0.5, "interm.1": 0.75}
    return record
