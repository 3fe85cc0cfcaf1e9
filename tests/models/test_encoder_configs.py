"""Hostile encoder configs: all of a config.json is checked before anything is allocated, fetched or run."""

import ast
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hybrid_pruning as hp
from damage import refused
from encoders import FAMILIES as CLASSES
from encoders import KINDS, make_config
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import FORMAT, FORMAT_VERSION
from hybrid_pruning.models.backbone import read_config, skeleton, wrap
from hybrid_pruning.models.backbone.configs import FAMILIES, HARMLESS
from hybrid_pruning.models.heads import Classes

SOURCE = Path(hp.__file__).parent
HOSTILE: list[tuple[str, Any, str]] = [
    ("model_type", "evil", "model type 'evil'; supported are wav2vec2"),
    ("model_type", "wav2vec2-conformer", "model type 'wav2vec2-conformer'; supported"),
    ("model_type", ["wavlm"], r"model type \['wavlm'\]"),
    ("model_type", None, "names no model_type"),
    ("quantization_config", {"quant_method": "gptq"}, "quantization_config .* is not supported"),
    ("_attn_implementation", "kernels-community/x", "_attn_implementation 'kernels-community/x'"),
    ("attn_implementation", "me/kernel:f", "attn_implementation 'me/kernel:f'"),
    ("_attn_implementation_internal", {"": "me/kernel"}, "_attn_implementation_internal"),
    ("dtype", "load", "dtype 'load'"),
    ("torch_dtype", "hub", "torch_dtype 'hub'"),
    ("dtype", ["float32"], "dtype"),
    ("hidden_size", -32, "hidden_size -32 .*greater than or equal to 1"),
    ("hidden_size", 0, "hidden_size 0"),
    ("hidden_size", 10**7, "hidden_size 10000000 .*less than"),
    ("hidden_size", 10**400, "hidden_size"),
    ("hidden_size", "32", "hidden_size '32' .*valid integer"),
    ("hidden_size", 32.0, "hidden_size 32.0"),
    ("hidden_size", True, "hidden_size True"),
    ("hidden_size", None, "hidden_size None"),
    ("hidden_size", 33, "hidden_size 33 is no multiple of num_attention_heads 4"),
    ("num_attention_heads", 0, "num_attention_heads 0"),
    ("num_hidden_layers", 10**7, "num_hidden_layers 10000000"),
    ("intermediate_size", 10**9, "intermediate_size"),
    ("hidden_act", "evil", "hidden_act 'evil'"),
    ("hidden_act", "prelu", "hidden_act 'prelu'"),
    ("feat_extract_activation", ["gelu"], "feat_extract_activation"),
    ("feat_extract_norm", "batch", "feat_extract_norm 'batch'"),
    ("conv_dim", [12] * 3, "makes no sense .*conv_dim.* = 3"),
    ("conv_dim", [], "conv_dim"),
    ("conv_dim", [12, 16, 12, "16"], "conv_dim.3 '16'"),
    ("conv_dim", 12, "conv_dim 12"),
    ("conv_dim", [8] * 10**5, "conv_dim"),
    ("conv_stride", [5, 2, 2, 0], "conv_stride.3 0"),
    ("conv_stride", [16000] * 4, "conv_kernel and conv_stride make a frame of"),
    ("conv_kernel", [16000] * 4, "conv_kernel and conv_stride make a frame of"),
    ("num_conv_pos_embedding_groups", 5, "no multiple of num_conv_pos_embedding_groups 5"),
    ("num_conv_pos_embeddings", 2**40, "num_conv_pos_embeddings"),
    ("layer_norm_eps", float("nan"), "layer_norm_eps"),
    ("hidden_dropout", 1.5, "hidden_dropout 1.5"),
    ("conv_bias", "yes", "conv_bias 'yes'"),
    ("num_buckets", 1, "num_buckets 1"),
    ("max_bucket_distance", 80, "max_bucket_distance 80 is too small"),
]


@pytest.fixture
def wavlm() -> dict[str, Any]:
    """Return the config.json of a tiny WavLM."""
    return {**json.loads(make_config("wavlm", "base").to_json_string()), "model_type": "wavlm"}


@pytest.fixture(scope="module")
def artifact() -> dict[str, Any]:
    """Return the description of a tiny detector without its digest, as of an older version."""
    backbone = wrap(CLASSES["wavlm"][1](make_config("wavlm", "base")))
    model = hp.SpeechModel.build(backbone, HeadConfig(), Classes(("spoof", "bonafide"), (1, 1)))
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **model.architecture()}


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a model is made at all, on whatever device."""
    for family in FAMILIES:
        monkeypatch.setattr(CLASSES[family][1], "__init__", lambda *_, **__: pytest.fail("a model was allocated"))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(("key", "value", "expected"), HOSTILE, ids=lambda part: str(part)[:20])
def test_a_hostile_config_is_one_line(key, value, expected, wavlm, artifact, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(wavlm | {key: value}))
    about = {**artifact, "backbone": {**artifact["backbone"], "config": wavlm | {key: value}}}
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "config.json").write_text(json.dumps(about))
    for load, place in ((hp.load_backbone, "."), (hp.SpeechModel.from_pretrained, "artifact")):
        began = time.process_time()
        with refused(expected, tmp_path) as caught:
            load(tmp_path / place)
        assert time.process_time() - began < 1
        assert len(str(caught.value)) < 2 * len(str(tmp_path)) + 400


def test_parameters_of_all_sizes_together_are_bounded(wavlm: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"make \d+\.\d billion parameters"):
        read_config(wavlm | {"hidden_size": 16384, "num_hidden_layers": 256, "intermediate_size": 65536}, "x")
    keys = {
        "wav2vec2": ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"),
        "whisper": ("d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads"),
    }
    for family, sizes in {"wav2vec2": (1920, 48, 7680, 16), "whisper": (1280, 32, 5120, 20)}.items():
        plain = {"model_type": family, **dict(zip(keys[family], sizes, strict=True))}  # the largest published ones
        assert read_config(plain, "x").hidden_size == sizes[0]


def test_harmless_values_pass(wavlm: dict[str, Any]) -> None:
    for key, value in [(key, value) for key, values in HARMLESS.items() for value in values]:
        assert not hasattr(read_config(wavlm | {key: value}, "x"), "quantization_config")


EVIL = "from pathlib import Path\nPath('{}').touch()\nfrom transformers import PreTrainedConfig\n"
EVIL += "class EvilConfig(PreTrainedConfig):\n    model_type = 'evil'\nEvilModel = EvilConfig\n"
MAP = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoFeatureExtractor": "evil.EvilConfig"}


@pytest.mark.parametrize("family", ["evil", "wavlm"])
def test_code_in_a_folder_is_never_run(family, wavlm, tmp_path, monkeypatch):
    folder, ran = tmp_path / "folder", tmp_path / "ran"
    CLASSES["wavlm"][1](make_config("wavlm", "base")).save_pretrained(folder)
    (folder / "evil.py").write_text(EVIL.format(ran))
    (folder / "config.json").write_text(json.dumps(wavlm | {"model_type": family, "auto_map": MAP}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": MAP, "do_normalize": False}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    if family == "evil":
        with pytest.raises(InputError, match="model type 'evil'"):
            hp.load_backbone(folder)
    else:
        assert hp.load_backbone(folder).depth == 4
    assert not ran.exists()


def test_nothing_in_the_source_lets_transformers_run_code() -> None:
    """Transformers' own loading is called with trust_remote_code=False, pickles are read as weights alone."""
    calls = 0
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for documented in ast.walk(tree := ast.parse(text)):  # words for users of what `convert` writes are no calls
            if isinstance(documented, ast.Module | ast.FunctionDef | ast.ClassDef):
                text = text.replace(ast.get_docstring(documented, clean=False) or "\0", "")
        asked = [key for call in ast.walk(tree) if isinstance(call, ast.Call) for key in call.keywords]
        assert all(ast.unparse(key.value) == "False" for key in asked if key.arg == "trust_remote_code"), path
        for call in re.findall(r"\bAuto[A-Z]\w+\.\w+\([^\n]*|\btorch\.load\([^\n]*", text):
            calls += 1
            assert ("weights_only=True" if call.startswith("torch.load") else "trust_remote_code=False") in call, path
        for loader in re.findall(r"(\w+)\.from_pretrained\(", text):
            assert loader == "SpeechModel", f"{path}: {loader}"
        if path.name == "workers.py":  # pipes between processes of this program
            continue
        assert not re.search(r"\b(pickle|dill|joblib|cloudpickle)\.loads?\(|allow_pickle=True|\bpipeline\(['\"]", text)
    assert calls >= 2


VALUES: list[Callable[[random.Random], Any]] = [
    lambda r: r.choice([None, True, False, "", "x" * 10**5, "gelu", "cat /etc/passwd", [], {}, [[]], {"a": {"b": []}}]),
    lambda r: r.choice([-1, 0, 1, 2, 3, 4, 7, 8, 12, 16, 64, 10**4, 10**7, 2**31, 2**63, 10**30, -(10**30)]),
    lambda r: r.choice([0.0, -0.0, 0.5, 1.0, 1.5, -3.0, 1e-12, 1e300, float("inf"), float("nan")]),
    lambda r: [r.choice([1, 2, 3, 8, 0, -1, 10**9, "1", None, 1.5]) for _ in range(r.randint(0, 5))],
    lambda r: [r.randint(1, 12) for _ in range(4)],
]


def fuzz(seed: int, count: int) -> tuple[int, int]:
    """Change keys of small configs at random; return how many were taken and refused."""
    r, taken, refused = random.Random(seed), 0, 0
    for _ in range(count):
        family, style = r.choice(KINDS)
        plain = {**json.loads(make_config(family, style).to_json_string()), "model_type": family}
        plain = {key: value for key, value in plain.items() if value is not None or r.random() < 0.5}
        keys = [*plain, *HARMLESS, "auto_map", "num_feat_extract_layers", "channel_scale", "waveform_eps"]
        for _ in range(r.randint(1, 2)):
            plain[r.choice(keys)] = r.choice(VALUES)(r)
        began, refusal = time.process_time(), ""
        try:
            config = read_config(plain, "x")
        except InputError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert len(refusal) < 500
        if refusal:
            refused += 1
            continue
        with torch.device("meta"):  # whatever is taken can be built, and its description is the same again
            backbone = skeleton(config, False)
        again = read_config({**json.loads(json.dumps(config.to_diff_dict()))}, "x")
        assert again.to_dict() == config.to_dict()
        assert backbone.minimum_samples < 50_000
        taken += 1
        assert time.process_time() - began < 2, plain
    return taken, refused


def test_random_configs() -> None:
    assert min(fuzz(seed=0, count=25)) > 5


@pytest.mark.soak
def test_many_random_configs() -> None:
    for seed in range(1, 20):
        assert min(fuzz(seed, count=60)) > 10
