"""The last checkpoints of each kind are kept; what is damaged is set aside; a full disk changes nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import files_below
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.checkpoints import (
    EPOCH,
    FOLDER,
    STEP,
    average_objectives,
    find_latest,
    list_checkpoints,
    read_checkpoint,
    save_epoch,
    save_step,
    trained_epochs,
)


def state(step: int, epoch: int = 0, **objective: Any) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "objective": {"weight": torch.full((50,), float(step)), **objective}}


def names(run: Path) -> list[str]:
    return [path.name for path in files_below(run)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in its second epoch of four steps: three checkpoints of each kind kept."""
    for step in range(1, 7):
        save_step(tmp_path, step, state(step, step // 4), keep=3)
        if step == 4:
            save_epoch(tmp_path, 1, state(step, 1), keep=3)
    return tmp_path


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((2,), 6.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def not_ours(path: Path) -> None:
    path.write_text("weights?")


DAMAGES = [cut_short, flip_a_bit, empty, not_ours]


def test_the_last_of_each_kind_are_kept(run: Path):
    assert names(run) == ["epoch-0001.pt", "step-00000004.pt", "step-00000005.pt", "step-00000006.pt"]
    for epoch in (2, 3):
        save_epoch(run, epoch, state(4 * epoch, epoch), keep=2)
    assert [path.name for path in list_checkpoints(run)] == ["epoch-0002.pt", "epoch-0003.pt"]
    assert len(list_checkpoints(run, STEP)) == 3
    assert trained_epochs(run) == 3
    assert find_latest(run) == run / FOLDER / "epoch-0003.pt"


def test_the_furthest_is_the_latest(run: Path):
    assert find_latest(run) == run / FOLDER / "step-00000006.pt"
    save_epoch(run, 2, state(6, 2), keep=3)
    assert find_latest(run) == run / FOLDER / "epoch-0002.pt", "the same step, but validated already"
    assert find_latest(run / "nowhere") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(
    run: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
):
    newest = run / FOLDER / "step-00000006.pt"
    damage(newest)
    assert find_latest(run) == run / FOLDER / "step-00000005.pt"
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{newest}: is damaged and set aside; going on from step-00000005.pt"
    assert "step-00000006.damaged" in names(run)
    assert find_latest(run) == run / FOLDER / "step-00000005.pt"
    assert not capsys.readouterr().out


def test_damage_is_survived_as_long_as_one_is_whole(run: Path):
    for path in list_checkpoints(run, STEP):
        cut_short(path)
    assert find_latest(run) == run / FOLDER / "epoch-0001.pt"
    cut_short(run / FOLDER / "epoch-0001.pt")
    with pytest.raises(InputError, match=r"checkpoints: all checkpoints are damaged; remove them"):
        find_latest(run)
    assert "epoch-0001.pt" in names(run)


def test_what_cannot_be_read_is_not_taken_for_damaged(run: Path):
    (run / FOLDER / "step-00000007.pt").mkdir()
    with pytest.raises(InputError, match=r"step-00000007.pt: cannot be read \(Is a directory\); check its permissions"):
        find_latest(run)


def test_what_a_kill_left_half_written_is_removed(run: Path):
    (run / FOLDER / ".step-00000007.pt.abcdefgh.tmp").write_bytes(b"PK")
    assert find_latest(run) == run / FOLDER / "step-00000006.pt"
    assert not any(name.endswith(".tmp") for name in names(run))


@pytest.mark.parametrize("kind", [EPOCH, STEP])
def test_a_disk_that_gets_full_leaves_what_was_there(run: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    before = {path: path.read_bytes() for path in files_below(run)}
    save = save_epoch if kind == EPOCH else save_step
    with pytest.raises(InputError, match=rf"{kind}-0+9.pt: cannot be written \(No space left on device\); make room"):
        save(run, 9, state(9), keep=1)
    assert {path: path.read_bytes() for path in files_below(run)} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(InputError, match=r"checkpoints/step-00000001.pt: cannot be written"):
        save_step(tmp_path, 1, state(1), keep=1)


def test_only_what_is_asked_for_is_averaged(tmp_path: Path):
    for epoch in (1, 2, 3):
        save_epoch(tmp_path, epoch, state(epoch, epoch, draws=epoch), keep=3)
    averaged = average_objectives(tmp_path, 2)
    assert torch.equal(averaged["weight"], torch.full((50,), 2.5))
    assert averaged["draws"] == 3
    with pytest.raises(InputError, match="3 checkpoints are there, cannot average 4"):
        average_objectives(tmp_path, 4)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path):
    path = tmp_path / "epoch-0001.pt"
    torch.save({"step": 1, "call": print}, path)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
