"""Loading backbones: every form of weights, each accounted for, and refusals of one line."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoFeatureExtractor,
    BertConfig,
    BertModel,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from damage import refused, written
from encoders import WHISPER, MakeModel, make_config, with_random_weights
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone, load_config, load_transformers, skeleton, wrap
from hybrid_pruning.models.backbone.loading import EXTRACTOR, PROCESSOR
from hybrid_pruning.models.speech_model import build_backbone, describe_backbone

WAVLM, XLSR, HUBERT = ("wavlm", "base"), ("wav2vec2", "large"), ("hubert", "base")
WAVLM_ONLY = pytest.mark.parametrize(("family", "style"), [WAVLM])
ANY_FAMILY = pytest.mark.parametrize(("family", "style"), [WAVLM, XLSR, WHISPER])

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    """A transformers folder of the encoder alone."""
    make_model().save_pretrained(tmp_path)
    (tmp_path / EXTRACTOR).write_text('{"do_normalize": false}')
    return tmp_path


@pytest.fixture(scope="module")
def whole() -> WhisperModel:
    torch.manual_seed(0)
    return with_random_weights(WhisperModel(make_config(*WHISPER)).eval())


@pytest.fixture
def whisper(whole: WhisperModel, tmp_path: Path) -> Path:
    """The folder of a whole Whisper model."""
    whole.save_pretrained(tmp_path)
    return tmp_path


def edit(change: Callable[[Weights], Any]) -> Callable[[Path], None]:
    """Return a change of a folder's weights: what `change` returns, where it is a dictionary, else in place."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        changed = change(weights)
        save_file(changed if isinstance(changed, dict) else weights, folder / "model.safetensors", {"format": "pt"})

    return apply


def with_weight(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    return edit(lambda weights: weights.update({name: torch.zeros(shape, dtype=dtype)}))


def as_pickle(folder: Path, content: Any = None) -> None:
    torch.save(content or load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder: Path, write: Callable[[Weights, Path], Any], name: str, suffix: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {key: f"part-{index % 3}{suffix}" for index, key in enumerate(weights)}
    for file in set(where.values()):
        write({key: tensor for key, tensor in weights.items() if where[key] == file}, folder / file)
    (folder / f"{name}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def assert_same_encoder(found: Backbone, expected: torch.nn.Module) -> None:
    weights = found.encoder.state_dict()
    assert list(weights) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], tensor), name


# --- taken ---


def test_load(folder: Path, backbone: Backbone, wave: torch.Tensor, lengths: torch.Tensor) -> None:
    loaded = load_transformers(folder).eval()
    assert list(loaded.state_dict()) == list(backbone.state_dict())
    assert torch.equal(loaded(wave, lengths).frames, backbone(wave, lengths).frames)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    if backbone.config.model_type != "whisper":
        edit(lambda w: w.pop("masked_spec_embed"))(folder)
        edit(lambda w: w.update({"lm_head.weight": torch.zeros(7, 32)}))(folder)  # a head of its own
        assert torch.equal(load_transformers(str(folder)).eval()(wave).frames, backbone(wave).frames)
    (folder / "model.safetensors").unlink()
    (folder / EXTRACTOR).write_text('{"do_normalize": true}')
    fresh = load_transformers(folder, random=True)
    shapes = {name: value.shape for name, value in backbone.state_dict().items()}
    assert {name: value.shape for name, value in fresh.state_dict().items()} == shapes
    assert fresh.normalize


FORMS: dict[str, Callable[[Path], Any]] = {
    "full, as it is": lambda _: None,
    "full, model.*": edit(lambda w: {f"model.{name}": tensor for name, tensor in w.items()}),
    "encoder.* alone": edit(lambda w: {name: w[name] for name in w if not name.startswith("decoder.")}),
    "pickle": as_pickle,
    "safetensors in shards": lambda folder: in_shards(folder, save_file, "model", ".safetensors"),
    "pickles in shards": lambda folder: in_shards(folder, torch.save, "pytorch_model", ".bin"),
    "the hub's preprocessor": lambda folder: WhisperFeatureExtractor(feature_size=8).save_pretrained(folder),
}


@pytest.mark.parametrize("form", FORMS)
def test_load_takes_every_form(form: str, whole: WhisperModel, whisper: Path) -> None:
    FORMS[form](whisper)
    found = load_transformers(whisper)
    assert_same_encoder(found, whole.encoder)
    assert not found.normalize


@pytest.mark.parametrize("task", [WhisperForConditionalGeneration, WhisperForAudioClassification])
def test_load_takes_models_of_other_tasks(task: type, tmp_path: Path) -> None:
    model = with_random_weights(task(make_config(*WHISPER, use_weighted_layer_sum=True)))
    model.save_pretrained(tmp_path)
    assert_same_encoder(load_transformers(tmp_path), (getattr(model, "model", model)).encoder)


def test_load_takes_half_precision_as_float32(wave: torch.Tensor, tmp_path: Path) -> None:
    """From a config as older versions of transformers wrote it to the hub."""
    model = with_random_weights(WhisperModel(make_config(*WHISPER)).eval()).half()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "float16"
    config |= {"architectures": ["WhisperForConditionalGeneration"], "num_hidden_layers": 3, "max_length": 448}
    config |= {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3], "forced_decoder_ids": [[1, 2], [2, 3]]}
    config |= {"torch_dtype": config.pop("dtype"), "use_cache": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, fresh = load_transformers(tmp_path), load_transformers(tmp_path, random=True)
    assert_same_encoder(loaded, model.float().encoder)
    again = skeleton(json.loads(json.dumps(loaded.config.to_diff_dict())), False)
    again.load_state_dict(loaded.state_dict())
    assert {p.dtype for each in (fresh, again) for p in each.parameters()} == {torch.float32}
    assert torch.isfinite(fresh(wave).frames).all()


# --- normalisation ---

IN_PROCESSOR = {"feature_extractor": {"do_normalize": True}, "processor_class": "Wav2Vec2Processor"}
SOURCES: dict[str, tuple[dict[str, Any], str, str]] = {  # files -> whether to normalise, group and layer; the source
    "v4, on": ({EXTRACTOR: {"do_normalize": True}}, "yy", EXTRACTOR),
    "v4, off": ({EXTRACTOR: {"do_normalize": False}}, "nn", EXTRACTOR),
    "v4, silent": ({EXTRACTOR: {"sampling_rate": 16_000}}, "yy", f"{EXTRACTOR}: transformers' default"),
    "v4, null": ({EXTRACTOR: {"do_normalize": None}}, "nn", EXTRACTOR),
    "v5, on": ({PROCESSOR: IN_PROCESSOR}, "yy", PROCESSOR),
    "v5, off": ({PROCESSOR: {"audio_processor": {"do_normalize": False}}}, "nn", PROCESSOR),
    "v5, silent": ({PROCESSOR: {"feature_extractor": {}}}, "yy", f"{PROCESSOR}: transformers' default"),
    "v5 goes first": ({PROCESSOR: IN_PROCESSOR, EXTRACTOR: {"do_normalize": False}}, "yy", PROCESSOR),
    "v4 beside v5's empty one": ({PROCESSOR: {"processor_class": "x"}, EXTRACTOR: {}}, "yy", f"{EXTRACTOR}: trans.*"),
    "neither": ({}, "ny", "assumed of feat_extract_norm (group|layer)"),
    "neither, but a tokenizer's": ({PROCESSOR: {"processor_class": "x"}}, "ny", "assumed of feat_extract_norm .*"),
}


@pytest.mark.parametrize(("family", "style"), [HUBERT, XLSR], ids="-".join)
def test_load_normalises_as_transformers_does(folder: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    for files, expected, origin in SOURCES.values():
        for name in (EXTRACTOR, PROCESSOR):
            (folder / name).unlink(missing_ok=True)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        if "assumed" not in origin:
            theirs = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False).do_normalize
            assert ("y" if theirs else "n") == expected[0] == expected[1]
        capsys.readouterr()
        found = load_transformers(folder)
        assert found.normalize is (expected[style == "large"] == "y"), files
        assert re.fullmatch(origin, found.origin["normalize"])
        printed = capsys.readouterr().out
        assert printed.count("\n") == printed.count("(assumed of feat_extract_norm") == ("assumed" in origin)


@pytest.mark.parametrize(("family", "style"), [WHISPER])
def test_whisper_normalises_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own extractor has normalisation off, and no file says otherwise than `on`."""
    (folder / EXTRACTOR).unlink()
    for content, expected in ((None, False), ({}, False), ({"do_normalize": True}, True)):
        if content is not None:
            (folder / PROCESSOR).write_text(json.dumps({"feature_extractor": content}))
        assert load_transformers(folder).normalize is expected
    assert capsys.readouterr().out == ""


@WAVLM_ONLY
def test_normalisation_goes_into_the_artifact_and_back(folder: Path) -> None:
    (folder / EXTRACTOR).write_text('{"do_normalize": true}')
    backbone = load_transformers(folder)
    about = json.loads(json.dumps(describe_backbone(backbone)))
    assert (about["normalize"], about["origin"]) == (True, {"normalize": EXTRACTOR})
    again = build_backbone(about)
    assert (again.normalize, again.origin) == (True, backbone.origin)
    del about["origin"]  # of an older version
    assert build_backbone(about).normalize


# --- refused ---


@ANY_FAMILY
def test_load_refuses_other_preprocessing(folder: Path) -> None:
    other = {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "do_normalize": "false"}
    for key, value in {"sampling_rate": 8000, "feature_size": 80, **other}.items():
        for name, content in {EXTRACTOR: {key: value}, PROCESSOR: {"feature_extractor": {key: value}}}.items():
            (folder / name).write_text(json.dumps(content))
            with pytest.raises(InputError, match=f"has {key} .*(supported is|expected)"):
                load_transformers(folder)
            (folder / name).unlink()
    (folder / EXTRACTOR).write_text('{"do_normalize": 1.0}')
    with pytest.raises(InputError, match=r"has do_normalize 1\.0, expected"):
        load_transformers(folder)
    for content in ("{", "[]", ""):
        (folder / EXTRACTOR).write_text(content)
        with pytest.raises(InputError, match=EXTRACTOR):
            load_transformers(folder)


NOT_WEIGHTS = {
    "model.safetensors": (b"", b"\x00" * 100, b"PK\x03\x04", "cut", None),
    "pytorch_model.bin": (b"garbage", pickle.dumps({"weight": print}, protocol=2)),
}


@ANY_FAMILY
def test_load_refuses_files_that_are_no_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for name, contents in NOT_WEIGHTS.items():
        for content in contents:
            (folder / "model.safetensors").unlink(missing_ok=True)
            if content is not None:
                (folder / name).write_bytes(whole[:-1000] if content == "cut" else content)
            with pytest.raises(InputError, match=f"{folder}.*cannot be loaded"):
                load_transformers(folder)


FC, DENSE = "encoder.layers.1.fc1.weight", "encoder.layers.0.feed_forward.output_dense.bias"
KEY, CONV = "encoder.layers.1.attention.k_proj.weight", "feature_extractor.conv_layers.0.conv.weight"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (edit(lambda w: w.pop(FC)), f"1 weights are missing .*'{FC}'"),
    "decoder alone": (
        edit(lambda w: {name: w[name] for name in w if not name.startswith("encoder.")}),
        r"weights are missing .*'encoder\.",
    ),
    "unexpected": (
        with_weight("encoder.layers.7.fc1.bias", 2),
        "1 weights are not of the model .*'encoder.layers.7.fc",
    ),
    "of something else": (with_weight("lungs.weight", 2), "not of the model .*'lungs.weight'"),
    "wrong size": (with_weight(FC, 7, 32), rf"'{FC}' is of the wrong size: \[7, 32\], config.json asks for \[48, 32\]"),
    "twice": (with_weight("conv1.bias", 32), "'(encoder.)?conv1.bias' and '(encoder.)?conv1.bias' are the same weight"),
    "whole numbers": (with_weight(FC, 48, 32, dtype=torch.int8), f"'{FC}' is no tensor of floating-point numbers"),
    "no tensors": (lambda folder: as_pickle(folder, [1, 2]), "pytorch_model.bin: the weights cannot be loaded"),
    "a shard missing": (
        lambda folder: (FORMS["safetensors in shards"](folder), (folder / "part-1.safetensors").unlink()),
        "index.json: the weights cannot be loaded .*names 'part-1.safetensors', which is not there",
    ),
    "a broken index": (
        lambda folder: (
            (folder / "model.safetensors").rename(folder / "x")
            and (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
        ),
        "index.json: the weights cannot be loaded",
    ),
    "another spectrogram": (partial(written, EXTRACTOR, '{"hop_length": 320}'), "hop_length 320, supported is 160"),
    "other mel bins": (partial(written, EXTRACTOR, '{"feature_size": 80}'), "feature_size 80, supported is 8 "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_refuses(damage: str, whisper: Path) -> None:
    change, expected = DAMAGES[damage]
    change(whisper)
    with refused(expected, whisper):
        load_transformers(whisper)


@pytest.mark.parametrize(("family", "style"), [WAVLM, XLSR, HUBERT])
def test_load_refuses_other_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for lost in (KEY, CONV):
        edit(lambda w, lost=lost: w.pop(lost))(folder)
        with pytest.raises(InputError, match=rf"{folder}: 1 weights are missing .*'{lost}'"):
            load_transformers(folder)
        (folder / "model.safetensors").write_bytes(whole)
    with_weight(DENSE, 7)(folder)
    with pytest.raises(InputError, match=rf"'{DENSE}' is of the wrong size"):
        load_transformers(folder)


def test_load_refuses_other_models(tmp_path: Path) -> None:
    contents = {None: "config.json", "{": "not valid", "{}": "model_type", '{"model_type": "nonesuch"}': "nonesuch"}
    for content, expected in contents.items():
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        for load in (load_config, load_transformers):
            with pytest.raises(InputError, match=f"{tmp_path}.*{expected}"):
                load(tmp_path)
    shutil.rmtree(tmp_path)
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    model = BertModel(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="model type 'bert'; supported are wav2vec2, hubert, wavlm, whisper"):
        load_transformers(tmp_path)
    with pytest.raises(InputError, match="model type 'bert'"):
        wrap(model)
