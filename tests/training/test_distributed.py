"""Training on two processes is training on one, and ends as one where it goes wrong."""

import errno
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from corpus import configure, settings, write_wavlm, write_world
from encoders import STYLES
from hybrid_pruning import distributed as processes
from hybrid_pruning.config import save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.training import validation
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.objective import Objective
from hybrid_pruning.training.trainer import Trainer
from runs import assert_same, assert_same_run, final_state, finish, kill_at_random, ranks, read_steps, run_command

PAIR = {"training.batch_size": 4, "training.accumulate": 2, "training.epochs": 2}
ALONE = {**PAIR, "training.batch_size": 8}
TOLERANCE = 1e-6
WITHOUT_EFFECT = ("head.query.bias", "head.key.bias", "k_proj.bias")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Without dropout, which every process draws for itself, and at a usual learning rate."""
    folder = tmp_path_factory.mktemp("world")
    source = str(write_wavlm(folder / "no dropout"))
    return settings(write_world(folder), {"backbone.source": source, "training.lr": 5e-4, "training.final_lr": 5e-5})


def write_recipe(recipe, folder, changes):
    """Return the arguments of a training; its run is `run` in the folder."""
    save_config(configure(settings(recipe, changes)), folder / "recipe.yaml")
    return ["train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]


def train_pair(arguments, folder, target=run_command):
    codes = finish(*ranks(target, arguments, folder))
    assert codes == [0, 0], [(folder / f"rank{rank}.txt").read_text() for rank in range(2)]


def largest_differences(found, expected):
    """Return those of network, gates and multipliers; of values above 1, relative to the tensor's largest.

    Weights without effect on a softmax over time are left out: Adam makes full steps of their rounding noise.
    """
    differences = {}
    for name, value in expected.items():
        if isinstance(value, torch.Tensor) and not name.endswith(WITHOUT_EFFECT):
            part = name.partition(".")[0]
            difference = (found[name] - value).abs().max() / value.abs().max().clamp_min(1)
            differences[part] = max(differences.get(part, 0.0), float(difference))
    return differences


def read_scores(folder):
    return [float(row.split("\t")[1]) for row in (folder / "dev_scores.tsv").read_text().splitlines()[1:]]


def test_two_processes_are_one_with_the_same_batch(recipe, tmp_path):
    """Gates, multipliers and accumulated gradients included; the main process alone prints."""
    train_pair(write_recipe(recipe, tmp_path, PAIR), tmp_path)
    printed = "".join((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert printed.count("finished; next: hybrid-pruning export") == printed.count("epoch 2/2") == 1
    alone = train(configure(settings(recipe, ALONE)), tmp_path / "alone")
    differences = largest_differences(final_state(tmp_path / "run")["objective"], final_state(alone)["objective"])
    print(f"largest differences between 2 processes and 1 after 6 steps: {differences}")
    assert set(differences) == {"model", "gates", "lagrangian"}
    assert max(differences.values()) < TOLERANCE
    assert read_scores(tmp_path / "run") == pytest.approx(read_scores(alone), abs=1e-5)
    for pair, one in zip(read_steps(tmp_path / "run"), read_steps(alone), strict=True):
        assert pair["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert pair["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
        assert pair["sparsity"] == pytest.approx(one["sparsity"], rel=1e-5)
        assert pair["padding"] == one["padding"]


def save_states(folder, *arguments):
    close = Trainer.close

    def save(trainer):
        torch.save(trainer.objective.state_dict(), Path(folder) / f"state{processes.rank()}.pt")
        close(trainer)

    Trainer.close = save
    run_command(*arguments)


def test_gates_and_multipliers_are_the_same_everywhere_and_in_float32(recipe, tmp_path):
    dropout = {"backbone.source": str(write_wavlm(tmp_path / "dropout", hidden_dropout=0.1))}
    changes = {**PAIR, **dropout, "training.mixed_precision": "bf16", "training.epochs": 1}
    changes["head.classifier_norm"] = "batch"  # whose statistics are each process's own until they are shared
    arguments = write_recipe(recipe, tmp_path, changes)
    train_pair([str(tmp_path), *arguments], tmp_path, save_states)
    first, second = (torch.load(tmp_path / f"state{rank}.pt", weights_only=True) for rank in range(2))
    assert_same(first, second)
    numbers = {name: value for name, value in first.items() if isinstance(value, torch.Tensor)}
    assert numbers.pop("model.classifier.0.num_batches_tracked").item() > 0
    assert {value.dtype for value in numbers.values()} == {torch.float32}


class Pair(list[Any]):
    """Two processes that are killed as one."""

    def is_alive(self):
        return all(member.is_alive() for member in self)

    def kill(self):
        for member in self:
            member.kill()

    def join(self):
        for member in self:
            member.join()

    @property
    def exitcode(self):
        return self[0].exitcode


@pytest.mark.soak
def test_a_killed_pair_is_resumed_to_the_same_end(recipe, tmp_path):
    arguments = write_recipe(recipe, tmp_path, {**PAIR, "training.checkpoint_steps": 2, "data.workers": 1})
    chance = random.Random(1)

    def begin(more):
        return Pair(ranks(run_command, [*arguments, *more], tmp_path))

    for _ in range(2):
        print(kill_at_random(begin, tmp_path / "run", chance, 4))
    train_pair([*arguments, "--resume"], tmp_path)
    train_pair([*arguments[:-1], str(tmp_path / "whole")], tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_shrunk_model_is_trained_further_by_two(recipe, tmp_path):
    """A pre-norm model that lost whole attentions: parameters are left that no gradient reaches."""
    large = {"backbone.source": str(write_wavlm(tmp_path / "large", **STYLES["large"]))}
    closing = {"pruning.units": ["attlayer"], "pruning.target_sparsity": 0.15, "pruning.initial_reg_lr": 2.0}
    first = configure(settings(recipe, {**ALONE, **large, **closing, "training.epochs": 1}))
    parent = train(first, tmp_path / "parent")
    shape = shape_of(export(parent, tmp_path / "small", 1).backbone)
    assert not all(shape.kept.values())
    further = {"backbone.source": str(tmp_path / "small"), "pruning.use_pruning_loss": False}
    train_pair(write_recipe(recipe, tmp_path, {**PAIR, **further}), tmp_path)
    alone = train(configure(settings(recipe, {**ALONE, **further})), tmp_path / "alone")
    differences = largest_differences(final_state(tmp_path / "run")["objective"], final_state(alone)["objective"])
    assert max(differences.values()) < TOLERANCE


def explode(*arguments):
    """Give one process alone a loss that is not finite."""
    forward = Objective.forward

    def diverge(self, *arguments):
        losses = forward(self, *arguments)
        return {name: loss * (float("inf") if processes.rank() else 1.0) for name, loss in losses.items()}

    Objective.forward = diverge
    run_command(*arguments)


def fill_disk(*arguments):
    """Refuse the first checkpoint of the main process, which alone writes, as a full disk does."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    torch.save = refuse
    run_command(*arguments)


def spoil_dev(*arguments):
    """Refuse a file of the dev set in the main process alone."""
    score = validation.score_paths

    def refuse(*arguments, **options):
        if processes.is_main():
            raise InputError("dev.wav: cannot be decoded")
        score(*arguments, **options)
        processes.wait()  # for the others' scores

    validation.score_paths = refuse
    run_command(*arguments)


FAILURES = {
    "a typo in the command": (run_command, ["--st", "seed=1"], "No such option.*--st"),
    "a taken folder": (run_command, ["--out", "."], "is not empty; give a new folder"),
    "a loss that explodes on one": (explode, [], "is not finite at step 1; lower training.lr"),
    "a full disk": (fill_disk, [], "epoch-0001.pt: cannot be written"),
    "a file that one cannot read": (spoil_dev, [], "cannot be decoded"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_one_is_one_line_and_the_end_of_all(recipe, tmp_path, failure):
    target, more, expected = FAILURES[failure]
    arguments = [*write_recipe(recipe, tmp_path, {**PAIR, "training.epochs": 1}), *more]
    arguments = [str(tmp_path) if argument == "." else argument for argument in arguments]
    assert finish(*ranks(target, arguments, tmp_path), seconds=60) == [2, 2]
    printed = "".join((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    plain = [line for line in printed.splitlines() if not line.startswith("warning: ")]
    assert len(plain) <= 2, "the epoch's line may stand before it"
    (line,) = re.findall(r"^hybrid-pruning: .*", printed, re.MULTILINE)
    assert re.search(expected, line)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_torchrun_ends_with_its_processes(recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = [*write_recipe(recipe, tmp_path, PAIR), "--set", "heads.kind=mhfa"]
    with pytest.raises(ChildFailedError, match=r"exitcode\s*: 2"):
        torchrun(["--standalone", "--nproc_per_node", "2", "-m", "hybrid_pruning.cli", *arguments])
    (line,) = re.findall(r"^hybrid-pruning: .*", capfd.readouterr().err, re.MULTILINE)
    assert "'heads' is unknown" in line
