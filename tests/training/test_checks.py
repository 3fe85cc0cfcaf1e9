"""Every warning on its own: it comes where it must, stays away where it must, and says what to do in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus import configure
from hybrid_pruning.config import Config, PruningConfig, TrainingConfig
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.tasks import Label
from hybrid_pruning.training import warnings as checks
from hybrid_pruning.training.launch import train
from logged_runs import build_model
from runs import read_log


def warned(lines: Sequence[str], *words: str) -> None:
    """Assert that there is exactly one warning, of one line, with all of these words."""
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    for word in words:
        assert word in lines[0], lines[0]


def rates(steps: int = 1000, **changes: Any) -> list[str]:
    return checks.check_learning_rates(TrainingConfig(**changes), build_model(), steps)


RATES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ()),
    ({"lr": 1e-7, "final_lr": 1e-8, "backbone_lr_ratio": 100}, ("training.lr is 1e-07", "of the head", "raise it")),
    ({"lr": 1e-6, "final_lr": 1e-7, "backbone_lr_ratio": 100, "steps": 10_000}, ()),
    ({"backbone_lr_ratio": 1e-4}, ("backbone_lr_ratio is 5e-08", "in 1000 steps", "of the backbone", "raise it")),
    ({"backbone_lr_ratio": 0}, ("backbone_lr_ratio is 0", "0.05 is usual")),
    ({"epochs": 3, "lr_warmup_epochs": 3.5}, ("lr_warmup_epochs is 3.5 and training.epochs 3", "shorten")),
    ({"epochs": 3, "lr_warmup_epochs": 3}, ()),
    ({"lr": 1e-4, "final_lr": 1e-3}, ("training.final_lr 0.001 is above training.lr 0.0001",)),
    ({"optimizer": "sgd", "lr": 0.05, "final_lr": 0.005, "backbone_lr_ratio": 1e-4}, ()),
    ({"optimizer": "sgd"}, ("training.lr is 0.0005, a rate for adamw", "0.01 to 0.1")),
    ({"lr": 1e-6, "backbone_lr_ratio": 100, "final_lr": 1e-7, "batch_size": 640, "lr_batch": 64}, ()),
    (
        {"lr": 1e-6, "backbone_lr_ratio": 100, "final_lr": 1e-7, "lr_batch": 160},
        ("scaled by training.lr_batch, is 1e-07",),
    ),
]


@pytest.mark.parametrize(("changes", "words"), RATES)
def test_learning_rates(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    found = rates(**changes)
    if words:
        warned(found, *words)
    else:
        assert found == []


def pruning(epochs: int = 5, steps: int = 1000, **changes: Any) -> list[str]:
    return checks.check_pruning(PruningConfig(use_pruning_loss=True, **changes), epochs, steps)


def test_a_schedule_that_does_not_reach_its_target() -> None:
    assert pruning() == []
    found = pruning(sparsity_warmup_epochs=10, target_sparsity=0.6, sparsity_schedule="linear")
    warned(found, "sparsity_warmup_epochs is 10 and training.epochs 5", "30.0%, not 60.0%", "shorten")


def test_gates_that_cannot_shut() -> None:
    warned(pruning(initial_reg_lr=1e-3), "initial_reg_lr is 0.001", "moves a gate by 1 at most", "6.2", "raise it")
    assert pruning(initial_reg_lr=7e-3) == []
    assert pruning(initial_reg_lr=2e-3, drop_rate={"interm": 0.5}) == []
    assert pruning(initial_reg_lr=1e-3, target_sparsity=0.0) == []


def test_a_target_that_was_missed() -> None:
    warned(checks.check_sparsity(0.2, 0.5), "20.0%", "50.0%", "raise pruning.initial_reg_lr")
    warned(checks.check_sparsity(0.5, 0.2), "50.0%")
    assert checks.check_sparsity(0.49, 0.5) == []


def test_inverted_scores() -> None:
    good, bad = np.array([2.0, 1.0, 3.0]), np.array([-1.0, 0.0, -2.0])
    assert checks.check_scores(good, bad) == []
    warned(checks.check_scores(bad, good), "EER is 100.0%", "inverted", "swapped")


def test_an_accuracy_that_counts_the_larger_class() -> None:
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(-2.9, 1, 50), rng.normal(-3, 1, 950)
    found = checks.check_scores(bonafide, spoof)
    warned(found, "95.0% of it are spoofed", "balanced accuracy is 49.9%", "balance the training data")
    warned(checks.check_scores(-spoof, -bonafide), "95.0% of it are bona fide")
    assert checks.check_scores(bonafide + 3, spoof) == []
    assert checks.check_scores(bonafide + 6, spoof) == []


def test_a_training_prints_and_keeps_its_warnings(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(recipe, training__backbone_lr_ratio=0, training__epochs=1)
    train(config, tmp_path / "run")
    before, after = (record["warnings"] for record in read_log(tmp_path / "run") if "warnings" in record)
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert any("backbone_lr_ratio is 0" in line for line in before)
    assert any("the gates expect" in line for line in after)
    printed = capsys.readouterr().out
    for line in (*before, *after):
        assert printed.count(f"warning: {line}\n") == 1
    train(config, tmp_path / "run", resume=True)  # finished already: no warning is repeated
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


def objective(task: str = "speaker-verification", **changes: Any) -> list[str]:
    tree = {"data": {"train": "a", "dev": "b"}, "backbone": {"source": "c"}, "task": task, "objective": changes}
    return checks.check_objective(Config.model_validate(tree))


def test_a_loss_without_margins_and_margins_that_never_grow() -> None:
    assert objective(kind="aam") == objective("anti-spoofing") == []
    warned(objective(), "softmax", "no margin", "aam is usual")
    warned(objective(kind="am", margin_warmup_epochs=9), "objective.margin_warmup_epochs is 9", "never reach")
    warned(
        objective(kind="am", margin_start_epochs=3, margin_warmup_epochs=3), "after margin_start_epochs 3", "epochs 5"
    )


def test_cosines_near_chance_are_reported() -> None:
    rng = np.random.default_rng(0)
    target, nontarget = rng.normal(0.8, 0.1, 500), rng.normal(0.1, 0.1, 500)
    assert checks.check_cosines(target, nontarget) == []
    warned(checks.check_cosines(nontarget, target), "worse than chance", "column speaker")
    warned(checks.check_cosines(nontarget + 0.04, rng.normal(0.1, 0.1, 500)), "close to chance")


def test_speakers_with_a_single_utterance_are_reported() -> None:
    several = [Utterance(f"{index}", Path("x.wav"), Label.BONAFIDE, f"s{index % 2}") for index in range(4)]
    assert checks.check_speakers(several, "train.tsv") == []
    single = Utterance("4", Path("x.wav"), Label.BONAFIDE, "s2")
    warned(checks.check_speakers([*several, single], "train.tsv"), "train.tsv: 1 of 3 speakers", "(s2)")
