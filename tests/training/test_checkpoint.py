"""The last checkpoints of each kind are kept; a damaged one is set aside; a full disk changes nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import files_below
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.runs import EPOCH, STEP, Run, read_checkpoint


def state(step: int, epoch: int = 0, **objective: Any) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "objective": {"weight": torch.full((50,), float(step)), **objective}}


def names(run: Run) -> list[str]:
    return [path.name for path in files_below(run.folder)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in its second epoch of four steps: three checkpoints of each kind kept."""
    run = Run(tmp_path)
    for step in range(1, 7):
        run.save_checkpoint(STEP, step, state(step, step // 4), keep=3)
        if step == 4:
            run.save_checkpoint(EPOCH, 1, state(step, 1), keep=3)
    return run


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((2,), 6.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut short": cut_short,
    "a flipped bit": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "another kind of file": lambda path: path.write_text("weights?"),
}


def test_the_last_of_each_kind_are_kept(run: Run):
    assert names(run) == ["epoch-0001.pt", "step-00000004.pt", "step-00000005.pt", "step-00000006.pt"]
    for epoch in (2, 3):
        run.save_checkpoint(EPOCH, epoch, state(4 * epoch, epoch), keep=2)
    assert [path.name for path in run.list_checkpoints()] == ["epoch-0002.pt", "epoch-0003.pt"]
    assert len(run.list_checkpoints(STEP)) == 3
    assert run.trained_epochs() == 3
    assert run.find_latest() == run.checkpoint(EPOCH, 3)


def test_the_furthest_is_the_latest(run: Run):
    assert run.find_latest() == run.checkpoint(STEP, 6)
    run.save_checkpoint(EPOCH, 2, state(6, 2), keep=3)
    assert run.find_latest() == run.checkpoint(EPOCH, 2), "the same step, but validated already"
    assert Run(run.folder / "nowhere").find_latest() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(run: Run, damage: str, capsys: pytest.CaptureFixture[str]):
    newest = run.checkpoint(STEP, 6)
    DAMAGES[damage](newest)
    assert run.find_latest() == run.checkpoint(STEP, 5)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{newest}: is damaged and set aside; going on from step-00000005.pt"
    assert "step-00000006.damaged" in names(run)
    assert run.find_latest() == run.checkpoint(STEP, 5)
    assert not capsys.readouterr().out


def test_a_run_resumes_as_long_as_one_checkpoint_is_whole(run: Run):
    for path in run.list_checkpoints(STEP):
        cut_short(path)
    assert run.find_latest() == run.checkpoint(EPOCH, 1)
    cut_short(run.checkpoint(EPOCH, 1))
    with pytest.raises(InputError, match=r"checkpoints: all checkpoints are damaged; remove them"):
        run.find_latest()
    assert "epoch-0001.pt" in names(run)


def test_an_unreadable_checkpoint_is_not_taken_for_damaged(run: Run):
    run.checkpoint(STEP, 7).mkdir()
    with pytest.raises(InputError, match=r"step-00000007.pt: cannot be read \(Is a directory\); check its permissions"):
        run.find_latest()


def test_a_file_that_a_kill_left_half_written_is_removed(run: Run):
    (run.checkpoints / ".step-00000007.pt.abcdefgh.tmp").write_bytes(b"PK")
    assert run.find_latest() == run.checkpoint(STEP, 6)
    assert not any(name.endswith(".tmp") for name in names(run))


@pytest.mark.parametrize("kind", [EPOCH, STEP])
def test_a_full_disk_leaves_the_earlier_ones(run: Run, kind: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    before = {path: path.read_bytes() for path in files_below(run.folder)}
    with pytest.raises(InputError, match=rf"{kind}-0+9.pt: cannot be written \(No space left on device\); make room"):
        run.save_checkpoint(kind, 9, state(9), keep=1)
    assert {path: path.read_bytes() for path in files_below(run.folder)} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    run = Run(tmp_path)
    run.checkpoints.write_text("in the way")
    with pytest.raises(InputError, match=r"checkpoints/step-00000001.pt: cannot be written"):
        run.save_checkpoint(STEP, 1, state(1), keep=1)


def test_as_many_as_asked_for_are_averaged(tmp_path: Path):
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.save_checkpoint(EPOCH, epoch, state(epoch, epoch, draws=epoch), keep=3)
    averaged = run.average_objectives(2)
    assert torch.equal(averaged["weight"], torch.full((50,), 2.5))
    assert averaged["draws"] == 3
    with pytest.raises(InputError, match="3 checkpoints are there, cannot average 4"):
        run.average_objectives(4)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path):
    path = tmp_path / "epoch-0001.pt"
    torch.save({"step": 1, "call": print}, path)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
