"""Reading a Whisper encoder's weights: every form they come in, every weight accounted for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from conftest import WHISPER, make_config, with_telling_weights
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone, load_transformers, skeleton


@pytest.fixture
def model() -> WhisperModel:
    torch.manual_seed(0)
    return with_telling_weights(WhisperModel(make_config(*WHISPER)).eval())


def assert_same_encoder(found: Backbone, expected: WhisperEncoder) -> None:
    weights = found.encoder.state_dict()
    assert list(weights) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], tensor), name


def rename(folder: Path, change: Callable[[str], str]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder: Path, write: Callable[[dict[str, torch.Tensor], Path], object], name: str, suffix: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {key: f"part-{index % 3}{suffix}" for index, key in enumerate(weights)}
    for file in set(where.values()):
        write({key: tensor for key, tensor in weights.items() if where[key] == file}, folder / file)
    (folder / f"{name}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


FORMS: dict[str, Callable[[Path], object]] = {
    "full, as it is": lambda _: None,
    "full, model.*": lambda folder: rename(folder, "model.{}".format),
    "encoder.* alone": lambda folder: edit(
        folder, lambda w: [w.pop(name) for name in list(w) if name.startswith("decoder.")]
    ),
    "pickle": as_pickle,
    "safetensors in shards": lambda folder: in_shards(folder, save_file, "model", ".safetensors"),
    "pickles in shards": lambda folder: in_shards(folder, torch.save, "pytorch_model", ".bin"),
}


@pytest.mark.parametrize("form", FORMS)
def test_load_takes_every_form(form: str, model: WhisperModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    FORMS[form](tmp_path)
    assert_same_encoder(load_transformers(tmp_path), model.encoder)


@pytest.mark.parametrize("task", [WhisperForConditionalGeneration, WhisperForAudioClassification])
def test_load_takes_models_of_other_tasks(task: type, tmp_path: Path) -> None:
    whole = with_telling_weights(task(make_config(*WHISPER, use_weighted_layer_sum=True)))
    whole.save_pretrained(tmp_path)
    assert_same_encoder(load_transformers(tmp_path), (getattr(whole, "model", whole)).encoder)


def test_load_takes_half_precision_as_float32(model: WhisperModel, wave: torch.Tensor, tmp_path: Path) -> None:
    model.half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    loaded = load_transformers(tmp_path)
    assert_same_encoder(loaded, model.float().encoder)
    fresh = load_transformers(tmp_path, random=True)
    again = skeleton(json.loads(json.dumps(loaded.config.to_diff_dict())), False)
    assert {p.dtype for each in (fresh, again) for p in each.parameters()} == {torch.float32}
    assert torch.isfinite(fresh(wave).frames).all()


def test_load_takes_the_configs_of_the_hub(model: WhisperModel, tmp_path: Path) -> None:
    """With what older versions of transformers wrote there."""
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "architectures": ["WhisperForConditionalGeneration"],
        "num_hidden_layers": 3,
        "max_length": 448,
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [3],
        "forced_decoder_ids": [[1, 2], [2, 3]],
        "torch_dtype": config.pop("dtype"),
        "use_cache": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_transformers(tmp_path)
    assert_same_encoder(loaded, model.encoder)
    skeleton(json.loads(json.dumps(loaded.config.to_diff_dict())), False).load_state_dict(loaded.state_dict())


FC = "encoder.layers.1.fc1.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: edit(folder, lambda w: w.pop(FC)), f"1 weights are missing .*'{FC}'"),
    "decoder alone": (
        lambda folder: edit(folder, lambda w: [w.pop(name) for name in list(w) if name.startswith("encoder.")]),
        r"weights are missing .*'encoder\.",
    ),
    "unexpected": (
        lambda folder: edit(folder, lambda w: w.update({"encoder.layers.7.fc1.bias": torch.zeros(2)})),
        r"1 weights are not of the model .*'encoder\.layers\.7\.fc1\.bias'",
    ),
    "of something else": (
        lambda folder: edit(folder, lambda w: w.update({"lungs.weight": torch.zeros(2)})),
        "not of the model .*'lungs.weight'",
    ),
    "wrong size": (
        lambda folder: edit(folder, lambda w: w.update({FC: torch.zeros(7, 32)})),
        rf"'{FC}' is of the wrong size: \[7, 32\], config.json asks for \[48, 32\]",
    ),
    "twice": (
        lambda folder: edit(folder, lambda w: w.update({"conv1.bias": torch.zeros(32)})),
        "'(encoder.)?conv1.bias' and '(encoder.)?conv1.bias' are the same weight",
    ),
    "whole numbers": (
        lambda folder: edit(folder, lambda w: w.update({FC: torch.zeros(48, 32, dtype=torch.int8)})),
        f"'{FC}' is no tensor of floating-point numbers",
    ),
    "no tensors": (
        lambda folder: (as_pickle(folder), torch.save([1, 2], folder / "pytorch_model.bin")),
        "pytorch_model.bin: the weights cannot be loaded",
    ),
    "a shard missing": (
        lambda folder: (FORMS["safetensors in shards"](folder), (folder / "part-1.safetensors").unlink()),
        "index.json: the weights cannot be loaded .*names 'part-1.safetensors', which is not there",
    ),
    "a broken index": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}'),
        ),
        "index.json: the weights cannot be loaded",
    ),
    "another spectrogram": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"hop_length": 320}'),
        "hop_length 320, supported is 160",
    ),
    "other mel bins": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"feature_size": 80}'),
        "feature_size 80, supported is 8 ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_refuses(damage: str, model: WhisperModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    change, expected = DAMAGES[damage]
    change(tmp_path)
    with pytest.raises(InputError, match=expected) as caught:
        load_transformers(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_takes_the_preprocessor_of_the_hub(model: WhisperModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(tmp_path)
    assert not load_transformers(tmp_path).normalize
