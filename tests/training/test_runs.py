"""Checkpoints and log of a run: the last of each kind kept, damaged ones set aside; whole lines, and TensorBoard."""

import errno
import json
import os
import shutil
import sys

import pytest
import torch

from corpus import files_below
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.runs import EPOCH, STEP, Run, RunLog, read_checkpoint


def state(step, epoch=0, **objective):
    return {"step": step, "epoch": epoch, "objective": {"weight": torch.full((50,), float(step)), **objective}}


def names(run):
    return [path.name for path in files_below(run.folder)]


@pytest.fixture
def run(tmp_path):
    """A run in its second epoch of four steps: three checkpoints of each kind kept."""
    run = Run(tmp_path)
    for step in range(1, 7):
        run.save_checkpoint(STEP, step, state(step, step // 4), keep=3)
        if step == 4:
            run.save_checkpoint(EPOCH, 1, state(step, 1), keep=3)
    return run


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((2,), 6.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "cut short": cut_short,
    "a flipped bit": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "another kind of file": lambda path: path.write_text("weights?"),
}


def test_the_last_of_each_kind_are_kept(run):
    assert names(run) == ["epoch-0001.pt", "step-00000004.pt", "step-00000005.pt", "step-00000006.pt"]
    for epoch in (2, 3):
        run.save_checkpoint(EPOCH, epoch, state(4 * epoch, epoch), keep=2)
    assert [path.name for path in run.list_checkpoints()] == ["epoch-0002.pt", "epoch-0003.pt"]
    assert len(run.list_checkpoints(STEP)) == 3
    assert run.trained_epochs() == 3
    assert run.find_latest() == run.checkpoint(EPOCH, 3)


def test_the_furthest_is_the_latest(run):
    assert run.find_latest() == run.checkpoint(STEP, 6)
    run.save_checkpoint(EPOCH, 2, state(6, 2), keep=3)
    assert run.find_latest() == run.checkpoint(EPOCH, 2), "the same step, but validated already"
    assert Run(run.folder / "nowhere").find_latest() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(run, damage, capsys):
    newest = run.checkpoint(STEP, 6)
    DAMAGES[damage](newest)
    assert run.find_latest() == run.checkpoint(STEP, 5)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{newest}: is damaged and set aside; going on from step-00000005.pt"
    assert "step-00000006.damaged" in names(run)
    assert run.find_latest() == run.checkpoint(STEP, 5)
    assert not capsys.readouterr().out


def test_a_run_resumes_as_long_as_one_checkpoint_is_whole(run):
    for path in run.list_checkpoints(STEP):
        cut_short(path)
    assert run.find_latest() == run.checkpoint(EPOCH, 1)
    cut_short(run.checkpoint(EPOCH, 1))
    with pytest.raises(InputError, match=r"checkpoints: all checkpoints are damaged; remove them"):
        run.find_latest()
    assert "epoch-0001.pt" in names(run)


def test_a_half_written_file_is_removed_and_an_unreadable_one_refused(run):
    (run.checkpoints / ".step-00000007.pt.abcdefgh.tmp").write_bytes(b"PK")
    assert run.find_latest() == run.checkpoint(STEP, 6)
    assert not any(name.endswith(".tmp") for name in names(run))
    run.checkpoint(STEP, 7).mkdir()
    with pytest.raises(InputError, match=r"step-00000007.pt: cannot be read \(Is a directory\); check its permissions"):
        run.find_latest()


@pytest.mark.parametrize("kind", [EPOCH, STEP])
def test_a_full_disk_leaves_the_earlier_ones(run, kind, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    before = {path: path.read_bytes() for path in files_below(run.folder)}
    with pytest.raises(InputError, match=rf"{kind}-0+9.pt: cannot be written \(No space left on device\); make room"):
        run.save_checkpoint(kind, 9, state(9), keep=1)
    assert {path: path.read_bytes() for path in files_below(run.folder)} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.write_text("in the way")
    with pytest.raises(InputError, match=r"checkpoints/step-00000001.pt: cannot be written"):
        run.save_checkpoint(STEP, 1, state(1), keep=1)


def test_as_many_as_asked_for_are_averaged(tmp_path):
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.save_checkpoint(EPOCH, epoch, state(epoch, epoch, draws=epoch), keep=3)
    averaged = run.average_objectives(2)
    assert torch.equal(averaged["weight"], torch.full((50,), 2.5))
    assert averaged["draws"] == 3
    with pytest.raises(InputError, match="3 checkpoints are there, cannot average 4"):
        run.average_objectives(4)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    path = tmp_path / "epoch-0001.pt"
    torch.save({"step": 1, "call": print}, path)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


RECORD = {
    "epoch": 1,
    "loss": {"task": 0.7, "sparsity": 0.1},
    "learning_rate": {"head": 1e-3},
    "gradient_norm": {"network": 2.0},
    "audio_seconds_per_second": 40.0,
    "padding": 0.25,
    "sparsity": {"expected": 0.1, "target": 0.2, "exact": 0.15},
    "multipliers": {"lambda1": 0.0, "lambda2": 1.0},
    "kept": {"head.3": 0.5, "conv.0": 1.0},
}
VALIDATION = {"epoch": 1, "dev": {"eer": 0.25, "cllr": 0.9}, "gates": {"conv": [3] + [0] * 18 + [5]}}


def steps(run):
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_record_is_a_line_and_those_beyond_the_checkpoint_are_dropped(tmp_path):
    log = RunLog(Run(tmp_path))
    for step in (0, 1, 2, 3):
        log.write(step, RECORD)
    log.close()
    assert Run(tmp_path).read_log() == [{"step": step, **RECORD} for step in range(4)]
    assert log.lines == 4
    with (tmp_path / "log.jsonl").open("a") as handle:
        handle.write('{"step": 4, "lo')
    resumed = RunLog(Run(tmp_path), lines=2, step=1)
    assert steps(tmp_path) == [0, 1]
    resumed.write(2, RECORD)
    resumed.close()
    assert (steps(tmp_path), resumed.lines) == ([0, 1, 2], 3)
    RunLog(Run(tmp_path)).close()
    assert steps(tmp_path) == []


def test_tensorboard_shows_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(Run(tmp_path))
    for step in (1, 2, 3):
        log.write(step, RECORD)
    log.close()
    resumed = RunLog(Run(tmp_path), lines=1, step=1)
    resumed.write(2, {**RECORD, "padding": 0.5})
    resumed.write(2, VALIDATION)
    resumed.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    expected = {
        *("loss/task", "loss/sparsity", "learning_rate/head", "gradient_norm/network", "throughput", "padding"),
        *("sparsity/expected", "sparsity/target", "sparsity/exact", "multipliers/lambda1", "multipliers/lambda2"),
        *("kept/head/3", "kept/conv/0", "dev/eer", "dev/cllr"),
    }
    assert set(events.Tags()["scalars"]) == expected
    assert [(event.step, event.value) for event in events.Scalars("padding")] == [(1, 0.25), (2, 0.5)]
    assert events.Scalars("dev/eer")[0].value == 0.25
    (gates,) = events.Histograms("gates/conv")
    assert gates.histogram_value.bucket == [3.0] + [0.0] * 18 + [5.0]
    assert gates.histogram_value.num == 8


def test_without_tensorboard_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)  # its import is an ImportError
    log = RunLog(Run(tmp_path))
    log.write(1, RECORD)
    log.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == 'log: log.jsonl alone; for TensorBoard beside it: pip install "hybrid-pruning[tensorboard]"'
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_disk_that_gets_full_within_a_line_leaves_whole_ones(tmp_path):
    resource = pytest.importorskip("resource")
    log = RunLog(Run(tmp_path))
    log.write(1, RECORD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "log.jsonl").stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(InputError, match=r"log.jsonl: cannot be written \(File too large\); make room"):
            log.write(2, RECORD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.write(2, RECORD)
    log.close()
    assert steps(tmp_path) == [1, 2]


def test_a_log_or_folder_that_cannot_be_written_is_named(tmp_path):
    pytest.importorskip("tensorboard")
    log = RunLog(Run(tmp_path))
    log.close()
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"log.jsonl: cannot be written \(Is a directory\)"):
        log.write(1, RECORD)
    (tmp_path / "log.jsonl").rmdir()
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(InputError, match="tensorboard: cannot be written"):
        RunLog(Run(tmp_path))
