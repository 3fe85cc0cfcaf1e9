"""Loading backbones: what is taken, under which names, and what is refused in one line."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from conftest import ON_WAVEFORMS, WHISPER, MakeModel, make_config
from hybrid_pruning.backbone import Backbone, load_config, load_transformers, skeleton, wrap
from hybrid_pruning.errors import InputError

ON_WAVEFORMS_ONLY = pytest.mark.parametrize(("family", "style"), ON_WAVEFORMS, ids="-".join)
ANY_ON_WAVEFORMS = pytest.mark.parametrize(("family", "style"), [("wavlm", "base"), ("wav2vec2", "large")])
ANY_FAMILY = pytest.mark.parametrize(("family", "style"), [("wavlm", "base"), ("wav2vec2", "large"), WHISPER])


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path)
    return tmp_path


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_load(folder: Path, backbone: Backbone, wave: torch.Tensor, lengths: torch.Tensor) -> None:
    loaded = load_transformers(folder).eval()
    assert list(loaded.state_dict()) == list(backbone.state_dict())
    assert torch.equal(loaded(wave, lengths).frames, backbone(wave, lengths).frames)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(load_transformers(str(folder)).eval()(wave).frames, backbone(wave).frames)


def test_load_random_takes_the_architecture_alone(folder: Path, backbone: Backbone) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    fresh = load_transformers(folder, random=True)
    shapes = {name: value.shape for name, value in backbone.state_dict().items()}
    assert {name: value.shape for name, value in fresh.state_dict().items()} == shapes
    assert fresh.normalize


@pytest.mark.parametrize("do_normalize", [True, False, None])
def test_load_honours_the_preprocessor(do_normalize: bool | None, folder: Path) -> None:
    if do_normalize is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
    assert load_transformers(folder).normalize is bool(do_normalize)


@ANY_FAMILY
@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_load_refuses_a_broken_preprocessor(content: str, folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match="preprocessor_config"):
        load_transformers(folder)


@ON_WAVEFORMS_ONLY
@pytest.mark.parametrize(
    "lost", ["encoder.layers.1.attention.k_proj.weight", "feature_extractor.conv_layers.0.conv.weight"]
)
def test_load_refuses_missing_weights(lost: str, folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop(lost))
    with pytest.raises(InputError, match=rf"{folder}: 1 weights are missing .*'{lost}'"):
        load_transformers(folder)


@ANY_ON_WAVEFORMS
def test_load_allows_the_missing_mask_embedding(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("masked_spec_embed"))
    load_transformers(folder)


@ANY_ON_WAVEFORMS
def test_load_refuses_weights_of_another_size(folder: Path) -> None:
    key = "encoder.layers.0.feed_forward.output_dense.bias"
    edit_weights(folder, lambda weights: weights.update({key: torch.zeros(7)}))
    with pytest.raises(InputError, match=r"output_dense\.bias|size"):
        load_transformers(folder)


@ANY_ON_WAVEFORMS
def test_load_takes_a_checkpoint_with_heads_of_its_own(folder: Path, backbone: Backbone, wave: torch.Tensor) -> None:
    edit_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(7, 32)}))
    assert torch.equal(load_transformers(folder).eval()(wave).frames, backbone(wave).frames)


@ANY_FAMILY
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04"], ids=["empty", "zeros", "zip"])
def test_load_refuses_corrupt_weights(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=f"{folder}.*cannot be loaded"):
        load_transformers(folder)


@ANY_FAMILY
def test_load_refuses_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=f"{folder}.*cannot be loaded"):
        load_transformers(folder)


@ANY_FAMILY
@pytest.mark.parametrize("content", [b"garbage", pickle.dumps({"weight": print}, protocol=2)], ids=["garbage", "code"])
def test_load_refuses_pickles_that_are_no_weights(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match=f"{folder}.*cannot be loaded"):
        load_transformers(folder)


@ANY_FAMILY
def test_load_refuses_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"{folder}.*cannot be loaded"):
        load_transformers(folder)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"model_type": "nonesuch"}'])
def test_load_refuses_a_folder_without_a_config(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    for load in (load_config, load_transformers):
        with pytest.raises(InputError, match=f"{tmp_path}"):
            load(tmp_path)


def test_other_model_types_are_refused(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    model = BertModel(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="model type 'bert'; supported are wav2vec2, hubert, wavlm, whisper"):
        load_transformers(tmp_path)
    with pytest.raises(InputError, match="model type 'bert'"):
        wrap(model)


def test_skeleton_from_a_dictionary(family: str, style: str) -> None:
    dense = skeleton(make_config(family, style), normalize=True)
    again = skeleton(json.loads(json.dumps(dense.config.to_diff_dict())), normalize=True)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (dense, again)]
    assert shapes[0] == shapes[1]
    assert again.normalize
    again.load_state_dict(dense.state_dict(), strict=True)
