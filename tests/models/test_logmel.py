"""The log-mel spectrogram against transformers' extractor, and of padded batches against single utterances."""

import pytest
import torch
from transformers import WhisperFeatureExtractor

from hybrid_pruning.models.backbone.whisper import DYNAMIC_RANGE, EDGE, HOP, SAMPLE_RATE_HZ, LogMel

WINDOW_SAMPLES = 30 * SAMPLE_RATE_HZ


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    """Coloured, so that mel bins differ by more than the dynamic range in places."""
    white = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.01 * white.cumsum(0).sub(white.mean()) * torch.linspace(1, 1e-3, samples)


def of_transformers(wave: torch.Tensor, bins: int, **arguments: object) -> torch.Tensor:
    extractor = WhisperFeatureExtractor(feature_size=bins)
    found = extractor(wave.numpy(), sampling_rate=SAMPLE_RATE_HZ, **arguments)["input_features"][0]
    return torch.from_numpy(found)


@pytest.mark.parametrize("bins", [80, 128])
def test_equal_to_transformers_at_30_seconds(bins: int) -> None:
    wave = noise(WINDOW_SAMPLES)
    found, frames = LogMel(bins)(wave[None])
    assert found.shape == (1, bins, 3000)
    assert frames is None
    torch.testing.assert_close(found[0], of_transformers(wave, bins), rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [EDGE + 1, 1120, 4321])
def test_equal_to_transformers_unpadded(samples: int) -> None:
    wave = noise(samples)
    expected = of_transformers(wave, 80, padding=False, truncation=False)
    found, _ = LogMel(80)(wave[None])
    assert found.shape[2] == samples // HOP
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_equal_to_transformers_padded_but_for_the_last_frame() -> None:
    """Which looks beyond the end: at an echo here, at silence there."""
    wave = noise(4321)
    found, _ = LogMel(80)(wave[None])
    expected = of_transformers(wave, 80)[:, : found.shape[2]]
    torch.testing.assert_close(found[0, :, :-1], expected[:, :-1], rtol=0, atol=1e-6)


def test_padded_is_alone() -> None:
    lengths = torch.tensor([4000, EDGE + 1, 2345, 480, 479])
    log_mel = LogMel(80)
    wave = torch.zeros(len(lengths), 4000)
    for row, length in enumerate(lengths):
        wave[row, :length] = noise(int(length), row) * 10.0 ** (row - 2)  # the loudest must not set others' floor
        wave[row, length - 60 : length] += 10  # a click in the window that is left out
    wave.requires_grad_()
    found, frames = log_mel(wave, lengths)
    assert frames.tolist() == (lengths // HOP).tolist()
    sum((found[row, :, :size] ** 2).sum() for row, size in enumerate(frames)).backward()
    for row, length in enumerate(lengths):
        single = wave[row : row + 1, :length].detach().requires_grad_()
        alone, _ = log_mel(single)
        alone.square().sum().backward()
        torch.testing.assert_close(found[row, :, : frames[row]], alone[0])
        torch.testing.assert_close(wave.grad[row, :length], single.grad[0], rtol=1e-4, atol=1e-5)
        assert wave.grad[row, length:].abs().sum() == 0


def test_quiet_bins_are_raised_to_the_floor_and_silence_is_finite() -> None:
    found, _ = LogMel(80)(torch.sin(torch.arange(8000) * 0.4)[None])
    assert float(found.max() - found.min()) == pytest.approx(DYNAMIC_RANGE / 4, abs=1e-6)
    wave = torch.zeros(2, 2000, requires_grad=True)
    found, _ = LogMel(80)(wave, torch.tensor([2000, 900]))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(wave.grad).all()


def test_gradients() -> None:
    wave = torch.randn(2, 700, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_mel = LogMel(8).double()

    def within(wave: torch.Tensor) -> torch.Tensor:
        return log_mel(wave, torch.tensor([700, 520]))[0][:, :, :3]

    torch.autograd.gradcheck(within, (wave.requires_grad_(),), fast_mode=True)


def test_float32_under_autocast() -> None:
    log_mel, wave = LogMel(80), noise(4000)[None]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = log_mel(wave)
        half, _ = log_mel(wave.bfloat16())
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, log_mel(wave)[0])
