"""The log is whole lines up to the checkpoint; TensorBoard shows the same numbers."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.training.runs import Run, RunLog

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


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_record_is_a_line_and_those_beyond_the_checkpoint_are_dropped(tmp_path: Path):
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


def test_tensorboard_shows_the_same_numbers(tmp_path: Path):
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


def test_without_tensorboard_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)  # its import is an ImportError
    log = RunLog(Run(tmp_path))
    log.write(1, RECORD)
    log.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "log: log.jsonl alone; for TensorBoard beside it: pip install 'hybrid-pruning[tensorboard]'"
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_disk_that_gets_full_within_a_line_leaves_whole_ones(tmp_path: Path):
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


def test_a_log_or_folder_that_cannot_be_written_is_named(tmp_path: Path):
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
