"""Jobs hold bounded audio of similar length; a long utterance's score is that of its windows' mean embedding."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from corpus import SAMPLE_RATE_HZ, noise, tiny_detector
from hybrid_pruning.audio import read_audio
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring import batching as jobs_module
from hybrid_pruning.scoring.batching import JobResult, Throughput, Work, plan_jobs, score_jobs
from hybrid_pruning.scoring.windows import cut

NAN = float("nan")
WINDOW = 2000
LENGTHS = (5100, 900, 2000, 1300, 23_000)  # 3 windows, whole, whole, whole, 12 windows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return tiny_detector(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    paths = [tmp_path / f"{index}.flac" for index in range(len(LENGTHS))]
    for path, samples in zip(paths, LENGTHS, strict=True):
        soundfile.write(path, noise(samples, seed=samples), SAMPLE_RATE_HZ)
    return Work(paths, np.array(LENGTHS, dtype=np.float64), 4, WINDOW)


def scores_of(results: Generator[JobResult[float]]) -> dict[int, float]:
    with closing(results):
        return {index: score for result in results for index, score in result.values.items()}


@pytest.mark.parametrize(
    ("seconds", "batch_size", "expected"),
    [
        ([1, 3, 2], 2, [[1, 2], [0]]),
        ([1, 1, 1], 2, [[0, 1], [2]]),
        ([NAN, 5, 20], 8, [[2, 1]]),  # what could not be opened is left out
        ([30, 30, 30, 30, 1], 8, [[0, 1, 2, 3], [4]]),  # 120 s
        ([31, 15, 16], 8, [[2, 0, 1]]),  # 16 s, then twice 15.5 s
        ([31, 15, 16], 3, [[2, 0], [1]]),
        ([500, 25, 400], 8, [[0], [2], [1]]),  # too long for one batch: alone
        ([], 8, []),
    ],
)
def test_jobs_hold_similar_lengths_and_bounded_audio(seconds: list[float], batch_size: int, expected: list):
    samples = [value * SAMPLE_RATE_HZ for value in seconds]
    assert plan_jobs(samples, batch_size, 30 * SAMPLE_RATE_HZ) == expected


def test_every_window_is_in_one_batch_of_bounded_size():
    rng = np.random.default_rng(0)
    samples = np.round(rng.lognormal(2, 1.5, 500) * SAMPLE_RATE_HZ)
    work = Work([Path(str(index)) for index in range(500)], samples, 16, 30 * SAMPLE_RATE_HZ)
    seen = []
    for job in work.jobs():
        batches = work.batches(job)
        assert len(batches) == 1 or len(job) == 1
        for batch in batches:
            assert len(batch) <= 16
            assert len(batch) * max(window.samples for window in batch) <= 120 * SAMPLE_RATE_HZ
            seen += [(window.index, window.start, window.samples) for window in batch]
    expected = [(i, *window) for i, length in enumerate(samples) for window in cut(int(length), work.window)]
    assert sorted(seen) == sorted(expected)
    computed = sum(len(b) * max(w.samples for w in b) for job in work.jobs() for b in work.batches(job))
    assert samples.sum() / computed > 0.95, "little is padded"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_utterance_is_its_windows_mean(model: SpeechModel, work: Work, workers: int):
    found = scores_of(score_jobs(model, work, list(enumerate(work.jobs())), workers))
    for index, path in enumerate(work.paths):
        wave = torch.from_numpy(read_audio(path))
        with torch.inference_mode():
            if LENGTHS[index] <= WINDOW:
                expected = model.score(wave[None])
            else:
                pieces = [wave[start : start + size] for start, size in cut(len(wave), WINDOW)]
                expected = model.classify(torch.cat([model.embed(piece[None]) for piece in pieces]).mean(0)[None])
        assert found[index] == pytest.approx(expected.item(), rel=1e-4, abs=1e-4), index
    assert np.ptp(list(found.values())) > 1e-2, "scores that are all the same would show nothing"


def test_what_is_beside_an_utterance_changes_no_bit_of_a_repetition(model: SpeechModel, work: Work):
    jobs = list(enumerate(work.jobs()))
    forth = scores_of(score_jobs(model, work, jobs, 0))
    back = scores_of(score_jobs(model, work, jobs[::-1], 0))
    assert forth == back, "a job's scores depend on nothing but the job"


def test_batches_of_more_audio_than_a_cpu_gains_by_are_cut_up(
    model: SpeechModel, work: Work, monkeypatch: pytest.MonkeyPatch
):
    whole = Work(work.paths[:4], np.full(4, 1000.0), 4, 6000)  # as a manifest with wrong durations would have it
    expected = scores_of(score_jobs(model, whole, [(0, [0, 1, 2, 3])], 0))
    sizes: list[int] = []
    embed = model.embed

    def watch(wave: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(wave.size)
        return embed(wave, lengths)

    monkeypatch.setattr(model, "embed", watch)
    monkeypatch.setattr(jobs_module, "CPU_SECONDS", 2 * 5100 / SAMPLE_RATE_HZ)
    assert scores_of(score_jobs(model, whole, [(0, [0, 1, 2, 3])], 0)) == pytest.approx(expected, abs=1e-4)
    assert sizes == [2 * 5100] * 2


def test_a_bad_window_costs_its_utterance_alone(model: SpeechModel, work: Work):
    work.paths[0].write_bytes(work.paths[0].read_bytes()[:3000])
    with closing(score_jobs(model, work, list(enumerate(work.jobs())), 0)) as results:
        found = list(results)
    scored = {index for result in found for index in result.values}
    failed = {index: why for result in found for index, why in result.failed.items()}
    assert scored == {1, 2, 3, 4}
    assert list(failed) == [0]
    assert str(work.paths[0]) in failed[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode(model: SpeechModel, work: Work, training: bool):
    model.train(training)
    with closing(score_jobs(model, work, list(enumerate(work.jobs())), 0)) as results:
        next(results)
        assert not model.training
    assert model.training == training
    model.eval()


def test_a_diverged_model_is_named(model: SpeechModel, work: Work, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "classify", lambda embedding: torch.full((len(embedding),), NAN))
    with pytest.raises(InputError, match=r"\.flac: its score is not finite"):
        scores_of(score_jobs(model, work, [(0, [1])], 0))


def test_throughput_tells_padding_and_waiting(model: SpeechModel, work: Work):
    throughput = Throughput()
    scores_of(score_jobs(model, work, [(0, [1, 3])], 0, throughput))
    assert throughput.audio_seconds == pytest.approx(2200 / SAMPLE_RATE_HZ)
    assert throughput.computed_seconds == pytest.approx(2600 / SAMPLE_RATE_HZ)
    assert 0 < throughput.waiting_seconds < throughput.wall_seconds
    assert "15.4% of what was computed was padding" in str(throughput)
    assert "no audio" in str(Throughput())
    assert throughput.of_all_processes() == throughput
