"""A list of trials scored from recordings: by their definition, resumed, cached, in several processes."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hybrid_pruning as hp
from corpus import files_below
from hybrid_pruning.audio import read_audio
from hybrid_pruning.data.manifest import read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.embeddings import Embeddings
from hybrid_pruning.scoring.resume import Partial
from runs import finish, ranks, run_command
from speakers import EMBEDDING, tiny_verifier, write_speakers, write_voxceleb_trials

HERE: dict[str, Any] = {"batch_size": 3, "workers": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return tiny_verifier(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_speakers(tmp_path / "test", 3, 2)


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    return write_voxceleb_trials(tmp_path / "trials", 3, 2)


@torch.inference_mode()
def embed_alone(model: SpeechModel, manifest: Path) -> dict[str, np.ndarray]:
    utterances = read_manifest(manifest)
    waves = [torch.from_numpy(read_audio(utterance.path))[None] for utterance in utterances]
    return {u.utt_id: model.embed(wave)[0].double().numpy() for u, wave in zip(utterances, waves, strict=True)}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as handle:
        return list(csv.reader(handle, delimiter="\t"))


def test_scores_are_the_cosines_in_the_lists_order(model: SpeechModel, manifest: Path, trials: Path, tmp_path: Path):
    found = hp.score(model, manifest, tmp_path / "out" / "scores.tsv", trials=trials, **HERE)
    header, *lines = rows(found.path)
    assert header == ["enrol", "test", "score"]
    listed = [line.split() for line in trials.read_text().splitlines()]
    assert [line[:2] for line in lines] == [pair[1:] for pair in listed], "names as they stand in the list"
    alone = embed_alone(model, manifest)
    unit = {f"{name}.wav": vector / np.linalg.norm(vector) for name, vector in alone.items()}
    expected = [unit[enrol] @ unit[test] for _, enrol, test in listed]
    np.testing.assert_allclose([float(line[2]) for line in lines], expected, atol=1e-5)
    np.testing.assert_array_equal(found.scores, [float(line[2]) for line in lines])
    assert np.ptp(expected) > 1e-2, "scores that are all the same would show nothing"
    assert (found.left_out, found.recordings, len(lines)) == (0, 6, 16), "the trial that stands twice is there twice"
    assert str(found.backend) == "cosine, not calibrated"
    assert [path.name for path in files_below(tmp_path / "out")] == ["scores.tsv"]
    assert evaluate(found.path, trials, "sv").metrics["n_target"] == 4


def test_a_file_of_embeddings_is_read_back(model: SpeechModel, manifest: Path, tmp_path: Path):
    found, read = hp.embed(model, manifest, tmp_path / "e", **HERE), Embeddings.read(tmp_path / "e")
    assert read.ids == found.ids == [utterance.utt_id for utterance in read_manifest(manifest)]
    assert (read.vectors.dtype, read.vectors.shape) == (np.float32, (6, EMBEDDING))
    np.testing.assert_array_equal(read.vectors, found.vectors)
    np.testing.assert_array_equal(read.seconds, found.seconds)
    np.testing.assert_allclose(found.seconds, [utterance.seconds for utterance in read_manifest(manifest)], atol=1e-3)
    different = hp.embed(model, manifest, tmp_path / "cut", window_seconds=0.1, **HERE).vectors - found.vectors
    np.testing.assert_array_equal(abs(different).max(axis=1) > 1e-4, found.seconds > 0.1)


def test_cached_recordings_are_not_embedded_again(
    model: SpeechModel, manifest: Path, trials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    utterances, cached = read_manifest(manifest), {**HERE, "trials": trials, "embeddings": tmp_path / "e"}
    write_manifest(tmp_path / "some.tsv", utterances[:4])
    first = hp.embed(model, tmp_path / "some.tsv", tmp_path / "e", **HERE)
    one = hp.score(model, manifest, tmp_path / "one.tsv", **cached).scores
    both = Embeddings.read(tmp_path / "e")
    assert both.ids == [utterance.utt_id for utterance in utterances]
    np.testing.assert_array_equal(both.vectors[:4], first.vectors)
    monkeypatch.setattr(model, "embed", lambda *_: pytest.fail("all is there"))
    monkeypatch.setattr(model, "calibration", Calibration((Fit(2.0, 1.0, 0.5, "s", "k", "", 1, 1),)))
    two = hp.score(model, manifest, tmp_path / "two.tsv", **cached).scores
    np.testing.assert_allclose(two, 2 * one + 1)
    with pytest.raises(InputError, match=r"e: holds embeddings of another model, or in windows of another length"):
        hp.embed(model, manifest, tmp_path / "e", window_seconds=5.0, **HERE)


def test_another_recording_of_the_same_name_is_refused(model: SpeechModel, manifest: Path, tmp_path: Path):
    hp.embed(model, manifest, tmp_path / "e", **HERE)
    shutil.copytree(manifest.parent, tmp_path / "copy")
    with pytest.raises(InputError, match=r"e: 'id00000/00' is .*test/id00000/00.wav there, not .*copy/id00000/00.wav"):
        hp.embed(model, tmp_path / "copy" / "manifest.tsv", tmp_path / "e", **HERE)


@pytest.mark.parametrize("content", [b"", b"text", b"\x02" + b"\0" * 7 + b"{}"])
def test_another_file_is_not_written_over_by_embeddings(
    model: SpeechModel, manifest: Path, tmp_path: Path, content: bytes
):
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(InputError, match=r"e: holds no embeddings of ours"):
        hp.embed(model, manifest, tmp_path / "e", **HERE)
    assert (tmp_path / "e").read_bytes() == content


def test_an_interrupted_embedding_goes_on(
    model: SpeechModel, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    expected, add = hp.embed(model, manifest, tmp_path / "expected", **HERE), Partial.add

    def fail(partial: Partial, result: Any) -> None:
        add(partial, result)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Partial, "add", fail)
        with pytest.raises(KeyboardInterrupt):
            hp.embed(model, manifest, tmp_path / "e", **HERE)
    found = hp.embed(model, manifest, tmp_path / "e", **HERE)
    assert "going on after 1 of 2 batches" in capsys.readouterr().out
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert (tmp_path / "e").read_bytes() == (tmp_path / "expected").read_bytes()
    assert not (tmp_path / "e.partial").exists()


def test_trials_of_bad_audio_are_left_out_on_request(model: SpeechModel, manifest: Path, trials: Path, tmp_path: Path):
    out = tmp_path / "s.tsv"
    expected = rows(hp.score(model, manifest, tmp_path / "all.tsv", trials=trials, **HERE).path)
    read_manifest(manifest)[0].path.write_text("no audio")
    with pytest.raises(InputError, match=r"1 of 6 files cannot be embedded and are listed in .*s.tsv.failed.tsv; the"):
        hp.score(model, manifest, out, trials=trials, **HERE)
    assert not out.exists()
    found = hp.score(model, manifest, out, trials=trials, skip_bad=True, **HERE)
    assert (found.left_out, len(found.scores)) == (5, 11)
    assert rows(out) == [line for line in expected if "id00000/00.wav" not in line[:2]]
    trials.write_text("1 id00000/00 id00000/00\n")
    with pytest.raises(InputError, match="no trial is left"):
        hp.score(model, manifest, out, trials=trials, skip_bad=True, **HERE)


def test_a_model_with_a_cohort_and_a_calibration_is_read_back(
    model: SpeechModel, manifest: Path, trials: Path, tmp_path: Path
):
    train = write_speakers(tmp_path / "train", 5, 2, seed=1, prefix="tr")
    folder, options = tmp_path / "model", {**HERE, "trials": trials}
    model.save_pretrained(folder)
    cohort = hp.add_cohort(folder, train, top_n=4, **HERE)
    loaded = SpeechModel.from_pretrained(folder)
    loaded.calibration = Calibration((Fit(2.0, 1.0, 0.5, "s", "k", "", 1, 1, {"impostor-mean-min": -1.0}),))
    loaded.save_pretrained(folder)
    expected = hp.score(loaded, manifest, tmp_path / "one.tsv", **options).scores
    read = SpeechModel.from_pretrained(folder)
    assert read.cohort is not None
    assert (read.cohort.top_n, read.cohort.source, read.cohort.speakers.shape) == (4, train.name, (5, EMBEDDING))
    np.testing.assert_array_equal(read.cohort.speakers, cohort.speakers)
    crops = {**HERE, "top_n": 4, "crop_seconds": 0.05, "unit_length": False}
    once, again = (hp.add_cohort(folder, train, tmp_path / name, **crops) for name in ("once", "again"))
    np.testing.assert_array_equal(once.speakers, again.speakers, err_msg="random crops are the same at every call")
    assert not np.allclose(once.mean, cohort.mean)
    np.testing.assert_allclose(hp.score(read, manifest, tmp_path / "two.tsv", **options).scores, expected, atol=1e-5)
    read.cohort = None
    with pytest.raises(InputError, match="calibrated by how close its cohort comes, but has none"):
        hp.score(read, manifest, tmp_path / "three.tsv", **options)


def test_several_processes_find_the_same(model: SpeechModel, manifest: Path, trials: Path, tmp_path: Path):
    model.save_pretrained(tmp_path / "model")
    hp.score(model, manifest, tmp_path / "one.tsv", batch_size=1, workers=0, trials=trials)
    out, kept = tmp_path / "two.tsv", tmp_path / "e"
    command = ["score", str(tmp_path / "model"), str(manifest), "--trials", str(trials), "--out", str(out)]
    command += ["--batch-size", "1", "--embeddings", str(kept), "--workers", "0"]
    codes = finish(*ranks(run_command, command, tmp_path))
    printed = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert codes == [0, 0], printed
    assert out.read_bytes() == (tmp_path / "one.tsv").read_bytes()
    assert printed[0].count("16 scores of 6 recordings (cosine, not calibrated)") == 1
    assert printed[1] == ""
    assert Embeddings.read(kept).vectors.shape == (6, EMBEDDING)
