"""An .onnx file gives the outputs of torch and is run as an artifact is, windows and all; torch is not imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from corpus import score_utterances, tiny_detector
from encoders import LENGTHS, REPRESENTATIVE, Once
from exports import CALIBRATION, CLASSES, export_detector, export_ragged, export_run, export_verifier
from hybrid_pruning import OnnxModel, extras
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import TEMPORARY
from hybrid_pruning.models.backbone import load_transformers
from hybrid_pruning.models.onnx import graph
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.engine import load_embedder
from hybrid_pruning.scoring.scores import embed_paths
from wave_variants import ALONE, EQUAL, REFUSED, TENSOR
from wave_variants import LENGTHS as SIZES

TOLERANCE = 1e-4
SHARED = Path(__file__).parents[3] / "shared"
WITHOUT_TORCH = """
import sys
from hybrid_pruning.cli import main
for command in sys.argv[1:]:
    sys.argv[1:] = command.split()
    print(f"$ {command}", flush=True)
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
assert not {"torch", "transformers", "onnx"} & set(sys.modules), "imported"
"""


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
        feeds = {"wave": wave, "lengths": np.array(lengths)}
        if model.classes is not None:
            scores = model.classify_arrays(expected)
            assert relative(scores, found.classify_arrays(expected)) <= TOLERANCE
            assert relative(scores, found.session.run(["llr"], feeds)[0]) <= TOLERANCE
        for row, length in enumerate(lengths):
            wave[row, length:] = np.nan
        assert relative(expected, found.session.run(["embedding"], feeds)[0]) <= TOLERANCE
    return worst


@pytest.mark.parametrize(("family", "style"), REPRESENTATIVE)
def test_a_pruned_graph_gives_the_outputs_of_torch(family: str, style: str, once: Once, record) -> None:
    """wav2vec 2.0, whose modules are HuBERT's, is exported in 8 bits: `test_a_whole_model_is_close`."""
    folder = export_ragged(once, family, style)
    error = compare(SpeechModel.from_pretrained(folder), OnnxModel.from_file(folder / "model.onnx"))
    assert record("ONNX = torch", error) <= TOLERANCE


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


@pytest.fixture
def folder(once: Once) -> Path:
    """A detector in model/, as ONNX in onnx/, and clips in dev/."""
    return export_detector(once)


@pytest.fixture
def model(folder: Path) -> SpeechModel:
    return SpeechModel.from_pretrained(folder / "model")


@pytest.fixture
def converted(folder: Path) -> OnnxModel:
    return OnnxModel.from_file(folder / "onnx" / "model.onnx")


@pytest.mark.parametrize(("window_seconds", "workers"), [(30.0, 0), (0.125, 2)])
def test_scores_are_those_of_the_artifact(
    folder: Path, model: SpeechModel, converted: OnnxModel, window_seconds: float, workers: int
):
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    found, expected = (score_utterances(one, utterances, 3, workers, window_seconds) for one in (converted, model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(found) > 1e-2, "scores that are all the same would show nothing"
    paths = [utterance.path for utterance in utterances]
    embeddings = embed_paths(load_embedder(str(folder / "onnx")), paths, workers=0)
    np.testing.assert_allclose(embeddings, embed_paths(model, paths, workers=0), rtol=1e-4, atol=1e-4)


def test_the_same_waves_are_accepted_and_refused_as_in_torch(converted: OnnxModel):
    expected = converted.embed_arrays(TENSOR.numpy(), SIZES.numpy())
    for name, (wave, lengths) in EQUAL.items():
        assert (converted.embed_arrays(wave, lengths) == expected).all(), name
    for name, (wave, lengths) in ALONE.items():
        np.testing.assert_allclose(converted.embed_arrays(wave, lengths), expected[:1], rtol=1e-3, err_msg=name)
    for name, (wave, lengths, message) in REFUSED.items():
        with pytest.raises(InputError, match=message):
            raise AssertionError(f"{name}: {converted.embed_arrays(wave, lengths)}")


def test_torch_is_not_imported(folder: Path, tmp_path: Path):
    commands = [
        "detect dev --model onnx --json",
        "detect dev --model onnx/model.onnx",
        f"score onnx/model.onnx dev/manifest.tsv --out {tmp_path}/scores.tsv",
        "--help",
    ]
    program = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *commands]
    found = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    printed = [part.splitlines()[1:] for part in f"\n{found.stdout}".split("\n$ ")[1:]]
    assert [len(lines) >= least for lines, least in zip(printed, (9, 9, 1, 2), strict=True)] == [True] * 4


def test_the_description_of_an_onnx_file(folder: Path, model: SpeechModel, converted: OnnxModel):
    about = json.loads((folder / "onnx" / "model.json").read_text())
    assert (about["task"], about["labels"]) == ("anti-spoofing", ["bonafide", "spoof"])
    assert (about["sample_rate_hz"], about["weights"]) == (16_000, "float32")
    assert about["calibration"] == CALIBRATION.to_json()
    assert (converted.minimum_samples, converted.longest_samples) == (model.minimum_samples, None)
    assert converted.embedding_width == model.embedding_width
    assert b"site-packages" not in (folder / "onnx" / "model.onnx").read_bytes(), "nothing of this machine is in it"


def test_a_run_becomes_onnx_in_8_bits(once: Once, pristine: Path):
    world = export_run(once, pristine)
    assert sorted(path.name for path in (world / "small").iterdir()) == ["model.json", "model.onnx"]
    small, model = load_embedder(str(world / "small")), SpeechModel.from_pretrained(world / "model")
    utterances = read_manifest(world / "dev" / "manifest.tsv")
    found, expected = (score_utterances(one, utterances, 3, 0) for one in (small, model))
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert (found != expected).any()
    assert small.description["weights"] == "int8"
    stored = sum(len(tensor.raw_data) for tensor in onnx.load(world / "small" / "model.onnx").graph.initializer)
    assert stored < 0.75 * (world / "model" / "model.safetensors").stat().st_size


def test_a_dense_verifier_has_the_embeddings_of_torch_alone(once: Once, pristine: Path):
    world = export_verifier(once, pristine)
    plain, found = SpeechModel.from_pretrained(world / "mc"), OnnxModel.from_file(world / "graph" / "model.onnx")
    assert compare(plain, found) <= TOLERANCE
    assert [output.name for output in found.session.get_outputs()] == ["embedding"]
    with pytest.raises(InputError, match="speaker verification"):
        found.classify_arrays(np.zeros((2, plain.embedding_width), np.float32))


def test_windows_that_are_too_long_are_refused(folder: Path, converted: OnnxModel):
    converted.longest_samples = 480_159
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    assert len(score_utterances(converted, utterances, workers=0)) == 9
    with pytest.raises(InputError, match="windows of 31 s: this model takes 30 s; lower --window-seconds"):
        score_utterances(converted, utterances, workers=0, window_seconds=31.0)


def test_a_missing_package_is_named_before_anything_is_done(model: SpeechModel, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r'onnxscript is not installed; .*pip install "hybrid-pruning\[train\]"'):
        export_onnx(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_export_beside_its_model_goes_on_after_a_kill_in_its_last_write(tmp_path, monkeypatch):
    """All files are in their place and the temporary folder is left: the export is no stranger's."""
    model = tiny_detector(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.onnx").write_bytes(b"moved")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="is not empty"):
        graph.export_onnx(model, tmp_path / "model")
    (tmp_path / "model" / TEMPORARY).mkdir()
    with pytest.raises(InputError, match="onnx is not installed"):
        graph.export_onnx(model, tmp_path / "model")
