"""Loading backbones: what is taken, under which names, and what is refused in one line."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, BertConfig, BertModel

from conftest import ON_WAVEFORMS, WHISPER, MakeModel, make_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone, load_config, load_transformers, skeleton, wrap
from hybrid_pruning.models.backbone.loading import EXTRACTOR, PROCESSOR
from hybrid_pruning.models.speech_model import build_backbone, describe_backbone

ON_WAVEFORMS_ONLY = pytest.mark.parametrize(("family", "style"), ON_WAVEFORMS, ids="-".join)
ANY_ON_WAVEFORMS = pytest.mark.parametrize(("family", "style"), [("wavlm", "base"), ("wav2vec2", "large")])
ANY_FAMILY = pytest.mark.parametrize(("family", "style"), [("wavlm", "base"), ("wav2vec2", "large"), WHISPER])


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path)
    (tmp_path / EXTRACTOR).write_text('{"do_normalize": false}')
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


NESTED = {"feature_extractor": {"do_normalize": True}, "processor_class": "Wav2Vec2Processor"}
FORMS: dict[str, tuple[dict[str, Any], str, str]] = {  # files -> whether to normalise, group and layer; what says so
    "v4, on": ({EXTRACTOR: {"do_normalize": True}}, "yy", EXTRACTOR),
    "v4, off": ({EXTRACTOR: {"do_normalize": False}}, "nn", EXTRACTOR),
    "v4, silent": ({EXTRACTOR: {"sampling_rate": 16_000}}, "yy", f"{EXTRACTOR}: transformers' default"),
    "v4, null": ({EXTRACTOR: {"do_normalize": None}}, "nn", EXTRACTOR),
    "v5, on": ({PROCESSOR: NESTED}, "yy", PROCESSOR),
    "v5, off": ({PROCESSOR: {"audio_processor": {"do_normalize": False}}}, "nn", PROCESSOR),
    "v5, silent": ({PROCESSOR: {"feature_extractor": {}}}, "yy", f"{PROCESSOR}: transformers' default"),
    "v5 goes first": ({PROCESSOR: NESTED, EXTRACTOR: {"do_normalize": False}}, "yy", PROCESSOR),
    "v4 beside v5's empty one": ({PROCESSOR: {"processor_class": "x"}, EXTRACTOR: {}}, "yy", f"{EXTRACTOR}: trans.*"),
    "neither": ({}, "ny", "assumed of feat_extract_norm (group|layer)"),
    "neither, but a tokenizer's": ({PROCESSOR: {"processor_class": "x"}}, "ny", "assumed of feat_extract_norm .*"),
}


@pytest.mark.parametrize(("family", "style"), [("hubert", "base"), ("wav2vec2", "large")], ids="-".join)
@pytest.mark.parametrize("form", FORMS)
def test_load_normalises_as_transformers_does(
    form: str, folder: Path, style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files, expected, origin = FORMS[form]
    (folder / EXTRACTOR).unlink()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    if "assumed" not in origin:
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | {"x": 1}))
        theirs = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False).do_normalize
        assert ("y" if theirs else "n") == expected[0] == expected[1]
    found = load_transformers(folder)
    assert found.normalize is (expected[style == "large"] == "y")
    assert re.fullmatch(origin, found.origin["normalize"])
    said = capsys.readouterr().out
    assert said.count("\n") == ("assumed" in origin)
    assert ("(assumed of feat_extract_norm" in said) == ("assumed" in origin)


@pytest.mark.parametrize(("family", "style"), [WHISPER])
def test_whisper_normalises_where_it_is_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own extractor has normalisation off, and no file says otherwise than `on`."""
    for content, expected in ((None, False), ({}, False), ({"do_normalize": True}, True)):
        (folder / EXTRACTOR).unlink(missing_ok=True)
        if content is not None:
            (folder / PROCESSOR).write_text(json.dumps({"feature_extractor": content}))
        assert load_transformers(folder).normalize is expected
    assert capsys.readouterr().out == ""


@ANY_ON_WAVEFORMS
@pytest.mark.parametrize(
    "settings",
    [
        {"sampling_rate": 8000},
        {"feature_size": 80},
        {"feature_extractor_type": "SeamlessM4TFeatureExtractor"},
        {"do_normalize": "false"},
        {"do_normalize": 1.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("nested", [True, False])
def test_load_refuses_other_preprocessing(settings: dict[str, Any], nested: bool, folder: Path) -> None:
    content = {"feature_extractor": settings} if nested else settings
    (folder / (PROCESSOR if nested else EXTRACTOR)).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"has {next(iter(settings))} .*(supported is|expected)"):
        load_transformers(folder)


def test_normalisation_goes_into_the_artifact_and_back(folder: Path, tmp_path: Path) -> None:
    (folder / EXTRACTOR).write_text('{"do_normalize": true}')
    backbone = load_transformers(folder)
    about = json.loads(json.dumps(describe_backbone(backbone)))
    assert (about["normalize"], about["origin"]) == (True, {"normalize": EXTRACTOR})
    again = build_backbone(about)
    assert (again.normalize, again.origin) == (True, backbone.origin)
    del about["origin"]  # of an older version
    assert build_backbone(about).normalize


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
