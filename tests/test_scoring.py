"""Scores stand in the manifest's order and are each utterance's own, whatever was scored beside it."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import with_telling_weights
from corpus import write_corpus, write_wavlm
from hybrid_pruning.audio import read_audio
from hybrid_pruning.backbone import load_transformers
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.model import Classes, SpeechModel
from hybrid_pruning.scoring import batches_by_length, score_file, score_utterances

NAN = float("nan")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", clips=7, shortest=300)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    backbone = load_transformers(write_wavlm(tmp_path_factory.mktemp("wavlm")))
    with_telling_weights(backbone)
    head = HeadConfig(heads=3, compression=4, embedding=5)
    return SpeechModel.build(backbone, head, Classes(("spoof", "bonafide"), (3, 1))).eval()


@torch.inference_mode()
def alone(model: SpeechModel, utterances: list[Utterance]) -> np.ndarray:
    """Score one utterance after the other, unpadded."""
    waves = [torch.from_numpy(read_audio(utterance.path))[None] for utterance in utterances]
    return np.array([model.score(wave).item() for wave in waves])


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (16, 0), (3, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_scores_do_not_depend_on_the_batch(
    model: SpeechModel, manifest: Path, batch_size: int, workers: int, known: bool
):
    utterances = read_manifest(manifest)
    if not known:
        utterances = [replace(utterance, seconds=NAN) for utterance in utterances]
    found = score_utterances(model, utterances, batch_size, workers)
    np.testing.assert_allclose(found, alone(model, utterances), rtol=1e-4, atol=1e-4)
    assert np.ptp(found) > 1e-2, "scores that are all the same would show nothing"


def test_the_file_is_what_the_challenges_read(model: SpeechModel, manifest: Path, tmp_path: Path):
    scores = score_file(model, manifest, tmp_path / "new" / "scores.tsv", workers=0)
    with (tmp_path / "new" / "scores.tsv").open(newline="") as handle:
        header, *rows = csv.reader(handle, delimiter="\t")
    assert header == ["filename", "cm-score"]
    assert [row[0] for row in rows] == [utterance.utt_id for utterance in read_manifest(manifest)]
    assert [float(row[1]) for row in rows] == scores.tolist()


def test_clips_shorter_than_a_frame_are_scored(model: SpeechModel, tmp_path: Path):
    manifest = write_corpus(tmp_path / "short", clips=2, shortest=10, longest=20)
    assert np.isfinite(score_file(model, manifest, tmp_path / "scores.tsv", workers=0)).all()


@pytest.mark.parametrize("old", [None, "the old scores"])
def test_a_broken_clip_leaves_no_half_written_file(model: SpeechModel, manifest: Path, tmp_path: Path, old: str | None):
    read_manifest(manifest)[4].path.write_text("no audio")
    out = tmp_path / "out" / "scores.tsv"
    if old is not None:
        out.parent.mkdir()
        out.write_text(old)
    with pytest.raises(InputError, match="cannot be decoded"):
        score_file(model, manifest, out, batch_size=2, workers=0)
    assert [path.read_text() for path in out.parent.iterdir()] == ([] if old is None else [old])


def test_a_diverged_model_is_named(model: SpeechModel, manifest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "score", lambda wave, *_: torch.full((len(wave),), NAN))
    with pytest.raises(InputError, match=r"bonafide-00.* is not finite"):
        score_utterances(model, read_manifest(manifest), workers=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("broken", [True, False])
def test_the_model_keeps_its_mode(model: SpeechModel, manifest: Path, training: bool, broken: bool):
    utterances = read_manifest(manifest)
    if broken:
        utterances[0].path.unlink()
    model.train(training)
    try:
        score_utterances(model, utterances, workers=0)
    except InputError:
        assert broken
    assert model.training == training
    model.eval()


@pytest.mark.parametrize(
    ("seconds", "batch_size", "expected"),
    [
        ([1, 3, 2], 2, [[1, 2], [0]]),
        ([1, 1, 1], 2, [[0, 1], [2]]),
        ([NAN, 5, 20], 8, [[2, 0, 1]]),  # unknown ones count as ten seconds
        ([70, 50, 50, 1], 8, [[0], [1, 2], [3]]),
        ([500, 400], 8, [[0], [1]]),
        ([], 8, []),
    ],
)
def test_batches_hold_similar_lengths_and_bounded_audio(seconds: list[float], batch_size: int, expected: list):
    assert batches_by_length(seconds, batch_size) == expected


def test_an_unscorable_manifest_writes_nothing(model: SpeechModel, tmp_path: Path):
    write_manifest(tmp_path / "empty.tsv", [])
    with pytest.raises(InputError, match="no utterances"):
        score_file(model, tmp_path / "empty.tsv", tmp_path / "scores.tsv")
    assert not (tmp_path / "scores.tsv").exists()
