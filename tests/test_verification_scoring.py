"""A list of trials scored from recordings: as one would by hand, resumed, cached, in several processes."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import files_below
from hybrid_pruning.audio import read_audio
from hybrid_pruning.data.manifest import read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring import inference
from hybrid_pruning.scoring.inference import Options
from hybrid_pruning.scoring.verification.embeddings import Embeddings
from hybrid_pruning.scoring.verification.extraction import embed_file
from hybrid_pruning.scoring.verification.trial_scores import Request, make_cohort, score_trials
from test_scoring import TORCHRUN, run
from voices import EMBEDDING, tiny_verifier, write_speakers, write_voxceleb_trials

HERE = Options(batch_size=3, workers=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return tiny_verifier(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_speakers(tmp_path / "test", 3, 2)


@pytest.fixture
def request_(tmp_path: Path, manifest: Path) -> Request:
    return Request(manifest, write_voxceleb_trials(tmp_path / "trials", 3, 2))


@torch.inference_mode()
def embed_alone(model: SpeechModel, manifest: Path) -> dict[str, np.ndarray]:
    utterances = read_manifest(manifest)
    waves = [torch.from_numpy(read_audio(utterance.path))[None] for utterance in utterances]
    return {u.utt_id: model.embed(wave)[0].double().numpy() for u, wave in zip(utterances, waves, strict=True)}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as handle:
        return list(csv.reader(handle, delimiter="\t"))


def test_scores_are_the_cosines_in_the_lists_order(model: SpeechModel, request_: Request, tmp_path: Path):
    found = score_trials(model, request_, tmp_path / "out" / "scores.tsv", options=HERE)
    header, *lines = rows(tmp_path / "out" / "scores.tsv")
    assert header == ["enrol", "test", "score"]
    listed = [line.split() for line in request_.trials.read_text().splitlines()]
    assert [line[:2] for line in lines] == [pair[1:] for pair in listed], "names as they stand in the list"
    alone = embed_alone(model, request_.manifest)
    unit = {f"{name}.wav": vector / np.linalg.norm(vector) for name, vector in alone.items()}
    expected = [unit[enrol] @ unit[test] for _, enrol, test in listed]
    np.testing.assert_allclose([float(line[2]) for line in lines], expected, atol=1e-5)
    np.testing.assert_array_equal(found.scores, [float(line[2]) for line in lines])
    assert np.ptp(expected) > 1e-2, "scores that are all the same would show nothing"
    assert (found.left_out, found.recordings, len(lines)) == (0, 6, 16), "the trial that stands twice is there twice"
    assert [path.name for path in files_below(tmp_path / "out")] == ["scores.tsv"]
    assert evaluate(tmp_path / "out" / "scores.tsv", request_.trials, "sv").metrics["n_target"] == 4


def test_a_long_recording_is_its_windows_mean(model: SpeechModel, manifest: Path, tmp_path: Path):
    short = replace(HERE, window_seconds=0.1)
    whole, cut = (embed_file(model, manifest, tmp_path / f"{o.window_seconds}", o) for o in (HERE, short))
    wave = torch.from_numpy(read_audio(read_manifest(manifest)[0].path))
    long = np.array([utterance.seconds > 0.1 for utterance in read_manifest(manifest)])
    assert len(wave) > 1600 or not long[0]
    assert 0 < long.sum() < 6
    different = abs(whole.vectors - cut.vectors).max(axis=1) > 1e-4
    np.testing.assert_array_equal(different, long)
    np.testing.assert_allclose(whole.seconds, [u.seconds for u in read_manifest(manifest)], atol=1e-3)


def test_a_file_of_embeddings_is_read_back(model: SpeechModel, manifest: Path, tmp_path: Path):
    found = embed_file(model, manifest, tmp_path / "e", HERE)
    read = Embeddings.read(tmp_path / "e")
    assert read.ids == found.ids == [utterance.utt_id for utterance in read_manifest(manifest)]
    assert read.vectors.dtype == np.float32
    assert read.vectors.shape == (6, EMBEDDING)
    np.testing.assert_array_equal(read.vectors, found.vectors)
    np.testing.assert_array_equal(read.seconds, found.seconds)


def test_what_a_cache_has_is_not_embedded_again(
    model: SpeechModel, request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    utterances = read_manifest(request_.manifest)
    write_manifest(tmp_path / "some.tsv", utterances[:4])
    first = embed_file(model, tmp_path / "some.tsv", tmp_path / "e", HERE)
    score_trials(model, replace(request_, cache=tmp_path / "e"), tmp_path / "one.tsv", options=HERE)
    both = Embeddings.read(tmp_path / "e")
    assert both.ids == [utterance.utt_id for utterance in utterances]
    np.testing.assert_array_equal(both.vectors[:4], first.vectors)
    monkeypatch.setattr(model, "embed", lambda *_: pytest.fail("all is there"))
    model.calibration = Calibration((Fit(2.0, 1.0, 0.5, "s", "k", "", 1, 1),))
    score_trials(model, replace(request_, cache=tmp_path / "e"), tmp_path / "two.tsv", options=HERE)
    model.calibration = None
    one, two = ([float(line[2]) for line in rows(tmp_path / name)[1:]] for name in ("one.tsv", "two.tsv"))
    np.testing.assert_allclose(two, 2 * np.array(one) + 1)
    with pytest.raises(InputError, match=r"e: holds embeddings of another model, or in windows of another length"):
        embed_file(model, request_.manifest, tmp_path / "e", replace(HERE, window_seconds=5.0))


def test_another_recording_of_the_same_name_is_told(model: SpeechModel, manifest: Path, tmp_path: Path):
    embed_file(model, manifest, tmp_path / "e", HERE)
    shutil.copytree(manifest.parent, tmp_path / "copy")
    with pytest.raises(InputError, match=r"e: 'id00000/00' is .*test/id00000/00.wav there, not .*copy/id00000/00.wav"):
        embed_file(model, tmp_path / "copy" / "manifest.tsv", tmp_path / "e", HERE)


@pytest.mark.parametrize("content", [b"", b"text", b"\x02" + b"\0" * 7 + b"{}"])
def test_what_is_no_file_of_embeddings_is_left_alone(
    model: SpeechModel, manifest: Path, tmp_path: Path, content: bytes
):
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(InputError, match=r"e: holds no embeddings of ours"):
        embed_file(model, manifest, tmp_path / "e", HERE)
    assert (tmp_path / "e").read_bytes() == content


def test_an_interrupted_embedding_goes_on(
    model: SpeechModel,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    expected = embed_file(model, manifest, tmp_path / "expected", HERE)
    add = inference.Partial.add

    def fail(partial: inference.Partial, result: object) -> None:
        add(partial, result)
        raise KeyboardInterrupt

    monkeypatch.setattr(inference.Partial, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        embed_file(model, manifest, tmp_path / "e", HERE)
    monkeypatch.setattr(inference.Partial, "add", add)
    found = embed_file(model, manifest, tmp_path / "e", HERE)
    assert "going on after 1 of 2 batches" in capsys.readouterr().out
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert (tmp_path / "e").read_bytes() == (tmp_path / "expected").read_bytes()
    assert not (tmp_path / "e.partial").exists()


def test_trials_of_bad_audio_are_left_out_where_that_is_asked_for(
    model: SpeechModel, request_: Request, tmp_path: Path
):
    expected = score_trials(model, request_, tmp_path / "all.tsv", options=HERE)
    read_manifest(request_.manifest)[0].path.write_text("no audio")
    with pytest.raises(
        InputError, match=r"1 of 6 files cannot be embedded and are listed in .*s.tsv.failed.tsv; the emb"
    ):
        score_trials(model, request_, tmp_path / "s.tsv", options=HERE)
    assert not (tmp_path / "s.tsv").exists()
    found = score_trials(model, request_, tmp_path / "s.tsv", options=replace(HERE, skip_bad=True))
    assert found.left_out == 5
    lines = rows(tmp_path / "s.tsv")[1:]
    assert lines == [line for line in rows(tmp_path / "all.tsv")[1:] if "id00000/00.wav" not in line[:2]]
    assert len(expected.scores) == len(lines) + 5
    request_.trials.write_text("1 id00000/00 id00000/00\n")
    with pytest.raises(InputError, match="no trial is left"):
        score_trials(model, request_, tmp_path / "s.tsv", options=replace(HERE, skip_bad=True))


def test_a_diverged_model_is_named(model: SpeechModel, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "embed", lambda wave, _: torch.full((len(wave), EMBEDDING), float("nan")))
    with pytest.raises(InputError, match=r"\.wav: its embedding is not finite"):
        embed_file(model, manifest, tmp_path / "e", HERE)


def test_a_model_with_a_cohort_and_a_calibration_survives_the_disk(
    model: SpeechModel, request_: Request, tmp_path: Path
):
    train = write_speakers(tmp_path / "train", 5, 2, seed=1, prefix="tr")
    folder = tmp_path / "model"
    model.cohort = make_cohort(model, train, tmp_path / "c", 4, options=HERE)
    model.calibration = Calibration((Fit(2.0, 1.0, 0.5, "s", "k", "", 1, 1, {"impostor-mean-min": -1.0}),))
    model.save_pretrained(folder)
    expected = score_trials(model, request_, tmp_path / "one.tsv", options=HERE).scores
    model.cohort = model.calibration = None
    read = SpeechModel.from_pretrained(folder)
    assert read.cohort is not None
    assert (read.cohort.top_n, read.cohort.source, read.cohort.speakers.shape) == (4, train.name, (5, EMBEDDING))
    found = score_trials(read, request_, tmp_path / "two.tsv", options=HERE).scores
    np.testing.assert_allclose(found, expected, atol=1e-5)
    read.cohort = None
    with pytest.raises(InputError, match="calibrated by how close its cohort comes, but has none"):
        score_trials(read, request_, tmp_path / "three.tsv", options=HERE)


def test_several_processes_find_the_same(model: SpeechModel, request_: Request, tmp_path: Path):
    model.save_pretrained(tmp_path / "model")
    expected = score_trials(model, request_, tmp_path / "one.tsv", options=Options(batch_size=1, workers=0))
    command = ["score", "model", str(request_.manifest), "--trials", "trials", "--out", "two.tsv", "--batch-size", "1"]
    command += ["--embeddings", "e", "--workers", "0"]
    found = run([*TORCHRUN, "-m", "hybrid_pruning.cli", *command], tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "two.tsv").read_bytes() == (tmp_path / "one.tsv").read_bytes()
    assert len(expected.scores) == 16
    assert found.stdout.count("16 scores of 6 recordings (cosine, not calibrated)") == 1
    assert Embeddings.read(tmp_path / "e").vectors.shape == (6, EMBEDDING)
    shutil.rmtree(tmp_path / "model")
