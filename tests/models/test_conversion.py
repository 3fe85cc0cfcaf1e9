"""Conversion: foreign models become artifacts that give the same, encoders folders that transformers loads itself."""

import json
import re
from pathlib import Path

import pytest
import torch
from test_foreign import FILES, NEEDS_REFERENCE, REFERENCE, STYLES, assert_as_expected
from transformers import AutoFeatureExtractor, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import hybrid_pruning as hp
from corpus import files_below
from encoders import WHISPER, MakeBackbone, close, relative_error, shuffle, states_of_transformers
from foreign_files import write_encoder, write_whole
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import save_backbone
from hybrid_pruning.pruning import shape_of
from world import Cli

HEAD = HeadConfig(heads=3, compression=4, embedding=5)
SHAPES = {
    "dense": (),
    "half": ("head.0", "interm.1", "conv.0"),
    "layers": ("attlayer.0", "ffnlayer.1", "conv.3"),
    "all heads and neurons": ("head.*", "interm.*"),
}
CASES = [
    *(("wavlm", "base", shape) for shape in SHAPES),
    *(("wavlm", "large", "half"), ("wav2vec2", "base", "dense"), ("wav2vec2", "large", "layers")),
    *(("hubert", "base", "half"), ("hubert", "large", "all heads and neurons")),
]


def cut_to(backbone: Backbone, *patterns: str, share: float = 1.0) -> Backbone:
    gates = hp.pruning.attach(backbone)
    shuffle(gates, seed=4)
    close(gates, *patterns, share=share)
    return hp.pruning.shrink(backbone, gates).eval()


@NEEDS_REFERENCE
@pytest.mark.parametrize(("style", "file"), [*zip(STYLES, ("", *FILES[:2]), strict=True)])
def test_a_reference_model_as_an_artifact(style: str, file: str, tmp_path: Path):
    hp.convert(REFERENCE / style / file, tmp_path / "model")
    model = hp.SpeechModel.from_pretrained(tmp_path / "model")
    assert_as_expected(model, style)
    about = model.provenance["converted"]
    assert about["file"] == (file or "whole_pytorch_model.bin")
    assert re.fullmatch("[0-9a-f]{64}", about["sha256"])
    assert any("bonafide, spoof" in line for line in about["assumed"])


def test_an_encoder_alone_as_an_artifact(cli: Cli, tmp_path: Path):
    file = write_encoder(tmp_path / "foreign")
    found = cli("convert", str(file), "--out", "encoder")
    assert (found.code, found.err) == (0, "")
    assert "pruned or dense encoder of 0.0" in found.out
    wave = torch.randn(1, 4000)
    expected, backbone = hp.load_backbone(file), hp.load_backbone(tmp_path / "encoder")
    assert torch.equal(backbone(wave).frames, expected(wave).frames)
    assert not backbone.training
    with pytest.raises(InputError, match=r"an encoder alone, without head; train on it: --set backbone\.source="):
        hp.SpeechModel.from_pretrained(tmp_path / "encoder")


def test_a_converted_model_scores_and_is_inspected(cli: Cli, tmp_path: Path):
    write_whole(tmp_path / "foreign")
    found = cli("convert", "foreign", "--out", "model")
    assert (found.code, found.err) == (0, "")
    assert "assumed: logits in the order bonafide, spoof" in found.out
    wave = torch.randn(2, 5000)
    before, after = (hp.SpeechModel.from_pretrained(tmp_path / name) for name in ("foreign", "model"))
    assert torch.equal(before.score(wave), after.score(wave))
    assert "converted from whole_pytorch_model.bin" in cli("inspect", "model").out


@torch.no_grad()
def test_gates_are_cut_as_asked(cli: Cli, tmp_path: Path):
    write_whole(tmp_path / "foreign", conv_6=[0, 1], head_1=[0, 1, 2, 3])
    wave, frames = torch.randn(1, 4000), []
    for cut, options in {"cut as the recipe exports": (), "cut as trained": ("--as-trained",)}.items():
        assert cli("convert", "foreign", "--out", cut, *options).code == 0
        assert json.loads((tmp_path / cut / "config.json").read_text())["provenance"]["converted"]["gates"] == cut
        frames.append(hp.load_backbone(tmp_path / cut)(wave).frames)
    assert relative_error(*frames) > 1e-3
    with pytest.raises(InputError, match="in front of a norm"):
        hp.convert(tmp_path / "cut as trained", tmp_path / "plain", "transformers", zero_pad=True)


def test_impossible_conversions_are_refused(cli: Cli, tmp_path: Path):
    write_whole(tmp_path / "foreign")
    before = files_below(tmp_path)
    for arguments, message in {
        "nowhere --out new": "neither a folder here nor a model",
        ". --out new": "holds no model of WeDefense",
        "foreign --out new --as-trained": "has no gates any more",
        "foreign --out new --zero-pad": "belongs to --to transformers",
        "foreign --out new --as-trained --to transformers": "belongs to --to artifact",
        "foreign --out new --to onnx": "onnx",
        "foreign --out foreign": "is not empty",
        "foreign --out foreign --to transformers": "is not empty",
    }.items():
        found = cli("convert", *arguments.split())
        assert (found.code, found.out) == (2, ""), arguments
        assert message in found.err
        assert files_below(tmp_path) == before
    with pytest.raises(InputError, match="expected 'artifact' or 'transformers'"):
        hp.convert(tmp_path / "foreign", tmp_path / "new", "onnx")


@pytest.mark.parametrize(("family", "style", "shape"), CASES, ids=[*map("-".join, CASES)])
@torch.no_grad()
def test_transformers_gives_the_same(make_backbone: MakeBackbone, shape: str, wave: torch.Tensor, tmp_path: Path):
    backbone = make_backbone()
    if shape != "dense":
        backbone = cut_to(backbone, *SHAPES[shape], share=0.5 if shape == "half" else 1.0)
    torch.manual_seed(0)
    hp.SpeechModel.build(backbone, HEAD, Classes(("spoof", "bonafide"), (1, 1))).save_pretrained(tmp_path / "model")
    found = hp.convert(tmp_path / "model", tmp_path / "plain", "transformers", zero_pad=True)
    assert found == {"loader": "AutoModel", "code": False}
    plain, info = AutoModel.from_pretrained(tmp_path / "plain", output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert relative_error(backbone(wave).frames, states_of_transformers(plain.eval(), wave)) < 1e-5
    again = hp.load_backbone(tmp_path / "plain")
    assert shape_of(again) is None
    assert relative_error(backbone(wave).frames, again(wave).frames) < 1e-5


@pytest.mark.parametrize(("family", "style"), [("wavlm", "base")])
def test_normalisation_is_written(make_backbone: MakeBackbone, tmp_path: Path):
    for normalize in (True, False):
        save_backbone(make_backbone(normalize=normalize), tmp_path / f"encoder{normalize}", {})
        hp.convert(tmp_path / f"encoder{normalize}", tmp_path / f"plain{normalize}", "transformers")
        assert hp.load_backbone(tmp_path / f"plain{normalize}").normalize is normalize


@pytest.mark.parametrize(("family", "style"), [("wavlm", "base")])
def test_of_a_verifier_the_encoder_is_written(make_backbone: MakeBackbone, cli: Cli, tmp_path: Path):
    for name, closed in {"dense": (), "cut": ("head.0", "conv.0")}.items():
        backbone = cut_to(make_backbone(), *closed, share=0.5) if closed else make_backbone()
        hp.SpeechModel.build(backbone, HEAD, None).save_pretrained(tmp_path / name)
        found = cli("convert", name, "--to", "transformers", "--out", f"{name}-plain")
        trust = " with trust_remote_code=True" if closed else ""
        assert f"AutoModel.from_pretrained takes it{trust}; head and classifier, if any, stay in {name}" in found.out
        assert (tmp_path / f"{name}-plain" / "modeling_pruned.py").exists() == bool(closed)


@pytest.mark.parametrize(("family", "style"), [WHISPER])
@pytest.mark.parametrize("shape", ["dense", "cut"])
@torch.no_grad()
def test_whispers_encoder_by_transformers(make_backbone: MakeBackbone, shape: str, tmp_path: Path):
    backbone = make_backbone(max_source_positions=50)
    if shape == "cut":
        backbone = cut_to(backbone, "head.0", "interm.1", share=0.5)
    save_backbone(backbone, tmp_path / "encoder", {})
    found = hp.convert(tmp_path / "encoder", tmp_path / "plain", "transformers", zero_pad=shape == "cut")
    assert found == {"loader": "WhisperEncoder", "code": False}
    plain, info = WhisperEncoder.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    features = AutoFeatureExtractor.from_pretrained(tmp_path / "plain")
    assert features.n_samples == 2 * backbone.config.max_source_positions * features.hop_length, "all the model takes"
    wave = torch.randn(1, features.n_samples, generator=torch.Generator().manual_seed(1))
    spectrum = features(wave[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    states = plain.eval()(spectrum, output_hidden_states=True)
    frames = backbone(wave).frames
    assert relative_error(frames[:-1], torch.stack(states.hidden_states[:-1])) < 1e-5
    assert relative_error(plain.layer_norm(frames[-1]), states.last_hidden_state) < 1e-5
    assert relative_error(frames, hp.load_backbone(tmp_path / "plain")(wave).frames) < 1e-5


@torch.no_grad()
def test_a_dense_foreign_encoder_to_transformers(tmp_path: Path):
    for style in ("base", "large"):
        file = write_encoder(tmp_path / "foreign", "wavlm", style)
        hp.convert(
            file, tmp_path / style, "transformers", zero_pad=style == "large"
        )  # whose eps they have no place for
        wave, backbone = torch.randn(2, 4000), hp.load_backbone(file)
        backbone.normalize = False  # transformers leaves that to the preprocessor
        plain = AutoModel.from_pretrained(tmp_path / style, attn_implementation="eager").eval()
        assert relative_error(backbone(wave).frames, states_of_transformers(plain, wave)) < 1e-5
