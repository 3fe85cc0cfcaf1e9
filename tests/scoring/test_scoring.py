"""Scores stand in the manifest's order and are each utterance's own, for any sharing or interruption of the work."""

import csv
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import files_below, score_utterances, tiny_detector, write_corpus
from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import read_audio
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.resume import Partial
from hybrid_pruning.scoring.scores import embed_paths, score, score_paths
from runs import finish, ranks, run_command, start

NAN = float("nan")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", clips=7, shortest=300)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return tiny_detector(tmp_path_factory.mktemp("wavlm"))


def scores_in(path: Path) -> list[float]:
    return [float(row.split("\t")[1]) for row in path.read_text().splitlines()[1:]]


@torch.inference_mode()
def alone(model: SpeechModel, utterances: list[Utterance]) -> np.ndarray:
    """Score one utterance after the other, unpadded."""
    waves = [torch.from_numpy(read_audio(utterance.path))[None] for utterance in utterances]
    return np.array([model.score(wave).item() for wave in waves])


@pytest.mark.parametrize(
    ("batch_size", "workers", "known"), [(1, 0, True), (3, 0, False), (16, 0, True), (3, 2, True), (3, 2, False)]
)
def test_scores_do_not_depend_on_the_batch(
    model: SpeechModel, manifest: Path, batch_size: int, workers: int, known: bool
):
    utterances = read_manifest(manifest)
    if not known:
        utterances = [replace(utterance, seconds=NAN) for utterance in utterances]
    found = score_utterances(model, utterances, batch_size, workers)
    np.testing.assert_allclose(found, alone(model, utterances), rtol=1e-4, atol=1e-4)
    assert np.ptp(found) > 1e-2, "scores that are all the same would show nothing"


def test_scores_are_made_of_embeddings(model: SpeechModel, manifest: Path):
    utterances = read_manifest(manifest)
    paths = [utterance.path for utterance in utterances]
    scored = score_paths(model, [str(path) for path in paths], workers=0)
    np.testing.assert_array_equal(scored, score_utterances(model, utterances, workers=0), "durations are not needed")
    assert score_paths(model, []).tolist() == []
    found = embed_paths(model, paths, 3, 0, window_seconds=0.125)
    assert found.shape == (len(paths), model.head.embedding_width)
    with torch.inference_mode():
        scores = model.classify(torch.from_numpy(found).float()).numpy()
    np.testing.assert_allclose(scores, score_paths(model, paths, 3, 0, window_seconds=0.125), atol=1e-6)
    assert embed_paths(model, []).shape == (0, model.head.embedding_width)


def test_the_file_has_the_form_of_the_challenges(model: SpeechModel, manifest: Path, tmp_path: Path):
    found = score(model, manifest, tmp_path / "new" / "scores.tsv", workers=0)
    with found.path.open(newline="") as handle:
        header, *rows = csv.reader(handle, delimiter="\t")
    assert header == ["filename", "cm-score"]
    assert [row[0] for row in rows] == [utterance.utt_id for utterance in read_manifest(manifest)]
    assert [float(row[1]) for row in rows] == found.scores.tolist()
    assert (found.left_out, found.recordings, found.backend) == (0, 7, None)
    assert found.engine.throughput.audio_seconds == pytest.approx(
        sum(u.seconds for u in read_manifest(manifest)), abs=1e-3
    )
    assert [path.name for path in files_below(tmp_path / "new")] == ["scores.tsv"]


def test_short_clips_are_scored_and_an_empty_manifest_is_refused(model: SpeechModel, tmp_path: Path):
    manifest = write_corpus(tmp_path / "short", clips=2, shortest=10, longest=20)  # shorter than a frame
    assert np.isfinite(score(model, manifest, manifest.parent / "scores.tsv", workers=0).scores).all()
    shutil.rmtree(manifest.parent)
    write_manifest(tmp_path / "empty.tsv", [])
    with pytest.raises(InputError, match="no utterances"):
        score(model, tmp_path / "empty.tsv", tmp_path / "scores.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.tsv"]


@pytest.mark.parametrize(("known", "old"), [(True, None), (False, "the old scores")], ids=["by decoding", "by header"])
def test_a_bad_clip_is_reported_once_all_others_are_scored(
    model: SpeechModel, manifest: Path, tmp_path: Path, known: bool, old: str | None, monkeypatch: pytest.MonkeyPatch
):
    if not known:
        write_manifest(manifest, [replace(utterance, seconds=NAN) for utterance in read_manifest(manifest)])
    out, bad = tmp_path / "out" / "scores.tsv", read_manifest(manifest)[4]
    expected = score(model, manifest, tmp_path / "expected.tsv", batch_size=2, workers=0).scores
    good = bad.path.read_bytes()
    bad.path.write_text("no audio")
    if old is not None:
        out.parent.mkdir()
        out.write_text(old)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            score(model, manifest, out, batch_size=2, workers=0)
        assert str(caught.value).startswith(f"{bad.path}: cannot be decoded")
        assert f"; 1 of 7 files cannot be scored and are listed in {out}.failed.tsv; " in str(caught.value)
        assert (out.read_text() if out.exists() else None) == old
        rows = (tmp_path / "out" / "scores.tsv.failed.tsv").read_text().splitlines()
        assert [row.split("\t")[:2] for row in rows] == [["utt_id", "path"], [bad.utt_id, str(bad.path)]]
    bad.path.write_bytes(good)
    embedded: list[int] = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda wave, lengths=None: embedded.append(len(wave)) or embed(wave, lengths))
    scores = score(model, manifest, out, batch_size=2, workers=0).scores
    assert embedded == [1], "the mended clip alone is left to do"
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert [path.name for path in files_below(out.parent)] == ["scores.tsv"]


@pytest.mark.parametrize("seconds", [1.5, 40.0], ids=["found when decoding", "found in the header"])
def test_a_wrong_duration_is_refused_every_time(model: SpeechModel, manifest: Path, tmp_path: Path, seconds: float):
    utterances = read_manifest(manifest)
    utterances[4] = replace(utterances[4], seconds=seconds)
    write_manifest(manifest, utterances)
    for _ in range(3):
        with pytest.raises(InputError, match=f"its manifest says {seconds:.3f}.*1 of 7 files cannot be scored"):
            score(model, manifest, tmp_path / "scores.tsv", workers=0)


def test_bad_clips_can_be_left_out(model: SpeechModel, manifest: Path, tmp_path: Path):
    utterances = read_manifest(manifest)
    for index in (1, 6):
        utterances[index].path.unlink()
    out = tmp_path / "out" / "scores.tsv"
    found = score(model, manifest, out, workers=0, skip_bad=True)
    assert np.flatnonzero(np.isnan(found.scores)).tolist() == [1, 6]
    assert (found.left_out, found.recordings) == (2, 5)
    written = [row.split("\t")[0] for row in out.read_text().splitlines()[1:]]
    assert written == [u.utt_id for index, u in enumerate(utterances) if index not in (1, 6)]
    assert [path.name for path in files_below(out.parent)] == ["scores.tsv", "scores.tsv.failed.tsv"]


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_an_interrupted_scoring_goes_on_where_it_was(
    model: SpeechModel, manifest: Path, tmp_path: Path, finished: int, monkeypatch: pytest.MonkeyPatch
):
    expected, out = tmp_path / "expected.tsv", tmp_path / "out" / "scores.tsv"
    score(model, manifest, expected, batch_size=2, workers=0)
    add, added, failing = Partial.add, list[int](), [True]

    def fail(partial: Partial, result: Any) -> None:
        if failing and len(added) == finished:
            raise KeyboardInterrupt
        added.append(result.number)
        add(partial, result)

    monkeypatch.setattr(Partial, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        score(model, manifest, out, batch_size=2, workers=0)
    failing.clear()
    score(model, manifest, out, batch_size=2, workers=0)
    assert out.read_bytes() == expected.read_bytes()
    assert sorted(added) == [0, 1, 2, 3], "nothing is done twice"
    assert [path.name for path in files_below(out.parent)] == ["scores.tsv"]


def test_another_models_scores_are_not_taken_up(
    model: SpeechModel, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    read_manifest(manifest)[4].path.unlink()
    with pytest.raises(InputError, match="no such file"):
        score(model, manifest, tmp_path / "scores.tsv", workers=0)
    other = tiny_detector(tmp_path / "other", hidden_size=40)
    found = score(other, manifest, tmp_path / "scores.tsv", workers=0, skip_bad=True).scores
    assert "scores.tsv.partial: is of another model; starting anew" in capsys.readouterr().out
    expected = alone(other, [u for index, u in enumerate(read_manifest(manifest)) if index != 4])
    np.testing.assert_allclose(found[np.isfinite(found)], expected, atol=1e-4)


@pytest.fixture(scope="module")
def world(model: SpeechModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a manifest of twelve clips and their scores, each in a batch of its own."""
    folder = tmp_path_factory.mktemp("world")
    model.save_pretrained(folder / "model")
    score(model, write_corpus(folder / "corpus", clips=12), folder / "expected.tsv", 1, 0)
    return folder


def score_command(world: Path, out: Path) -> list[str]:
    inputs = [str(world / "model"), str(world / "corpus" / "manifest.tsv")]
    return ["score", *inputs, "--batch-size", "1", "--workers", "0", "--out", str(out)]


def score_until_killed(*arguments: str) -> None:
    """Score by the command line, and be killed once five results are kept."""
    add, first = Partial.add, iter(range(4))

    def kill(partial: Partial, result: Any) -> None:
        add(partial, result)
        if next(first, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    Partial.add = kill  # type: ignore[method-assign]
    run_command(*arguments)


def test_a_killed_scoring_goes_on_bit_for_bit(
    model: SpeechModel, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "scores.tsv"
    killed = start(score_until_killed, score_command(world, out), tmp_path / "printed.txt")
    assert finish(killed, seconds=240) == [-signal.SIGKILL], (tmp_path / "printed.txt").read_text()
    assert (tmp_path / "scores.tsv.partial" / "results-0.jsonl").read_text().count('"job"') == 5
    assert not out.exists()
    score(model, world / "corpus" / "manifest.tsv", out, 1, 0)
    assert "going on after 5 of 12 batches" in capsys.readouterr().out
    assert out.read_bytes() == (world / "expected.tsv").read_bytes()
    assert [path.name for path in files_below(tmp_path)] == ["printed.txt", "scores.tsv"]


def score_in_both_ways(*arguments: str) -> None:
    """Score in memory, as a training does, and as the command line does."""
    processes.start()
    scores = score_utterances(SpeechModel.from_pretrained(arguments[1]), read_manifest(arguments[2]), 1, 0)
    np.save(f"{arguments[-1]}.{processes.rank()}.npy", scores)
    run_command(*arguments)


def test_several_processes_find_the_same_scores(world: Path, tmp_path: Path):
    out = tmp_path / "scores.tsv"
    codes = finish(*ranks(score_in_both_ways, score_command(world, out), tmp_path))
    printed = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert codes == [0, 0], printed
    assert out.read_bytes() == (world / "expected.tsv").read_bytes()
    for rank in range(2):
        found = np.load(f"{out}.{rank}.npy").tolist()
        assert found == scores_in(out), "to every process, as a training needs it"
    assert printed[0].count("12 scores; next: hybrid-pruning evaluate") == 1
    assert printed[0].count("times real time") == 1
    assert printed[1] == "", "the main process alone prints"
    assert not (tmp_path / "scores.tsv.partial").exists()


def test_a_bad_clip_ends_several_processes_with_one_line(world: Path, tmp_path: Path):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    bad = read_manifest(tmp_path / "corpus" / "manifest.tsv")[4].path
    bad.write_text("no audio")
    codes = finish(*ranks(run_command, score_command(tmp_path, tmp_path / "scores.tsv"), tmp_path))
    printed = "".join((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert codes == [2, 2], printed
    (line,) = [line for line in printed.splitlines() if line.startswith("hybrid-pruning: ")]
    assert f"{bad.name}: cannot be decoded" in line
    kept = [path.read_text().splitlines() for path in sorted((tmp_path / "scores.tsv.partial").glob("*.jsonl"))]
    assert [len(rows) for rows in kept] == [6, 6], "both did their share"
    results = [json.JSONDecoder().raw_decode(row)[0] for rows in kept for row in rows]  # a checksum stands behind it
    scores = {index: score for row in results for index, score in row["values"].items()}
    expected = scores_in(world / "expected.tsv")
    assert scores == {str(index): score for index, score in enumerate(expected) if index != 4}
