"""The benchmarks: pairing of rounds, random shrinking, memory of other processes, models by every engine, tables."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from corpus import write_wavlm
from encoders import KINDS, WHISPER
from exports import export_detector, export_ragged, export_run, export_vino, ragged_backbone
from hybrid_pruning import SpeechModel, benchmark
from hybrid_pruning.benchmarks import __main__ as own
from hybrid_pruning.benchmarks import comparison, engines, roofline
from hybrid_pruning.benchmarks.comparison import Case, latency_ratio, print_table
from hybrid_pruning.benchmarks.timing import Ratio
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.console import Table
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.onnx import graph
from hybrid_pruning.models.size import count_kept, count_parameters
from hybrid_pruning.training.objective import Objective

RATES = {"f32": 2e9, "int8": 3e9, "copy": 1e9}
HEAD, CLASSES = HeadConfig(heads=2, compression=4, embedding=8), Classes(("spoof", "bonafide"), (1, 1))


@pytest.fixture
def without_memory(monkeypatch):
    """Leave out the processes that measure memory, each of which takes seconds to start, and the machine's rates."""
    for module in (comparison, own):
        monkeypatch.setattr(module, "peak_elsewhere", lambda *_: 1)
    monkeypatch.setattr(comparison, "measure_rates", lambda: RATES)


def test_rates_of_this_machine():
    found = roofline.measure_rates(side=64, copied=1 << 12)
    assert set(found) == {"f32", "int8", "copy"} | ({"bf16"} if engines.has_bf16() else set())
    assert all(rate > 1e6 for rate in found.values())


def test_ratio_pairs_rounds():
    assert comparison.ratio([3.0, 20.0, 6.0], [2.0, 10.0, 2.0]) == Ratio(2.0, 1.75, 2.5, 1.5)
    assert comparison.ratio([3.0], [2.0]) == Ratio(1.5, 1.5, 1.5, 1.5)


@pytest.mark.parametrize(("low", "high", "verdict"), [(1.0, 1.04, "within"), (1.06, 1.1, "above"), (1.0, 1.1, "undec")])
def test_verdict_needs_rounds_that_agree(low, high, verdict):
    assert own.judge(Ratio(1.05, low, high, 1.05)).startswith(verdict)


def test_tasks_take_turns():
    calls = []
    tasks = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = comparison.interleaved(tasks, 3, advance=lambda: calls.append("."))
    assert "".join(calls) == "ab" + "a.b." + "b.a." + "a.b."
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_threads_are_put_back(monkeypatch):
    monkeypatch.delenv(comparison.THREADS, raising=False)
    before = torch.get_num_threads()
    with comparison.set_threads(1):
        assert (torch.get_num_threads(), os.environ[comparison.THREADS]) == (1, "1")
    assert torch.get_num_threads() == before
    assert comparison.THREADS not in os.environ


@pytest.mark.parametrize("constraint", ["params", "macs"])
@pytest.mark.parametrize("target", [0.5, 0.7])
def test_shrunk_meets_its_target(target, constraint):
    torch.manual_seed(0)
    dense = own.TINY.backbone().eval()
    before = count_parameters(dense)
    small, budget = own.shrunk(dense, target, constraint=constraint)
    assert budget.removed(constraint) == pytest.approx(target, abs=0.01)
    assert budget.params == count_parameters(small)
    assert before == budget.dense_params == count_parameters(dense)


@pytest.mark.parametrize("gated", [False, True])
def test_training_step_learns(gated, monkeypatch):
    losses = []
    forward = Objective.forward

    def listen(self, *arguments):
        found = forward(self, *arguments)
        losses.append({name: float(loss.detach()) for name, loss in found.items()})
        return found

    monkeypatch.setattr(Objective, "forward", listen)
    step = own.training_step(own.TINY, gated)
    for _ in range(3):
        step()
    assert set(losses[0]) == ({"task", "sparsity"} if gated else {"task"})
    assert losses[2]["task"] < losses[0]["task"]


def test_latency_ratio_of_models():
    torch.manual_seed(0)
    dense = own.TINY.backbone()
    models = [SpeechModel.build(backbone, HEAD, CLASSES) for backbone in (own.shrunk(dense, 0.7)[0], dense)]
    found = latency_ratio(*models, seconds=0.2, repeats=2)
    assert 0 < found.low <= found.median <= found.high
    assert not any(model.training for model in models)


def test_memory_is_measured_in_another_process(once, capsys):
    folder = export_detector(once)
    arguments = ("onnx", str(folder / "onnx" / "model.onnx"), "1", "8000")
    assert 0 < engines.peak_elsewhere(engines.MODULE, *arguments) < 2**30
    own.main(["--peak-memory", "gated", "--quick", "--threads", "1"])
    assert int(capsys.readouterr().out) >= 0
    with pytest.raises(InputError, match="measuring memory failed"):
        engines.peak_elsewhere("hybrid_pruning.nowhere")


def test_models_stand_beside_the_dense_one(once, pristine, monkeypatch, without_memory):
    """Exports of the same kind, made before, stand in for those of the benchmark."""
    folder, small = export_vino(once), export_run(once, pristine) / "small"

    def export(model, out, int8=False, proto=None):
        return Path(shutil.copytree(small if int8 else folder / "onnx", out)) / "model.onnx"

    def export_vino_again(model, out, precision, clips, proto):
        return Path(shutil.copytree(folder / ("vino8" if precision == "int8" else "vino"), out)) / "openvino.xml"

    monkeypatch.setattr(graph, "trace", lambda _: object())
    monkeypatch.setattr(graph, "export_onnx", export)
    monkeypatch.setattr(graph, "export_openvino", export_vino_again)
    artifact = folder / "model"
    found = benchmark({"mine": artifact}, None, tuple(engines.CHOICES), (0.2, 0.4), (1, 2), 2, 1)
    dense, *rows = found.measured
    assert dense.contestant.engine == "transformers"
    assert [row.contestant.engine for row in rows] == list(engines.CHOICES)
    assert {row.contestant.model for row in rows} == {"mine"}
    for seconds in (0.2, 0.4, 4.0):
        budget = count_kept(SpeechModel.from_pretrained(artifact).backbone, seconds).budget
        assert {(row.contestant.params, row.contestant.work(seconds)) for row in rows} == {(budget.params, budget.macs)}
        assert (dense.contestant.params, dense.contestant.work(seconds)) == (budget.dense_params, budget.dense_macs)
    assert list(rows[0].latencies) == [Case(0.2, 1), Case(0.2, 2), Case(0.4, 1), Case(0.4, 2)]
    assert dense.latencies[Case(0.2, 1)].speedup == Ratio(1.0, 1.0, 1.0, 1.0)
    plain = json.loads(json.dumps(found.as_json()))
    assert len(plain["models"]) == 8
    latency = plain["models"][1]["latency"][1]
    assert latency["real_time_factor"] > 0
    operations = 2 * 2 * rows[0].contestant.work(0.2)
    assert latency["share"] == pytest.approx(operations / RATES["f32"] / latency["median"])
    assert [row.latencies[Case(0.2, 1)].share is None for row in rows] == [
        engines.precision(name) == "bf16" for name in engines.CHOICES
    ]
    size, machine, latencies = found.tables()
    assert [table.title for table in (size, machine, latencies)] == ["size", "machine", "latency"]
    assert machine.rows == [("products, f32", "2 GFLOP/s"), ("products, int8", "3 GOP/s"), ("copying", "1.0 GB/s")]
    assert latencies.headings == ("model", "engine", "0.2 s", "2 x 0.2 s", "0.4 s", "2 x 0.4 s")


def test_the_dense_model_can_be_named(once, pristine, tmp_path, without_memory):
    folder, small = str(write_wavlm(tmp_path / "dense")), export_run(once, pristine) / "small"
    artifact = export_detector(once) / "model"
    found = benchmark([artifact, small / "model.onnx", small], folder, ["torch"], (0.2,), (1,), 1, 1)
    assert found.measured[0].contestant.path == folder
    names = [row.contestant.engine for row in found.measured]
    assert names == ["transformers", "torch", "onnx-int8", "onnx-int8"]
    with pytest.raises(InputError, match=r"gone\.onnx: no such file"):
        benchmark([artifact, tmp_path / "gone.onnx"], folder, ["torch"], (0.2,), (1,), 1, 1)


@pytest.mark.parametrize(("family", "style"), KINDS[:-1:2])
def test_pruned_models_of_every_family_are_measured(family, style, tmp_path, without_memory):
    SpeechModel.build(ragged_backbone(family, style), HEAD, CLASSES).save_pretrained(tmp_path)
    found = benchmark([tmp_path], None, ["torch"], (0.3,), (1,), 1, 1)
    assert [row.contestant.engine for row in found.measured] == ["transformers", "torch"]
    assert all(latency.median > 0 for row in found.measured for latency in row.latencies.values())


def test_a_graph_of_whisper_has_a_longest_utterance(once, without_memory):
    artifact = export_ragged(once, *WHISPER)
    models = [artifact, artifact / "model.onnx"]
    found = benchmark(models, None, ["torch"], (0.3,), (1,), 1, 1)
    assert [row.contestant.engine for row in found.measured] == ["transformers", "torch", "onnx"]
    assert all(latency.median > 0 for row in found.measured for latency in row.latencies.values())
    with pytest.raises(InputError, match=r"model.onnx: takes 0.3\d s at most; give shorter --seconds"):
        benchmark(models, None, ["torch"], (0.5,), (1,), 1, 1)


def test_engines_are_checked():
    assert engines.choose_engines(["torch", "torch"]) == ("torch",)
    with pytest.raises(InputError, match="--engines: 'tensorrt' is unknown; known are torch, torch-bf16"):
        engines.choose_engines(["torch", "tensorrt"])


def test_quick_run(capsys, without_memory):
    threads = torch.get_num_threads()
    own.main(["--quick", "--threads", "1", "--markdown", "--engines", "torch"])
    text = capsys.readouterr().out
    assert torch.get_num_threads() == threads
    assert re.search(r"^\| time \| [\d.]+ \([\d.]+-[\d.]+\) \| [\d.]+ \| \\<= 1.05", text, re.MULTILINE)
    assert re.search(r"^\| \S*70% removed \| torch \| [\d.]+ M \|", text, re.MULTILINE), text


def test_table_fits_a_terminal(capsys):
    print_table(Table(("", "ratio"), [("time", str(Ratio(1.0, 0.9, 1.1, 1.0)))], "title", "note"), False)
    text = capsys.readouterr().out
    assert "1.00 (0.90-1.10)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_bad_thread_count_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        own.main(["--threads", "0"])
    assert stop.value.code == 2
    assert "--threads 0: at least 1 is needed" in capsys.readouterr().err
