"""One bit flipped anywhere in the files of a model or a run: refused by name, or of no influence on any score."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import Once
from exports import export_verifier
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.onnx.runtime import OnnxModel
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.embeddings import Embeddings
from hybrid_pruning.training.runs import Run, write_state

FLIPS, SEED = 8, 0
WAVE = np.random.default_rng(0).normal(0, 0.1, (1, 4000)).astype(np.float32)


@pytest.fixture
def kept(once: Once, pristine: Path, tmp_path: Path) -> Path:
    """A verifier with its cohort, as an artifact and as ONNX, a cache of embeddings, and a snapshot."""
    world = export_verifier(once, pristine)
    for name in ("mc", "graph"):
        shutil.copytree(world / name, tmp_path, dirs_exist_ok=True)
    Embeddings(["a", "b", "c"], np.eye(3, 5, dtype=np.float32), np.ones(3), "m", ["x", "y", "z"]).write(
        tmp_path / "embeddings"
    )
    write_state(Run(tmp_path).snapshot(0.5), {"objective": SpeechModel.from_pretrained(tmp_path).state_dict()})
    return tmp_path


def from_artifact(folder: Path) -> Any:
    model = SpeechModel.from_pretrained(folder)
    cohort = model.cohort
    return model.embed_arrays(WAVE).tolist(), cohort.speakers.tolist(), cohort.mean.tolist(), cohort.top_n


def from_onnx(folder: Path) -> Any:
    model = OnnxModel.from_file(folder / "model.onnx")
    return model.embed_arrays(WAVE).tolist(), model.cohort.speakers.tolist()


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
def test_a_flipped_bit_is_refused_or_harmless(kept: Path, name: str):
    path, read = kept / name, KINDS[name]
    whole, expected = path.read_bytes(), read(kept)
    places = random.Random(SEED)
    refusals = []
    try:
        for _ in range(FLIPS):
            place, bit = places.randrange(len(whole)), places.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert read(kept) == expected, f"bit {bit} of byte {place}"
            except InputError as error:
                refusals.append(str(error))
    finally:
        path.write_bytes(whole)
    assert refusals, "no flip was noticed"
    assert all(path.stem in refusal for refusal in refusals)  # of a graph and its description, either may be at fault


def test_files_without_digests_are_still_read(kept: Path):
    """As older versions wrote them."""
    for name, read in (("config.json", from_artifact), ("model.json", from_onnx)):
        expected, about = read(kept), json.loads((kept / name).read_text())
        assert about.pop("sha256")
        (kept / name).write_text(json.dumps(about))
        assert read(kept) == expected
