"""A graph for OpenVINO gives the outputs of ONNX Runtime and is run as it is; torch is not imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from test_onnx_model import WITHOUT_TORCH, relative

from corpus import score_utterances
from encoders import LENGTHS, REPRESENTATIVE, Once
from exports import export_ragged, export_verifier, export_vino, read_graph
from hybrid_pruning import OnnxModel, SpeechModel, extras
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import TEMPORARY, UNFINISHED
from hybrid_pruning.models.hub import published
from hybrid_pruning.models.onnx.graph import export_openvino
from hybrid_pruning.models.onnx.openvino import DEVICE
from hybrid_pruning.scoring.engine import load_embedder
from hybrid_pruning.serving.served import Served
from hybrid_pruning.training.export import CLIP_SECONDS, read_clips
from world import run_main

FILES = ["openvino.bin", "openvino.json", "openvino.xml"]


@pytest.fixture
def folder(once: Once, tmp_path: Path) -> Path:
    """A detector in model/, onnx/, vino/ and vino8/, and clips in dev/."""
    return shutil.copytree(export_vino(once), tmp_path / "vino")


@pytest.mark.parametrize(("family", "style"), REPRESENTATIVE)
def test_outputs_are_those_of_onnx_runtime(family: str, style: str, once: Once, tmp_path: Path):
    exported = export_ragged(once, family, style)
    model, expected = SpeechModel.from_pretrained(exported), OnnxModel.from_file(exported / "model.onnx")
    found = OnnxModel.from_file(export_openvino(model, tmp_path / "new", proto=read_graph(exported)))
    for lengths in ([model.minimum_samples], [5000], list(LENGTHS), [3000, model.minimum_samples, 5100, 777]):
        wave = np.random.default_rng(0).standard_normal((len(lengths), max(lengths))).astype(np.float32)
        embeddings = expected.embed_arrays(wave, np.array(lengths))
        assert relative(embeddings, found.embed_arrays(wave, np.array(lengths))) <= 1e-4
        assert relative(expected.classify_arrays(embeddings), found.classify_arrays(embeddings)) <= 1e-4
        for row, length in enumerate(lengths):
            wave[row, length:] = np.nan
        assert relative(embeddings, found.embed_arrays(wave, np.array(lengths))) <= 1e-4
    assert (found.longest_samples, found.calibration) == (expected.longest_samples, expected.calibration)


@pytest.mark.parametrize("window_seconds", [30.0, 0.125])
def test_scores_are_those_of_the_artifact_and_8_bits_are_close(folder: Path, window_seconds: float):
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    models = [load_embedder(str(folder / name)) for name in ("model", "vino", "vino8")]
    expected, found, small = (score_utterances(model, utterances, 3, 0, window_seconds) for model in models)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.corrcoef(small, expected)[0, 1] > 0.99, "products must not overflow on processors without VNNI either"
    assert (small != expected).any()


def test_the_files_of_a_graph(folder: Path):
    assert [sorted(path.name for path in (folder / name).iterdir()) for name in ("vino", "vino8")] == [FILES, FILES]
    about = [json.loads((folder / name / "openvino.json").read_text()) for name in ("vino", "vino8")]
    assert [(one["weights"], one["precision"]) for one in about] == [("float32", "f32"), ("int8", "int8")]
    assert sorted(about[0]["sha256"]) == ["openvino.bin", "openvino.xml"]
    small, large = ((folder / name / "openvino.bin").stat().st_size for name in ("vino8", "vino"))
    assert small < 0.85 * large
    for path in (folder / "vino").iterdir():
        shutil.copy(path, folder / "model")
    assert set(FILES) < set(published(folder / "model"))
    served = Served.load("m", folder / "model", 30.0)
    assert served.about()["engine"] == "openvino"
    assert served.megabytes > large / 1e6
    (folder / "model" / "openvino.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"openvino\.bin: is damaged"):
        OnnxModel.from_file(folder / "model" / "openvino.xml")


def test_torch_is_not_imported(folder: Path, tmp_path: Path):
    commands = ["detect dev --model vino --json", f"score vino8/openvino.xml dev/manifest.tsv --out {tmp_path}/s.tsv"]
    program = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *commands]
    found = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_verifier_keeps_its_cohort(once: Once, pristine: Path, tmp_path: Path):
    world = export_verifier(once, pristine)
    model, graph = SpeechModel.from_pretrained(world / "mc"), read_graph(world / "graph")
    found = OnnxModel.from_file(export_openvino(model, tmp_path / "new", proto=graph))
    wave = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    assert relative(model.embed_arrays(wave), found.embed_arrays(wave)) <= 1e-4
    assert found.cohort.top_n == model.cohort.top_n
    with pytest.raises(InputError, match="speaker verification"):
        found.classify_arrays(np.zeros((2, found.embedding_width), np.float32))


def test_an_export_goes_on_after_a_kill(folder: Path, tmp_path: Path):
    """While it wrote, and beside the model when all but the clean-up was done."""
    model, graph = SpeechModel.from_pretrained(folder / "model"), read_graph(folder / "onnx")
    shutil.copytree(folder / "vino", folder / "model", dirs_exist_ok=True)
    with pytest.raises(InputError, match="is not empty"):
        export_openvino(model, folder / "model", proto=graph)
    for out, left in ((tmp_path / "new", UNFINISHED), (folder / "model", TEMPORARY)):
        (out / left).mkdir(parents=True)
        (out / left / "openvino.bin").write_bytes(b"half")
        OnnxModel.from_file(export_openvino(model, out, proto=graph))
        assert not (out / left).exists()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES


def test_bfloat16_is_a_wish(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = SpeechModel.from_pretrained(folder / "model")
    file = export_openvino(model, tmp_path / "new", "bf16", proto=read_graph(folder / "onnx"))
    wave = np.random.default_rng(0).standard_normal((1, 4000)).astype(np.float32)
    found = OnnxModel.from_file(file)
    native = "BF16" in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    assert relative(model.embed_arrays(wave), found.embed_arrays(wave)) <= (0.05 if native else 1e-4)
    said = "" if native else f"warning: {file}: this processor has no bfloat16, the model is computed in float32\n"
    assert capsys.readouterr().err == said


def damage(folder: Path, name: str, change: str) -> None:
    path = folder / "vino" / name
    content = path.read_bytes()
    path.write_bytes(
        content[: len(content) // 2] if change == "half" else content.replace(*change.encode().split(b">"))
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("openvino.xml", "half", "openvino.xml: is damaged"),
        ("openvino.bin", "half", "openvino.bin: is damaged"),
        ("openvino.json", "half", "openvino.json: is not valid JSON"),
        ("openvino.json", '"f32">"bf16"', "openvino.json: describes another model than openvino.xml"),
        ("openvino.json", "hybrid-pruning onnx>x", "openvino.json: describes no graph of ours; write one with"),
    ],
)
def test_files_that_are_not_whole_are_refused(folder: Path, name: str, change: str, message: str):
    damage(folder, name, change)
    with pytest.raises(InputError, match=message):
        OnnxModel.from_file(folder / "vino" / "openvino.xml")


def test_other_files_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (folder / "vino" / "openvino.json").unlink()
    with pytest.raises(InputError, match=r"openvino\.json: cannot be read .*copy the two together"):
        OnnxModel.from_file(folder / "vino" / "openvino.xml")
    small = folder / "vino8"
    about = json.loads((small / "openvino.json").read_text())
    del about["sha256"]
    (small / "openvino.json").write_text(json.dumps(about))
    text = (small / "openvino.xml").read_text()
    (small / "openvino.xml").write_text(text.replace("hybrid_pruning_digest", "digest"))
    with pytest.raises(InputError, match=r"openvino\.xml: is another program's \.xml file; write one with"):
        OnnxModel.from_file(small / "openvino.xml")
    (small / "openvino.xml").write_text(text[:1000])
    with pytest.raises(InputError, match=r"openvino\.xml: cannot be loaded .*is it whole"):
        OnnxModel.from_file(small / "openvino.xml")
    with pytest.raises(InputError, match=r"gone\.xml: no such file"):
        load_embedder(str(tmp_path / "gone.xml"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert run_main(["detect", str(folder / "dev"), "--model", str(folder / "vino8")], tmp_path) == 2
    assert 'openvino is not installed; it comes with: pip install "hybrid-pruning[openvino]"' in capsys.readouterr().err


def test_what_an_export_needs_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = SpeechModel.from_pretrained(folder / "model")
    with pytest.raises(InputError, match="--precision int4: is unknown; known are f32, bf16, int8"):
        export_openvino(model, tmp_path / "new", "int4")
    with pytest.raises(InputError, match="int8 needs real speech; give --calibrate MANIFEST"):
        export_openvino(model, tmp_path / "new", "int8")
    with pytest.raises(InputError, match=r"the manifest .* \(unknown\) is not here; give real speech with --calibrate"):
        read_clips(model)
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(InputError, match=r'openvino is not installed; .*pip install "hybrid-pruning\[openvino\]"'):
        export_openvino(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_8_bits_are_fitted_to_what_was_trained_on(pristine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pristine)
    model = SpeechModel.from_pretrained("model")
    train = read_manifest(model.provenance["recipe"]["data"]["train"])
    clips = read_clips(model)
    assert 1 <= len(clips) <= len(train)
    assert all(model.minimum_samples <= len(clip) <= CLIP_SECONDS * 16_000 for clip in clips)
