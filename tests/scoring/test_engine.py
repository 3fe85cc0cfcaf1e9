"""Groups hold bounded audio of similar length; a long recording's score is that of its windows' mean embedding."""

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
from hybrid_pruning.scoring import engine as engine_module
from hybrid_pruning.scoring.engine import Engine, GroupResult, Recordings, Throughput, choose_device
from hybrid_pruning.scoring.windows import cut

NAN = float("nan")
WINDOW = 2000
LENGTHS = (5100, 900, 2000, 1300, 23_000)  # 3 windows, whole, whole, whole, 12 windows
NAMES = [Path(str(index)) for index in range(500)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return tiny_detector(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture
def engine(model: SpeechModel) -> Engine:
    return Engine(model, 4, 0, WINDOW / SAMPLE_RATE_HZ)


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    paths = [tmp_path / f"{index}.flac" for index in range(len(LENGTHS))]
    for path, samples in zip(paths, LENGTHS, strict=True):
        soundfile.write(path, noise(samples, seed=samples), SAMPLE_RATE_HZ)
    return Recordings(paths, np.array(LENGTHS, dtype=np.float64))


def run(engine: Engine, recordings: Recordings, groups: dict[int, list[int]] | None = None) -> GroupResult:
    """Return the scores of all groups, and the reasons of failure."""
    with closing(engine.run(recordings, groups or engine.plan(recordings.samples), "scores")) as results:
        found = list(results)
    values = {index: score for result in found for index, score in result.values.items()}
    return GroupResult(0, values, {index: why for result in found for index, why in result.failed.items()})


@pytest.mark.parametrize(
    ("seconds", "batch_size", "expected"),
    [
        ([1, 3, 2], 2, [[1, 2], [0]]),
        ([1, 1, 1], 2, [[0, 1], [2]]),
        ([NAN, 5, 20], 8, [[2, 1]]),  # a file that could not be opened is left out
        ([30, 30, 30, 30, 1], 8, [[0, 1, 2, 3], [4]]),  # 120 s
        ([31, 15, 16], 8, [[2, 0, 1]]),  # 16 s, then twice 15.5 s
        ([31, 15, 16], 3, [[2, 0], [1]]),
        ([500, 25, 400], 8, [[0], [2], [1]]),  # too long for one batch: alone
        ([], 8, []),
    ],
)
def test_groups_hold_similar_lengths_and_bounded_audio(
    model: SpeechModel, seconds: list[float], batch_size: int, expected: list
):
    assert Engine(model, batch_size).plan(np.array(seconds) * SAMPLE_RATE_HZ) == dict(enumerate(expected))


def test_every_window_is_in_one_batch_of_bounded_size(model: SpeechModel):
    samples = np.round(np.random.default_rng(0).lognormal(2, 1.5, len(NAMES)) * SAMPLE_RATE_HZ)
    recordings, engine = Recordings(NAMES, samples), Engine(model)
    groups = [(group, engine.batches(recordings, group)) for group in engine.plan(samples).values()]
    assert all(len(batches) == 1 or len(group) == 1 for group, batches in groups)
    batches = [batch for _, some in groups for batch in some]
    sizes = [len(batch) * max(window.samples for window in batch) for batch in batches]
    assert max(map(len, batches)) <= 16
    assert max(sizes) <= 120 * SAMPLE_RATE_HZ
    seen = [(window.index, window.start, window.samples) for batch in batches for window in batch]
    expected = [(i, *window) for i, length in enumerate(samples) for window in cut(int(length), engine.window)]
    assert sorted(seen) == sorted(expected)
    assert samples.sum() / sum(sizes) > 0.95, "little is padded"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_recording_is_its_windows_mean(model: SpeechModel, recordings: Recordings, workers: int):
    found = run(Engine(model, 4, workers, WINDOW / SAMPLE_RATE_HZ), recordings).values
    for index, path in enumerate(recordings.paths):
        wave = torch.from_numpy(read_audio(path))
        with torch.inference_mode():
            pieces = [wave[start : start + size] for start, size in cut(len(wave), WINDOW)]
            expected = model.classify(torch.cat([model.embed(piece[None]) for piece in pieces]).mean(0)[None])
        assert found[index] == pytest.approx(expected.item(), rel=1e-4, abs=1e-4), index
    assert np.ptp(list(found.values())) > 1e-2, "scores that are all the same would show nothing"


def test_a_crop_is_one_window_somewhere_in_each_recording(model: SpeechModel, recordings: Recordings):
    engine = Engine(model, 4, 0, WINDOW / SAMPLE_RATE_HZ, crops=True)
    samples = np.concatenate([recordings.samples, np.full(200, 10.0 * WINDOW)])
    many = Recordings([*recordings.paths, *NAMES[:200]], samples)
    groups = engine.plan(samples).values()
    found = {window.index: window for group in groups for batch in engine.batches(many, group) for window in batch}
    assert len(found) == len(samples)
    assert all(window.samples == min(WINDOW, samples[index]) for index, window in found.items())
    assert all(window.start + window.samples <= samples[index] for index, window in found.items())
    starts = np.array([found[index].start for index in range(len(LENGTHS), len(samples))]) / (9.0 * WINDOW)
    assert np.histogram(starts, bins=4, range=(0, 1))[0].min() > 30, "anywhere in it"
    scores = run(engine, recordings).values
    for index, path in enumerate(recordings.paths):
        piece = read_audio(path)[found[index].start :][: found[index].samples]
        with torch.inference_mode():
            expected = model.score(torch.from_numpy(piece)[None])
        assert scores[index] == pytest.approx(expected.item(), rel=1e-4, abs=1e-4), index


def test_a_groups_scores_depend_on_nothing_but_the_group(engine: Engine, recordings: Recordings):
    groups = engine.plan(recordings.samples)
    backwards = dict(reversed(groups.items()))
    assert run(engine, recordings, groups) == run(engine, recordings, backwards)


def test_large_batches_are_cut_up_on_a_cpu(model: SpeechModel, recordings: Recordings, monkeypatch: pytest.MonkeyPatch):
    whole = Recordings(recordings.paths[:4], np.full(4, 1000.0))  # as a manifest with wrong durations would have it
    engine = Engine(model, 4, 0, 6000 / SAMPLE_RATE_HZ)
    expected = run(engine, whole).values
    sizes: list[int] = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda wave, lengths: sizes.append(wave.size) or embed(wave, lengths))
    monkeypatch.setattr(engine_module, "CPU_SECONDS", 2 * 5100 / SAMPLE_RATE_HZ)
    assert run(engine, whole).values == pytest.approx(expected, abs=1e-4)
    assert sizes == [2 * 5100] * 2


def test_a_bad_window_costs_its_recording_alone(engine: Engine, recordings: Recordings):
    path = recordings.paths[0]
    path.write_bytes(path.read_bytes()[:3000])
    found = run(engine, recordings)
    assert (set(found.values), set(found.failed)) == ({1, 2, 3, 4}, {0})
    assert str(path) in found.failed[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode(model: SpeechModel, engine: Engine, recordings: Recordings, training: bool):
    model.train(training)
    with closing(engine.run(recordings, engine.plan(recordings.samples), "scores")) as results:
        next(results)
        assert not model.training
    assert model.training == training
    recordings.paths[0].write_text("no audio")
    with pytest.raises(InputError, match="cannot be decoded"):
        engine.run_paths(recordings.paths, "scores")
    assert model.training == training
    model.eval()


@pytest.mark.parametrize(("quantity", "method"), [("scores", "classify"), ("embeddings", "embed")])
def test_a_diverged_model_is_named(
    model: SpeechModel, engine: Engine, recordings: Recordings, monkeypatch: pytest.MonkeyPatch, quantity, method
):
    monkeypatch.setattr(model, method, lambda batch, *_: torch.full((len(batch), 5)[: 1 + (method == "embed")], NAN))
    with pytest.raises(InputError, match=rf"\.flac: its {quantity[:-1]} is not finite; has the training diverged"):
        engine.run_paths(recordings.paths, quantity)


def test_throughput_counts_padding_and_waiting(engine: Engine, recordings: Recordings):
    run(engine, recordings, {0: [1, 3]})
    throughput = engine.throughput
    assert throughput.audio_seconds == pytest.approx(2200 / SAMPLE_RATE_HZ)
    assert throughput.computed_seconds == pytest.approx(2600 / SAMPLE_RATE_HZ)
    assert 0 < throughput.waiting_seconds < throughput.wall_seconds
    assert "15.4% of what was computed was padding" in str(throughput)
    assert "no audio" in str(Throughput())
    assert throughput.of_all_processes() == throughput


def test_devices_are_checked():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device 'gpu' is unknown; expected one of auto, cpu, cuda, mps"):
        choose_device("gpu")
    for name in ("cuda:99", "cuda:x", "mps"):
        if name != "mps" or not torch.backends.mps.is_available():
            with pytest.raises(InputError, match=f"device '{name}' cannot be used here"):
                choose_device(name)
