"""Waveforms in every accepted form give the same scores; others are refused by one line with expected and found."""

import copy

import pytest
import torch

from corpus import tiny_detector
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.speech_model import SpeechModel
from wave_variants import ALONE, EQUAL, LENGTHS, REFUSED, ROUNDED, TENSOR


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return tiny_detector(tmp_path_factory.mktemp("waves") / "encoder").eval()


def test_equal_waveforms_have_equal_scores(model: SpeechModel):
    expected = model.score(TENSOR, LENGTHS)
    assert not torch.equal(expected, model.score(TENSOR)), "lengths matter"
    for name, (wave, lengths) in EQUAL.items():
        assert torch.equal(model.score(wave, lengths), expected), name
        assert (model.embed_arrays(wave, lengths) == model.embed_arrays(TENSOR, LENGTHS)).all(), name
    for name, (wave, lengths) in ROUNDED.items():
        torch.testing.assert_close(model.score(wave, lengths), expected, rtol=0.05, atol=0.02, msg=name)
    for name, (wave, lengths) in ALONE.items():
        torch.testing.assert_close(model.score(wave, lengths), model.score(TENSOR[:1]), rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_waveform_is_refused(model: SpeechModel, name: str):
    wave, lengths, expected = REFUSED[name]
    for entrance in (model, model.embed, model.score, model.backbone, model.embed_arrays):
        with pytest.raises(InputError, match=expected):
            entrance(wave, lengths)


def test_gradients_reach_the_wave_and_the_weights_keep_their_precision(model: SpeechModel):
    wave = TENSOR.double().requires_grad_()
    model.score(wave, LENGTHS).sum().backward()
    assert wave.grad is not None
    assert wave.grad[0].any()
    assert not wave.grad[1, int(LENGTHS[1]) :].any()
    exact = copy.deepcopy(model).double().score(TENSOR, LENGTHS)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(model.score(TENSOR, LENGTHS).double(), exact, rtol=1e-4, atol=1e-4)


def test_a_wave_elsewhere_is_refused(model: SpeechModel):
    with pytest.raises(InputError, match="wave: is on meta, the model on cpu"):
        model.score(TENSOR.to("meta"), LENGTHS)
