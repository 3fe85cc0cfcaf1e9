"""The benchmark of a GPU, tried on a CPU with a tiny model: all parts, errors and time-outs as rows, exit codes."""

import json
import time

import pytest

from hybrid_pruning.benchmarks import __main__ as own
from hybrid_pruning.benchmarks import correctness
from hybrid_pruning.benchmarks.correctness import largest_difference
from hybrid_pruning.benchmarks.gpu import CUTS, Measurement, Part
from hybrid_pruning.pruning import Accounting, plan_for
from runs import finish, start

QUICK = ("--gpu", "--device", "cpu", "--quick")


@pytest.fixture
def forked(monkeypatch, tmp_path):
    """Kill the training in a process that has all imported already."""

    def kill(folder, flags):
        assert flags == QUICK[1:]
        return finish(start(own.main, [["--gpu", "--die", str(folder), *flags]], tmp_path / "killed.txt"))[0]

    monkeypatch.setattr(correctness, "kill_elsewhere", kill)


def test_everything_is_measured_and_all_checks_hold(forked, tmp_path, capsys):
    own.main([*QUICK, "--out", str(tmp_path), "--minutes", "60"])  # a busy machine is no failure
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {part["title"]: part["rows"] for part in found["parts"]}
    assert not [row for part in rows.values() for row in part if "error" in row]
    assert [row["unit"] for row in rows["rates"]] == ["GEMM, fp32", "GEMM, tf32", "GEMM, bf16", "copy"]
    checks = {row["check"]: row for row in rows["correctness"]}
    assert len(checks) == 9
    assert sum(row.get("holds", False) for row in checks.values()) == 6
    for name in ("counted = actual, parameters and MACs", "gated bf16 training, killed and resumed, relative"):
        assert checks[name]["found"] == 0
    assert [row["step"] for row in rows["training"]] == ["dense", "gated", "gated, multipliers", "gated, taught"]
    meta, rate = own.TINY.backbone("meta"), rows["rates"][2]["rate"] * 1e12
    work = 2 * own.TINY.batch * Accounting(meta, plan_for(meta, own.TINY.crop_seconds)).dense_macs
    for row, passes in zip(rows["training"], (3, 3, 3, 4), strict=True):
        assert row["share of GEMM"] * rate * row["ms"] / 1e3 == pytest.approx(passes * work)
        assert row["clips/s"] == pytest.approx(own.TINY.batch / row["ms"] * 1e3)
    assert [row["model"] for row in rows["inference"]] == 3 * ["transformers", "dense", *CUTS]
    assert all(row["times faster"] == 1 for row in rows["inference"][::5])
    assert rows["profile"][0]["kernel"] == "all"
    text = (tmp_path / "gpu.md").read_text()
    assert "| masked = shrunk, relative |" in text.replace("\\", "")
    assert "all checks hold" in capsys.readouterr().out


def fail():
    raise RuntimeError("CUDA out\nof memory")


def compile_slowly():
    """As a compiler does, raise another error for the time-out."""
    try:
        time.sleep(9)
    except TimeoutError as error:
        raise RuntimeError("backend='inductor' raised") from error


def measure_four():
    """Measure something, an error, a time-out and without time; print the rows' errors and what is shown of two."""
    part = Part("title", "note", [])
    for measure, seconds in (
        (lambda: [{"ms": 12.345}, {"ms": 12345.6}], 5),
        (fail, 5),
        (compile_slowly, 0.05),
        (fail, 0),
    ):
        part.rows += Measurement({"batch": 2}, measure).run(seconds)
    print(json.dumps([[row.get("error") for row in part.rows], part.table().rows[:2]]))


def test_an_error_and_a_time_out_are_rows(tmp_path):
    """In a process of its own: an alarm after OpenVINO has computed ends this one, by no fault of the benchmark's."""
    assert finish(start(measure_four, [], tmp_path / "out.txt")) == [0]
    errors, shown = json.loads((tmp_path / "out.txt").read_text())
    assert errors == [
        None, None, "RuntimeError: CUDA out of memory", "stopped, the time was spent", "left out, the time was spent"
    ]  # fmt: skip
    assert shown == [["2", "12.3", "-"], ["2", "12346", "-"]]


def test_without_time_nothing_is_proved(tmp_path):
    with pytest.raises(SystemExit) as stop:
        own.main([*QUICK, "--out", str(tmp_path), "--minutes", "0"])
    assert stop.value.code == 1
    assert "left out" in (tmp_path / "gpu.md").read_text()


@pytest.mark.skipif(own.torch.cuda.is_available(), reason="a GPU is here")
def test_a_machine_without_a_gpu_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        own.main(["--gpu"])
    assert stop.value.code == 2
    assert "--gpu: device 'cuda' cannot be used here" in capsys.readouterr().err


def test_differences_are_relative_to_the_largest_value():
    tensor = own.torch.tensor
    assert largest_difference({"a": [tensor([1.0, 4.0])], "b": 1}, {"a": [tensor([1.5, 4.0])], "b": 1}) == 0.125
    assert largest_difference([1, tensor([0.0])], [1, tensor([0.0])]) == 0
    assert largest_difference({"a": 1}, {"a": 2}) == float("inf")
