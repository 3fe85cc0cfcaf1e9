import re

import pytest
import torch

from hybrid_pruning import SpeechModel, benchmark
from hybrid_pruning.backbone import skeleton
from hybrid_pruning.benchmark import TINY, Ratio
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.model import Classes


def test_ratio_pairs_rounds() -> None:
    assert benchmark.ratio([3.0, 20.0, 6.0], [2.0, 10.0, 2.0]) == Ratio(2.0, 1.75, 2.5, 1.5)
    assert benchmark.ratio([3.0], [2.0]) == Ratio(1.5, 1.5, 1.5, 1.5)


@pytest.mark.parametrize(("low", "high", "verdict"), [(1.0, 1.04, "within"), (1.06, 1.1, "above"), (1.0, 1.1, "undec")])
def test_verdict_needs_rounds_that_agree(low: float, high: float, verdict: str) -> None:
    assert benchmark._verdict(Ratio(1.05, low, high, 1.05)).startswith(verdict)


def test_tasks_take_turns() -> None:
    calls: list[str] = []
    times = benchmark.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("target", benchmark.TARGETS)
def test_shrunk_meets_its_target(target: float) -> None:
    torch.manual_seed(0)
    dense = skeleton(dict(TINY.config), False).eval()
    before = sum(parameter.numel() for parameter in dense.parameters())
    small, budget = benchmark.shrunk(dense, target)
    assert budget.sparsity == pytest.approx(target, abs=0.01)
    assert budget.params == sum(parameter.numel() for parameter in small.parameters())
    assert before == budget.dense_params == sum(parameter.numel() for parameter in dense.parameters())


@pytest.mark.parametrize("gated", [False, True])
def test_training_step_learns(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[dict[str, float]] = []
    forward = benchmark.Objective.forward

    def listen(self: benchmark.Objective, *arguments: object) -> object:
        found = forward(self, *arguments)
        losses.append({name: float(loss.detach()) for name, loss in found.parts.items()})
        return found

    monkeypatch.setattr(benchmark.Objective, "forward", listen)
    step = benchmark.training_step(TINY, gated)
    for _ in range(3):
        step()
    assert set(losses[0]) == ({"task", "sparsity"} if gated else {"task"})
    assert losses[2]["task"] < losses[0]["task"]


def test_latency_ratio_of_models() -> None:
    head, classes = HeadConfig(heads=2, compression=4, embedding=8), Classes(("spoof", "bonafide"), (1, 1))
    torch.manual_seed(0)
    dense = skeleton(dict(TINY.config), False)
    small, _ = benchmark.shrunk(dense, 0.7)
    models = [SpeechModel.build(backbone, head, classes) for backbone in (small, dense)]
    found = benchmark.latency_ratio(*models, seconds=0.2, repeats=3)
    assert 0 < found.low <= found.median <= found.high
    assert not any(model.training for model in models)


def test_memory_is_measured_in_another_process() -> None:
    assert 0 < benchmark._peak_elsewhere("gated", ["--quick", "--threads", "1"]) < 2**30


def test_quick_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_peak_elsewhere", lambda *_: 1)  # its two processes take seconds to start
    threads = torch.get_num_threads()
    benchmark.main(["--quick", "--threads", "1", "--markdown"])
    text = capsys.readouterr().out
    assert torch.get_num_threads() == threads
    assert re.search(r"^\| time \| [\d.]+ \([\d.]+-[\d.]+\) \| [\d.]+ \| <= 1.05", text, re.MULTILINE)
    assert re.search(r"^\| peak memory \| [\d.]+ \|", text, re.MULTILINE)
    assert re.search(r"^\| transformers \| 1.00 \| 1.00 \|", text, re.MULTILINE)
    assert re.search(r"^\| ours, 70% removed \| 0.30 \|", text, re.MULTILINE)
    assert "load average" in text


def test_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark._print(
        benchmark.Section("title", ("", "ratio"), [("time", str(Ratio(1.0, 0.9, 1.1, 1.0)))], "note"), False
    )
    text = capsys.readouterr().out
    assert "1.00 (0.90-1.10)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_bad_thread_count_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--threads", "0"])
    assert stop.value.code == 2
    assert "--threads 0: at least 1 is needed" in capsys.readouterr().err
