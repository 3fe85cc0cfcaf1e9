"""A model's graph gives what torch gives: every family and style, pruned and dense, padded, at any length."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encoders import LENGTHS, Once
from exports import CLASSES, export_detector, export_ragged
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.models.backbone import load_transformers
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.onnx.runtime import EMBEDDING, LLR, WAVE, OnnxModel
from hybrid_pruning.models.onnx.runtime import LENGTHS as SIZES
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.scores import score_utterances

TOLERANCE = 1e-4
SHARED = Path(__file__).parents[3] / "shared"


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def compare(model: SpeechModel, found: OnnxModel) -> float:
    """Return the largest error of embeddings; require that scores agree and padding has no influence."""
    shortest, generator = model.minimum_samples, torch.Generator().manual_seed(2)
    worst = 0.0
    for lengths in ([shortest], [5000], [shortest, shortest], list(LENGTHS), [3000, shortest, 5100, 777]):
        wave = torch.randn(len(lengths), max(lengths), generator=generator).numpy()
        expected = model.embed_arrays(wave, np.array(lengths))
        worst = max(worst, relative(expected, found.embed_arrays(wave, np.array(lengths))))
        scores = model.classify_arrays(expected)
        assert relative(scores, found.classify_arrays(expected)) <= TOLERANCE
        feeds = {WAVE: wave, SIZES: np.array(lengths)}
        assert relative(scores, found.session.run([LLR], feeds)[0]) <= TOLERANCE
        for row, length in enumerate(lengths):
            wave[row, length:] = np.nan
        assert relative(expected, found.session.run([EMBEDDING], {**feeds, WAVE: wave})[0]) <= TOLERANCE
    return worst


def test_a_pruned_graph_gives_the_outputs_of_torch(family: str, style: str, once: Once, record) -> None:
    folder = export_ragged(once, family, style)
    error = compare(SpeechModel.from_pretrained(folder), OnnxModel.from_file(folder / "model.onnx"))
    assert record("ONNX = torch", error) <= TOLERANCE


def test_a_dense_graph_gives_the_outputs_of_torch(once: Once) -> None:
    folder = export_detector(once)
    found = OnnxModel.from_file(folder / "onnx" / "model.onnx")
    assert compare(SpeechModel.from_pretrained(folder / "model"), found) <= TOLERANCE


@pytest.mark.soak
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no pretrained encoder here")
def test_real_speech_through_a_pretrained_encoder(tmp_path: Path) -> None:
    backbone = load_transformers(SHARED / "weights" / "whisper-tiny-encoder")
    torch.manual_seed(0)
    model = SpeechModel.build(backbone, HeadConfig(), CLASSES).eval()
    found = OnnxModel.from_file(export_onnx(model, tmp_path / "new"))
    utterances = read_manifest(SHARED / "corpora" / "antispoofing_dev.tsv")[:8]
    expected, scores = (score_utterances(one, utterances, 4, 0) for one in (model, found))
    assert relative(expected, scores) <= TOLERANCE
