"""Files that are no encoder for this program: named, with a remedy, and nothing in them is run."""

import argparse
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import hybrid_pruning as hp
from damage import Bomb, refused
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone.formats import describe_file

LAYERS = {f"encoder.layers.{index}.self_attn.k_proj.weight": torch.ones(2) for index in range(24)}
FAIRSEQ = {"feature_extractor.conv_layers.0.0.weight": torch.ones(2), **LAYERS}
HUBERT = {**FAIRSEQ, "label_embs_concat": torch.ones(2)}
WAVLM = {**FAIRSEQ, "encoder.layers.0.self_attn.grep_linear.weight": torch.ones(2)}
OURS = {"encoder.layers.0.attention.k_proj.weight": torch.ones(2)}
NAMESPACE = argparse.Namespace(arch="wav2vec2")
BEFORE_TORCH_16 = {"_use_new_zipfile_serialization": False}
XLSR, LARGE = "facebook/wav2vec2-xls-r-300m", "facebook/hubert-large-ll60k"


def saved(content: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path, **options)


def written(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def packed(*names: str) -> Callable[[Path], None]:
    """Return a maker of an archive, a tar file's or a zip file's by its suffix."""

    def write(path: Path) -> None:
        if path.suffix in (".tar", ".nemo"):
            with tarfile.open(path, "w") as archive:
                for name in names:
                    archive.addfile(tarfile.TarInfo(name))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, "x")

    return write


FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "fairseq, a Namespace": ("x.pt", saved({"args": NAMESPACE, "cfg": None, "model": FAIRSEQ}), f"wav2vec 2.0.*{XLSR}"),
    "fairseq, by its name": ("xlsr_53_56k.pt", saved({"args": NAMESPACE, "model": FAIRSEQ}), "wav2vec2-large-xlsr-53"),
    "fairseq, a dict": ("x.pt", saved({"args": None, "cfg": {"model": {"_name": "x"}}, "model": FAIRSEQ}), XLSR),
    "fairseq, before torch 1.6": ("x.pt", saved({"args": NAMESPACE, "model": FAIRSEQ}, **BEFORE_TORCH_16), XLSR),
    "fairseq, with a command": ("x.pt", saved({"args": Bomb(), "model": FAIRSEQ}), XLSR),
    "fairseq, HuBERT": ("x.pt", saved({"args": None, "model": HUBERT}), f"fairseq HuBERT.*{LARGE}"),
    "fairseq, data2vec": ("x.pt", saved({"args": None, "model": {**FAIRSEQ, "regression_head.0": 1}}), "data2vec"),
    "s3prl's form": ("x.pt", saved({"task_cfg": {}, "model_weight": HUBERT}), f"s3prl's form.*{LARGE}"),
    "UniSpeech": ("UniSpeech-SAT-Base.pt", saved({"cfg": {}, "model": FAIRSEQ}), "UniSpeech.*microsoft/wavlm-base"),
    "WavLM's own": ("x.pt", saved({"cfg": {"extractor_mode": "default"}, "model": FAIRSEQ}), "microsoft/wavlm-large"),
    "WavLM's own, by its name": ("WavLM-Base+.pt", saved({"cfg": {}, "model": WAVLM}), "microsoft/wavlm-base-plus"),
    "DiariZen": ("x.bin", saved({f"wavlm_model.{name}": 1 for name in FAIRSEQ}), "network of DiariZen;"),
    "a numpy number": (
        "x.pt",
        saved({"state_dict": FAIRSEQ, "config": {}, "best": np.float64(0.1)}),
        "an object of numpy.*scalar, .*save tensors and plain values alone",
    ),
    "s3prl, downstream": ("x.ckpt", saved({"Downstream": {}, "Featurizer": {}, "Args": NAMESPACE}), "of s3prl"),
    "ESPnet": ("x.pth", saved({"frontend.upstream.upstream.model.a": torch.ones(2)}), "ESPnet"),
    "OpenAI's Whisper": ("base.pt", saved({"dims": {}, "model_state_dict": {}}), "openai/whisper-base"),
    "NeMo": ("x.nemo", packed("./model_config.yaml", "./model_weights.ckpt"), "is a NeMo model"),
    "transformers' weights alone": ("x.bin", saved(OURS), "give the folder they lie in, with config.json"),
    "transformers' safetensors": ("x.safetensors", lambda path: save_file(OURS, path), "the folder they lie in"),
    "other safetensors": ("x.safetensors", lambda path: save_file({"a": torch.ones(1)}, path), "unknown layout .a."),
    "TorchScript": ("x.pt", packed("x/code/__torch__.py", "x/data.pkl"), "TorchScript program, which is never run"),
    "an archive": ("x.zip", packed("folder/config.json"), "is a .zip archive; unpack it"),
    "a tar": ("x.tar", packed("folder/config.json"), "is a tar archive; unpack it"),
    "a git-lfs pointer": ("x.bin", written(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "a web page": ("x.bin", written(b"\n<!DOCTYPE html><html>404</html>"), "is a web page"),
    "GGUF": ("x.gguf", written(b"GGUF\3\0\0\0"), "is a GGUF file"),
    "GGML": ("ggml-base.bin", written(b"lmgg\0\0\0\0"), "is a GGML file"),
    "Keras": ("tf_model.h5", written(b"\x89HDF\r\n\x1a\n"), "HDF5 file of TensorFlow"),
    "Flax": ("flax_model.msgpack", written(b"\x82"), "Flax weights"),
    "a recording": ("x.pt", written(b"RIFF\0\0\0\0WAVE"), "is a recording"),
    "nothing": ("x.pt", written(b""), "is empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, to train on and to score with, and as the one file of a folder."""
    monkeypatch.chdir(tmp_path)
    file, write, expected = FILES[name]
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / file)
    assert describe_file(tmp_path / "folder" / file)
    for load, place in ((hp.load_backbone, file), (hp.SpeechModel.from_pretrained, file), (hp.load_backbone, "")):
        if place == "" and file.endswith(".safetensors"):
            continue
        with refused(f"{re.escape(file)}.*{expected}"):
            load(tmp_path / "folder" / place)
    assert not (tmp_path / "exploded").exists()


def test_onnx_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    for place in (tmp_path, tmp_path / "model.onnx"):
        with pytest.raises(InputError, match=r"model\.onnx.* is an ONNX graph, which cannot be trained on"):
            hp.load_backbone(place)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_something_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper", "d_model": 12, "encoder_layers": 1}')
    for content, kind in {
        b"version https://git-lfs.github": "a git-lfs",
        b"<html>": "a web page",
        b"": "empty",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: the weights cannot be loaded \(is {kind}"):
            hp.load_backbone(tmp_path)


def test_random_bytes_are_never_a_traceback(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    torch.save({"model": FAIRSEQ}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    heads = (b"PK\3\4", b"\x80\2", b"\x80\4\x95", b"\x1f\x8b", b"\x10\0\0\0\0\0\0\0{", b"\x89HDF", b"")
    for index in range(60):
        content = bytearray(whole) if index % 2 else bytearray(generator.bytes(500))
        head = heads[index % len(heads)] if index % 4 < 2 else b""
        content[: len(head)] = head
        for place in generator.integers(0, len(content), 20):
            content[place] = generator.integers(0, 256)
        (tmp_path / "x.pt").write_bytes(content[: generator.integers(1, len(content))])
        with refused("x.pt"):
            hp.load_backbone(tmp_path / "x.pt")
