"""Pruned models in transformers, without this package: hidden states, scores and the pipeline give the same."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

import hybrid_pruning as hp
from encoders import (
    FAMILIES,
    KINDS,
    LENGTHS,
    NO_DROPOUT,
    close,
    make_config,
    relative_error,
    shuffle,
    with_random_weights,
)
from foreign_files import write_whole
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.backbone import Backbone, wrap
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import save_backbone

SUPPORT = Path(__file__).parents[1] / "support"
CLOSED = ("attlayer.0", "ffnlayer.0", "head.1", "ffnlayer.1", "interm.2")
"""The first layer as a whole, two sub-layers without units, one closed; WavLM's first layer has the position bias."""
HEADS = (
    HeadConfig(heads=3, compression=4, embedding=5),
    HeadConfig(heads=3, compression=4, embedding=5, feature_mean=True, classifier_norm="batch"),
    HeadConfig(kind="statistics", embedding=5, classifier_norm="affine"),
)
CLASSES = (Classes(("spoof", "bonafide"), (9, 1)), Classes(("A01", "bonafide", "A02"), (5, 2, 3)))
WINDOWS = {"max_source_positions": 16, "num_mel_bins": 80}
"""Of 0.32 s, shorter than one of the utterances."""


@dataclass
class Case:
    """A model, and by name what transformers alone gave of its folder."""

    model: hp.SpeechModel | Backbone
    folder: Path

    def __getitem__(self, key: str) -> Any:
        with np.load(f"{self.folder}.npz") as content:
            found = content[key]
        return torch.from_numpy(found) if found.dtype.kind == "f" else found.tolist()

    @property
    def backbone(self) -> Backbone:
        return self.model.backbone if isinstance(self.model, hp.SpeechModel) else self.model


def make_encoder(family: str, style: str, normalize: bool, **overrides: object) -> Backbone:
    torch.manual_seed(0)
    options = {**NO_DROPOUT, "num_hidden_layers": 4, **(WINDOWS if family == "whisper" else {}), **overrides}
    backbone = wrap(with_random_weights(FAMILIES[family][1](make_config(family, style, **options))), normalize).eval()
    gates = hp.pruning.attach(backbone)
    shuffle(gates, seed=7)
    for gate in gates.values():
        if gate.slot.size == 1:
            gate.log_alpha.data[:] = 20.0
    close(gates, *CLOSED)
    return hp.pruning.shrink(backbone, gates).eval()


def make_detector(backbone: Backbone, number: int) -> hp.SpeechModel:
    torch.manual_seed(number)
    model = hp.SpeechModel.build(backbone, HEADS[number % len(HEADS)], CLASSES[number % len(CLASSES)])
    for name, tensor in model.state_dict().items():
        if not name.startswith("backbone.") and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1 if "var" in name else torch.randn_like(tensor))
    if number % 2:
        model.calibration = Calibration((Fit(0.7, -1.3, 0.5, "scores", "keys", "digest", 3, 4),))
    return model.eval()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every kind of encoder with a detector's head, and other models, through one process that lacks this package."""
    root = tmp_path_factory.mktemp("transformers")
    models: dict[str, hp.SpeechModel | Backbone] = {}
    with torch.no_grad():
        for number, (family, style) in enumerate(KINDS):
            encoder = make_encoder(family, style, normalize=number % 2 == 0 and family != "whisper")
            models[f"{family}-{style}"] = make_detector(encoder, number)
        models["encoder"] = make_encoder("wavlm", "base", True, waveform_eps=1e-3)
        models["batch-norm"] = make_encoder("hubert", "base", False, conv_pos_batch_norm=True)
    for name, model in models.items():
        if isinstance(model, hp.SpeechModel):
            model.save_pretrained(root / "ours" / name)
        else:
            save_backbone(model, root / "ours" / name, {})
    models["recipe"] = hp.SpeechModel.from_pretrained(
        write_whole(root / "ours" / "recipe", style="large", conv_6=[0, 1])
    )
    for name in models:
        hp.convert(root / "ours" / name, root / "theirs" / name, "transformers")
    waves = {str(place): 0.1 * wave for place, wave in enumerate(recordings())}
    np.savez(root / "theirs" / "waves.npz", **waves)  # type: ignore[arg-type]
    environment = {**os.environ, "HF_MODULES_CACHE": str(root / "modules"), "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, str(SUPPORT / "transformers_alone.py"), str(root / "theirs")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for complaint in ("not supported", "UNEXPECTED", "MISSING"):
        assert complaint not in done.stderr
    return {name: Case(model, root / "theirs" / name) for name, model in models.items()}


def recordings() -> Iterator[np.ndarray]:
    """Yield waveforms of differing lengths, the first of them not the longest, with an offset."""
    draw = np.random.default_rng(3)
    for length in (LENGTHS[1], LENGTHS[0], LENGTHS[2], 3 * LENGTHS[0]):
        yield (draw.normal(size=length) + 0.3).astype(np.float32)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    waves = [0.1 * torch.from_numpy(wave) for wave in recordings()]
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([*map(len, waves)])


NAMES = [*(f"{family}-{style}" for family, style in KINDS), "encoder", "batch-norm", "recipe"]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_hidden_states_are_ours(cases: dict[str, Case], name: str):
    backbone, found = cases[name].backbone, cases[name]
    wave, lengths = batch()
    expected = backbone(wave, lengths)
    assert relative_error(expected.frames, found["padded"], expected.lengths) < 1e-5
    alone = backbone(wave[:1, : lengths[0]]).frames
    assert relative_error(alone, found["alone"]) < 1e-5
    assert found["class"].startswith("Pruned")
    last = backbone.encoder.layer_norm(alone[-1]) if backbone.pre_norm else alone[-1]
    assert relative_error(last[None], found["last alone"][None]) < 1e-5


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("encoder", "batch-norm")])
@torch.no_grad()
def test_scores_are_ours(cases: dict[str, Case], name: str):
    model, found = cases[name].model, cases[name]
    assert isinstance(model, hp.SpeechModel)
    wave, lengths = batch()
    scores = model.score(wave, lengths)
    assert found["faults"] == []
    assert torch.equal(found["scores padded"][:, 1], torch.zeros(len(lengths)))
    assert torch.allclose(found["scores padded"][:, 0], scores, rtol=1e-5, atol=1e-5 * float(scores.abs().max()))
    alone = float(model.score(wave[:1, : lengths[0]]))
    assert found["scores alone"][0].tolist() == pytest.approx([alone, 0], rel=1e-5, abs=1e-5)
    share = dict(zip(found["labels"], found["shares"].tolist(), strict=True))
    assert share == pytest.approx({"bonafide": 1 / (1 + np.exp(-alone)), "spoof": 1 / (1 + np.exp(alone))}, abs=1e-5)


def test_the_config_says_what_is_left(cases: dict[str, Case]):
    config = json.loads((cases["wavlm-large"].folder / "config.json").read_text())
    first, second, third, last = config["kept_heads"]
    assert (first, second, config["ffn_widths"][:3]) == (None, [], [None, None, 0])
    assert third != last
    for heads in (third, last):
        assert 0 < len(heads) < 4
    assert 0 < config["ffn_widths"][3] < 48
    assert all(0 < kept < dense for kept, dense in zip(config["conv_widths"], config["conv_dim"], strict=True))
    assert config["id2label"] == {"0": "bonafide", "1": "spoof"}
    assert json.loads((cases["recipe"].folder / "config.json").read_text())["waveform_eps"] == 1e-5


def test_code_runs_only_where_it_is_trusted(cases: dict[str, Case]):
    folder = cases["encoder"].folder
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModel.from_pretrained(folder, trust_remote_code=False)
    with pytest.raises(InputError, match=r"pruned_wavlm.*give the model that it was converted from"):
        hp.load_backbone(folder)
