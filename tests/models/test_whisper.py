"""Whisper's encoder against transformers', at 30 s and at any length; its windows; from training to an artifact."""

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import hybrid_pruning as hp
from corpus import configure, write_whisper, write_world
from encoders import WHISPER, MakeBackbone, make_config, relative_error, states_of_transformers, with_random_weights
from hybrid_pruning.benchmarks.comparison import latency_ratio
from hybrid_pruning.models.backbone import Backbone, load_transformers, wrap
from hybrid_pruning.models.backbone.families import whisper_windows
from hybrid_pruning.models.backbone.whisper import LogMel
from hybrid_pruning.reporting.inspection import inspect_model, print_inspection
from hybrid_pruning.scoring.scores import score
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train

Record = Callable[[str, float], float]
WEIGHTS = Path(__file__).parents[3] / "shared" / "weights" / "whisper-tiny-encoder"
FRAME = 320
"""Samples from one frame to the next."""


@pytest.fixture
def kind() -> tuple[str, str]:
    return WHISPER


def speech_like(samples: int, rows: int = 1) -> torch.Tensor:
    """Noise that swells and fades, [rows, samples]."""
    noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(1))
    return noise * torch.sin(torch.arange(samples) / 2000).square() * 0.1


def of_positions(encoder: WhisperEncoder, positions: int) -> WhisperEncoder:
    """The same encoder with the first positions alone, so that transformers takes shorter audio."""
    config = AutoConfig.for_model(**{**encoder.config.to_diff_dict(), "max_source_positions": positions})
    short = WhisperEncoder(config).eval()
    weights = encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
    short.load_state_dict(weights, strict=True)
    return short


# --- against transformers ---


def test_equal_to_transformers_at_30_seconds(make_backbone: MakeBackbone, record: Record) -> None:
    """From the waveform on, through its extractor and its full model."""
    config = make_config(*WHISPER, max_source_positions=1500, hidden_size=16, num_hidden_layers=2, num_mel_bins=80)
    torch.manual_seed(0)
    model = with_random_weights(WhisperModel(config).eval())
    wave = speech_like(480_000)
    features = WhisperFeatureExtractor(feature_size=80)(wave[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    expected = states_of_transformers(model.encoder, features["input_features"])
    with torch.no_grad():
        hidden = wrap(model)(wave)
    assert hidden.frames.shape == expected.shape == (3, 1, 1500, 16)
    assert record("= transformers", relative_error(expected, hidden.frames)) <= 1e-5


@pytest.mark.parametrize("frames", [1, 7, 16])
def test_equal_to_transformers_at_any_length(frames: int, backbone: Backbone, record: Record) -> None:
    wave = speech_like(frames * FRAME, rows=2)
    features, _ = LogMel(backbone.config.num_mel_bins)(wave)
    expected = states_of_transformers(of_positions(backbone.encoder, frames), features)
    hidden = backbone(wave)
    assert hidden.lengths is None
    assert hidden.frames.shape == expected.shape
    assert record("= transformers", relative_error(expected, hidden.frames.detach())) <= 1e-5


@torch.no_grad()
def test_equal_to_transformers_layers_under_the_same_mask(backbone, wave, lengths, record):
    """Its eager attention with minus infinity added, in place of ours with a mask of truth values."""
    config = make_config(*WHISPER)
    config._attn_implementation = "eager"
    eager = WhisperEncoder(config).eval()
    eager.load_state_dict(backbone.encoder.state_dict(), strict=True)
    hidden = backbone(wave, lengths)
    outside = torch.arange(hidden.frames.shape[2]) >= hidden.lengths[:, None]
    mask = torch.zeros(outside.shape).masked_fill(outside, float("-inf"))[:, None, None, :]
    x = hidden.frames[0]
    for layer, found in zip(eager.layers, hidden.frames[1:], strict=True):
        x = layer(x, mask)
        error = relative_error(x[None], found[None], hidden.lengths)
        assert record("= transformers, padded", error) <= 1e-5


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs ../shared/weights/whisper-tiny-encoder")
def test_pretrained_weights_give_the_states_of_transformers(record: Record) -> None:
    backbone = hp.load_backbone(WEIGHTS)
    assert sum(p.numel() for p in backbone.parameters()) == 8_208_384
    encoder = WhisperEncoder(AutoConfig.from_pretrained(WEIGHTS)).eval()
    stored = load_file(WEIGHTS / "model.safetensors")
    encoder.load_state_dict({name.removeprefix("encoder."): w.float() for name, w in stored.items()}, strict=True)
    wave = speech_like(200 * FRAME)
    features, _ = LogMel(80)(wave)
    expected = states_of_transformers(of_positions(encoder, 200), features)
    with torch.no_grad():
        found = backbone(wave).frames
    assert record("= transformers", relative_error(expected, found)) <= 1e-5


# --- its own length, and no more ---


def macs(backbone: Backbone, wave: torch.Tensor, lengths: torch.Tensor | None = None) -> float:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone(wave, lengths)
    return counter.get_total_flops() / 2


def test_a_batch_costs_its_own_length_and_long_audio_in_proportion(make_backbone: MakeBackbone) -> None:
    backbone = make_backbone(max_source_positions=1500)
    one = macs(backbone, torch.zeros(1, 16_000))
    assert macs(backbone, torch.zeros(3, 16_000), torch.tensor([16_000, 9_000, 300])) == 3 * one
    backbone = make_backbone(max_source_positions=5)
    one = macs(backbone, torch.zeros(1, 5 * FRAME))
    assert macs(backbone, torch.zeros(1, 20 * FRAME)) == 4 * one
    assert macs(backbone, torch.zeros(1, 500 * FRAME)) == 100 * one


@pytest.mark.parametrize(("shortest", "masked"), [(3200, False), (3199, True)])
def test_a_mask_only_where_lengths_differ(shortest: int, masked: bool, backbone: Backbone) -> None:
    masks = []
    backbone.encoder.layers[0].register_forward_pre_hook(
        lambda _, __, arguments: masks.append(arguments["attention_mask"]), with_kwargs=True
    )
    hidden = backbone(torch.randn(2, 3200), torch.tensor([3200, shortest]))
    assert (masks[0] is not None) == masked
    assert hidden.lengths.tolist() == [10, 10]


# --- windows ---


@pytest.mark.parametrize("positions", [1, 2, 5, 1500])
def test_windows_are_few_and_alike(positions: int) -> None:
    for frames in [*range(1, 60), 2999, 3000, 3001, 6000, 6001, 100_001]:
        ends = whisper_windows(frames, positions)
        sizes = [(end - start + 1) // 2 for start, end in pairwise((0, *ends))]
        assert ends[-1] == frames
        assert all(end % 2 == 0 for end in ends[:-1])
        assert sum(sizes) == (frames + 1) // 2
        assert len(sizes) == -(-sum(sizes) // positions)
        assert max(sizes) <= positions
        assert max(sizes) - min(sizes) <= 1


def test_windows_are_encoded_each_on_its_own(make_backbone: MakeBackbone, record: Record) -> None:
    backbone = make_backbone(max_source_positions=5)
    wave = speech_like(13 * FRAME)
    features, _ = LogMel(backbone.config.num_mel_bins)(wave)
    expected = torch.cat(
        [
            states_of_transformers(of_positions(backbone.encoder, (end - start) // 2), features[:, :, start:end])
            for start, end in ((0, 8), (8, 16), (16, 26))
        ],
        dim=2,
    )
    hidden = backbone(wave)
    assert hidden.lengths is None
    assert record("= transformers", relative_error(expected, hidden.frames.detach())) <= 1e-5


def test_windows_in_a_padded_batch(make_backbone: MakeBackbone, record: Record) -> None:
    backbone = make_backbone(max_source_positions=5)
    lengths = torch.tensor([13 * FRAME, 300, 5 * FRAME, 9 * FRAME - 17])
    wave = speech_like(int(lengths.max()), rows=len(lengths)).requires_grad_()
    hidden = backbone(wave, lengths)
    assert hidden.lengths.tolist() == [13, 1, 5, 9]
    (hidden.frames[:, 0] ** 2).sum().backward()
    steps = wave.grad[0, : 13 * FRAME].unfold(0, FRAME, FRAME).abs().amax(1)
    assert (steps > 0).all(), "every window passes gradients on"
    assert wave.grad[1:].abs().sum() == 0
    for row, length in enumerate(lengths):
        alone = backbone(wave[row : row + 1, :length]).frames.detach()
        together = hidden.frames[:, row : row + 1, : alone.shape[2]].detach()
        assert record("padded = alone", relative_error(alone, together)) <= 1e-5


# --- from a folder to scores ---


def test_train_export_score_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_world(tmp_path)
    shutil.rmtree(tmp_path / "wavlm")
    folder = write_whisper(tmp_path / "whisper", max_source_positions=6)  # some dev utterances are longer
    config = configure(recipe, backbone__source=str(folder), backbone__gradient_checkpointing=True)
    run = train(config, tmp_path / "run")
    sparsity = [json.loads(line).get("sparsity") for line in (run / "log.jsonl").read_text().splitlines()]
    assert any(sparsity)
    export(run, tmp_path / "model")
    model = hp.SpeechModel.from_pretrained(tmp_path / "model")
    assert np.isfinite(score(model, config.data.dev, tmp_path / "scores.tsv", workers=0).scores).all()
    print_inspection(inspect_model(model))
    text = capsys.readouterr().out
    assert re.search(r"conv +channels *\n *0 +\d+/32 [^\n]+\n\n", text), "one convolution"
    assert " 40.0%" in text
    dense = hp.SpeechModel.build(load_transformers(folder), model.head_config, model.classes)
    assert latency_ratio(model, dense, seconds=0.2, repeats=2).median > 0
