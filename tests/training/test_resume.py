"""A run killed anywhere ends as if it had not been; a full disk leaves the last good checkpoint and nothing else."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import configure
from hybrid_pruning.config import save_config
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.scores import score_paths
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import STEP, Run, read_checkpoint
from runs import assert_same_run, finish, kill_at_random, run_command, start

Recipe = dict[str, Any]
CROWDED = {"training__checkpoint_steps": 1, "training__keep_checkpoints": 100}


@pytest.mark.parametrize(
    ("epochs", "kills", "steps"),
    [
        pytest.param(4, 2, 4, id="twice"),
        pytest.param(60, 20, 12, id="twenty times", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(recipe: Recipe, tmp_path: Path, epochs: int, kills: int, steps: int):
    """Killed at random points, with workers and without in turn, against a training that was left alone."""
    seed = int(os.environ.get("SOAK_SEED", "1"))
    print(f"\n{kills} kills at random points, seed {seed}")
    save_config(configure(recipe, training__epochs=epochs, training__checkpoint_steps=2), tmp_path / "recipe.yaml")
    chance, killed, whole = random.Random(seed), tmp_path / "killed", tmp_path / "whole"

    def begin(run: Path, workers: int, more: Sequence[str]) -> Any:
        options = ["--out", str(run), "--set", f"data.workers={workers}", *more]
        return start(run_command, ["train", str(tmp_path / "recipe.yaml"), *options], tmp_path / "output.txt")

    for number in range(1, kills + 1):
        workers = 2 * (number % 2)
        where = kill_at_random(lambda more, w=workers: begin(killed, w, more), killed, chance, steps)
        print(f"kill {number:>2} of {kills}, {workers} workers: {where}", flush=True)
    assert finish(begin(killed, 0, ["--resume"]), begin(whole, 0, [])) == [0, 0], (tmp_path / "output.txt").read_text()
    assert_same_run(killed, whole)
    assert not list(killed.rglob(".*"))


def test_the_public_recipes_options_resume_and_export_as_trained(recipe: Recipe, tmp_path: Path):
    """Batch norm, gradient multiplier, start noise, joint clipping, scaled rates: cut off after the first epoch."""
    changes: dict[str, Any] = {"head__classifier_norm": "batch", "backbone__hidden_gradient": 0.1}
    changes |= {"training__clip_gates": True, "training__clip_norm": 0.05, "training__lr_batch": 4}
    changes |= {"pruning__start_noise": 0.01, "training__average": 1, "training__keep_checkpoints": 2}
    config = configure(recipe, **changes)
    whole = train(config, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut")
    Run(tmp_path / "cut").list_checkpoints()[-1].unlink()
    assert_same_run(train(config, tmp_path / "cut", resume=True), whole)
    model = export(whole, tmp_path / "model")
    assert isinstance(model.classifier[0], torch.nn.BatchNorm1d)
    assert model.classifier[0].running_mean.any()
    assert model.provenance["averaged_checkpoints"] == 1
    loaded = SpeechModel.from_pretrained(tmp_path / "model")
    devset = read_manifest(recipe["data"]["dev"])
    scores = dict(line.split("\t")[:2] for line in (whole / "dev_scores.tsv").read_text().splitlines()[1:])
    found = score_paths(loaded, [utterance.path for utterance in devset], workers=0)
    expected = [float(scores[utterance.utt_id]) for utterance in devset]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4), "masked == shrunk"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for three checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a file system needs Linux and root")
def test_a_full_disk_leaves_the_last_good_checkpoint(recipe: Recipe, tmp_path: Path, small_disk: Path):
    config, folder = configure(recipe, **CROWDED), small_disk / "run"
    with pytest.raises(InputError, match=r"run\S+: cannot be written \(No space left on device\); make room"):
        train(config, folder)
    assert not list(folder.rglob("*.tmp")), "no half-written file"
    paths = [*Run(folder).list_checkpoints(), *Run(folder).list_checkpoints(STEP)]
    assert paths
    for path in paths:
        read_checkpoint(path)  # every one of them is whole
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    train(config, folder, resume=True)
    assert_same_run(folder, train(config, tmp_path / "whole"))
