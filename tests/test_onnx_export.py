"""A model's graph gives what torch gives: every family and style, dense and ragged, padded, at any length."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import LENGTHS, MakeBackbone, close, shuffle
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.models.backbone import load_transformers
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.classifier import Classes
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.onnx.runtime import EMBEDDING, LLR, WAVE, OnnxModel
from hybrid_pruning.models.onnx.runtime import LENGTHS as SIZES
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import attach, shrink
from hybrid_pruning.scoring.scores import score_utterances

TOLERANCE = 1e-4
SHARED = Path(__file__).parents[2] / "shared"
HEAD = HeadConfig(heads=4, compression=8, embedding=16)
CLASSES = Classes(("bonafide", "spoof"), (3, 5))
CALIBRATION = Calibration((Fit(1.5, -0.3, 0.5, "scores.tsv", "keys.tsv", "", 1, 1),))


@pytest.fixture(params=["dense", "ragged"])
def model(request: pytest.FixtureRequest, make_backbone: MakeBackbone) -> SpeechModel:
    backbone = make_backbone(num_hidden_layers=2)
    if request.param == "ragged":
        gates = attach(backbone)
        shuffle(gates, seed=0)
        close(gates, "attlayer.1", "ffnlayer.0")
        close(gates, "conv.0", share=0.3)
        backbone = shrink(backbone, gates)
    torch.manual_seed(0)
    return SpeechModel.build(backbone, HEAD, CLASSES, calibration=CALIBRATION).eval()


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def test_the_graph_gives_what_torch_gives(model: SpeechModel, tmp_path: Path, record) -> None:
    found = OnnxModel.from_file(export_onnx(model, tmp_path / "new"))
    shortest, generator = model.minimum_samples, torch.Generator().manual_seed(2)
    for lengths in ([shortest], [5000], [shortest, shortest], list(LENGTHS), [3000, shortest, 5100, 777]):
        wave = torch.randn(len(lengths), max(lengths), generator=generator).numpy()
        expected = model.embed_arrays(wave, np.array(lengths))
        embeddings = found.embed_arrays(wave, np.array(lengths))
        assert record("ONNX = torch", relative(expected, embeddings)) <= TOLERANCE
        scores = model.classify_arrays(expected)
        assert relative(scores, found.classify_arrays(expected)) <= TOLERANCE
        feeds = {WAVE: wave, SIZES: np.array(lengths)}
        assert relative(scores, found.session.run([LLR], feeds)[0]) <= TOLERANCE
        for row, length in enumerate(lengths):
            wave[row, length:] = np.nan
        assert relative(expected, found.session.run([EMBEDDING], {**feeds, WAVE: wave})[0]) <= TOLERANCE


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no pretrained encoder here")
def test_real_speech_through_a_pretrained_encoder(tmp_path: Path) -> None:
    backbone = load_transformers(SHARED / "weights" / "whisper-tiny-encoder")
    torch.manual_seed(0)
    model = SpeechModel.build(backbone, HeadConfig(), CLASSES).eval()
    found = OnnxModel.from_file(export_onnx(model, tmp_path / "new"))
    utterances = read_manifest(SHARED / "corpora" / "antispoofing_dev.tsv")[:8]
    expected, scores = (score_utterances(one, utterances, 4, 0) for one in (model, found))
    assert relative(expected, scores) <= TOLERANCE
