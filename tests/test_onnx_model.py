"""An .onnx file is run as an artifact is: same verbs, same scores, windows and all, with torch left alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corpus import tiny_detector, write_corpus
from hybrid_pruning import OnnxModel
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.onnx import graph as onnx_export
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.engine import load_embedder
from hybrid_pruning.scoring.scores import embed_paths, score_utterances
from wave_variants import ALONE, EQUAL, LENGTHS, REFUSED, TENSOR
from world import Cli

WITHOUT_TORCH = """
import sys
from hybrid_pruning.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
assert not {"torch", "transformers", "onnx"} & set(sys.modules), "imported"
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as an artifact, as ONNX and in 8 bits, and clips."""
    folder = tmp_path_factory.mktemp("onnx")
    model = tiny_detector(folder / "wavlm")
    model.save_pretrained(folder / "model")
    export_onnx(model, folder / "onnx")
    export_onnx(model, folder / "int8", int8=True)
    write_corpus(folder / "dev", 9)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> SpeechModel:
    return SpeechModel.from_pretrained(folder / "model")


@pytest.mark.parametrize("window_seconds", [30.0, 0.125])
@pytest.mark.parametrize("workers", [0, 2])
def test_scores_are_those_of_the_artifact(folder: Path, model: SpeechModel, window_seconds: float, workers: int):
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    converted = OnnxModel.from_file(folder / "onnx" / "model.onnx")
    found, expected = (score_utterances(one, utterances, 3, workers, window_seconds) for one in (converted, model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(found) > 1e-2, "scores that are all the same would show nothing"


def test_waves_are_taken_and_refused_as_torch_takes_and_refuses_them(folder: Path):
    converted = OnnxModel.from_file(folder / "onnx" / "model.onnx")
    expected = converted.embed_arrays(TENSOR.numpy(), LENGTHS.numpy())
    for name, (wave, lengths) in EQUAL.items():
        assert (converted.embed_arrays(wave, lengths) == expected).all(), name
    for name, (wave, lengths) in ALONE.items():
        np.testing.assert_allclose(converted.embed_arrays(wave, lengths), expected[:1], rtol=1e-3, err_msg=name)
    for name, (wave, lengths, message) in REFUSED.items():
        with pytest.raises(InputError, match=message):
            raise AssertionError(f"{name}: {converted.embed_arrays(wave, lengths)}")


def test_embeddings_are_those_of_the_artifact(folder: Path, model: SpeechModel):
    paths = [utterance.path for utterance in read_manifest(folder / "dev" / "manifest.tsv")]
    found = embed_paths(load_embedder(str(folder / "onnx")), paths, workers=0)
    np.testing.assert_allclose(found, embed_paths(model, paths, workers=0), rtol=1e-4, atol=1e-4)


def test_8_bits_are_close_and_smaller(folder: Path, model: SpeechModel):
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    small = OnnxModel.from_file(folder / "int8" / "model.onnx")
    found, expected = score_utterances(small, utterances, 3, 0), score_utterances(model, utterances, 3, 0)
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert (found != expected).any()
    assert small.description["weights"] == "int8"
    assert (folder / "int8" / "model.onnx").stat().st_size < (folder / "onnx" / "model.onnx").stat().st_size


@pytest.mark.parametrize(
    "command",
    [
        "detect dev --model onnx --json",
        "detect dev --model onnx/model.onnx",
        "score onnx/model.onnx dev/manifest.tsv --out {out}/scores.tsv",
        "--help",
    ],
)
def test_torch_is_not_imported(folder: Path, tmp_path: Path, command: str):
    arguments = command.format(out=tmp_path).split()
    program = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *arguments]
    found = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) >= (9 if "detect" in command else 2)


def test_the_description_says_what_it_is(folder: Path, model: SpeechModel):
    about = json.loads((folder / "onnx" / "model.json").read_text())
    assert (about["task"], about["labels"]) == ("anti-spoofing", ["spoof", "bonafide"])
    assert (about["sample_rate_hz"], about["weights"], about["calibration"]) == (16_000, "float32", None)
    found = OnnxModel.from_file(folder / "onnx" / "model.onnx")
    assert (found.minimum_samples, found.longest_samples) == (model.minimum_samples, None)
    assert found.embedding_width == model.embedding_width
    assert b"site-packages" not in (folder / "onnx" / "model.onnx").read_bytes(), "nothing of this machine is in it"


def test_a_run_or_an_artifact_becomes_onnx(cli: Cli, world: Path):
    assert cli("export", "run", "--out", "small", "--onnx", "--int8").code == 0
    assert sorted(path.name for path in (world / "small").iterdir()) == ["model.json", "model.onnx"]
    found = cli(*["score", "small", "dev/manifest.tsv", "--out", "small.tsv", "--workers", "0"])
    assert found.code == 0
    scores, expected = ((world / name).read_text().split()[3::2] for name in ("small.tsv", "scores.tsv"))
    assert np.corrcoef([float(score) for score in scores], [float(score) for score in expected])[0, 1] > 0.9


def test_a_model_for_verification_has_embeddings_alone(model: SpeechModel, tmp_path: Path):
    plain = SpeechModel.build(model.backbone, model.head_config, None).eval()
    found = OnnxModel.from_file(export_onnx(plain, tmp_path / "new"))
    wave = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    np.testing.assert_allclose(found.embed_arrays(wave), plain.embed_arrays(wave), rtol=1e-3, atol=1e-4)
    assert [output.name for output in found.session.get_outputs()] == ["embedding"]
    with pytest.raises(InputError, match="speaker verification"):
        found.classify_arrays(found.embed_arrays(wave))


def test_windows_that_are_too_long_are_refused(folder: Path):
    found = OnnxModel.from_file(folder / "onnx" / "model.onnx")
    found.description = {**found.description, "longest_samples": 480_159}
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    assert len(score_utterances(found, utterances, workers=0)) == 9
    with pytest.raises(InputError, match="windows of 31 s: this model takes 30 s; lower --window-seconds"):
        score_utterances(found, utterances, workers=0, window_seconds=31.0)


def test_missing_packages_are_named(folder: Path, model: SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"ONNX Runtime is not installed; .*pip install 'hybrid-pruning\[onnx"):
        OnnxModel.from_file(folder / "onnx" / "model.onnx")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"needs the package onnxscript; install it with: pip install 'hybrid-pruning"):
        export_onnx(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
