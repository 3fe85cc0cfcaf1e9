"""One bit flipped anywhere in what a model or a run is kept in: refused by name, or of no influence on any score."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import tiny_detector
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.onnx.runtime import OnnxModel
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.verification.embeddings import Embeddings
from hybrid_pruning.training.runs import Run, write_state

FLIPS, SEED = 8, 0
WAVE = np.random.default_rng(0).normal(0, 0.1, (1, 4000)).astype(np.float32)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flipped")
    model = tiny_detector(folder / "encoder")
    vectors = np.eye(3, 5, dtype=np.float32)
    model.cohort = Cohort(vectors[0], vectors, 2, "train.tsv")
    model.save_pretrained(folder)
    export_onnx(model, folder)
    Embeddings(["a", "b", "c"], vectors, np.ones(3), "m", ["x", "y", "z"]).write(folder / "embeddings")
    write_state(Run(folder).snapshot(0.5), {"objective": model.state_dict()})
    return folder


def from_artifact(folder: Path) -> Any:
    model = SpeechModel.from_pretrained(folder)
    return model.score(WAVE).tolist(), model.cohort.speakers.tolist(), model.cohort.mean.tolist(), model.cohort.top_n


def from_onnx(folder: Path) -> Any:
    model = OnnxModel.from_file(folder / "model.onnx")
    embedding = model.embed_arrays(WAVE)
    return embedding.tolist(), model.classify_arrays(embedding).tolist(), model.cohort.speakers.tolist()


def from_cache(folder: Path) -> Any:
    found = Embeddings.read(folder / "embeddings")
    return found.ids, found.vectors.tolist(), found.seconds.tolist()


def from_snapshot(folder: Path) -> Any:
    return {name: tensor.tolist() for name, tensor in Run(folder).read_snapshot(0.5).items()}


KINDS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": from_artifact,
    "config.json": from_artifact,
    "cohort.safetensors": from_artifact,
    "model.onnx": from_onnx,
    "model.json": from_onnx,
    "embeddings": from_cache,
    "snapshots/hp50.pt": from_snapshot,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_refused_or_harmless(pristine: Path, name: str):
    path, read = pristine / name, KINDS[name]
    whole, expected = path.read_bytes(), read(pristine)
    places = random.Random(SEED)
    refusals = []
    try:
        for _ in range(FLIPS):
            place, bit = places.randrange(len(whole)), places.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert read(pristine) == expected, f"bit {bit} of byte {place}"
            except InputError as error:
                refusals.append(str(error))
    finally:
        path.write_bytes(whole)
    assert refusals, "no flip was noticed"
    assert all(path.stem in refusal for refusal in refusals)  # of a graph and its description, either may be at fault


def test_what_older_versions_wrote_is_still_read(pristine: Path, tmp_path: Path):
    model = SpeechModel.from_pretrained(pristine)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(SpeechModel.from_pretrained(tmp_path).score(WAVE), model.score(WAVE))
    export_onnx(model, tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    del about["sha256"]
    (tmp_path / "model.json").write_text(json.dumps(about))
    assert np.isfinite(OnnxModel.from_file(tmp_path / "model.onnx").embed_arrays(WAVE)).all()
