"""Waveforms -> Whisper's log-mel spectrogram, at each utterance's own length and with gradients."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE_HZ = 16_000
WINDOW, HOP = 400, 160
"""Samples in a window and between two: 25 ms every 10 ms."""
EDGE = WINDOW // 2
POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0
"""In powers of ten below an utterance's loudest bin; what is quieter is raised to it."""


class LogMel(nn.Module):
    """What transformers' extractor gives for each utterance alone and unpadded.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, section 2.2.

    Args:
        bins: mel bins, 80 or (large-v3) 128.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        filters = mel_filter_bank(
            1 + WINDOW // 2, bins, 0.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self.filters: torch.Tensor
        self.window: torch.Tensor
        self.register_buffer("filters", torch.tensor(filters.T, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the spectrogram, in float32 or better under autocast too.

        Args:
            wave: [B, S] at 16 kHz, 0 beyond each utterance's length; at least `EDGE` + 1 samples of each.
            lengths: [B] samples of each utterance, or None where all have S.

        Returns:
            [B, bins, M], one frame every 10 ms, and [B] frames of each utterance or None. What lies beyond an
            utterance's length is undefined.
        """
        frames = None if lengths is None else lengths // HOP
        with torch.autocast(wave.device.type, enabled=False):
            log = self._log_power(wave.to(torch.promote_types(wave.dtype, torch.float32)), lengths)
            within = log
            if frames is not None:
                outside = torch.arange(log.shape[-1], device=log.device) >= frames[:, None, None]
                within = log.masked_fill(outside, float("-inf"))
            floor = within.amax((1, 2), keepdim=True) - DYNAMIC_RANGE
            return (torch.maximum(log, floor) + 4.0) / 4.0, frames

    def _log_power(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """[B, S] -> [B, bins, S // HOP]; the last window is left out, as Whisper does."""
        if torch.compiler.is_compiling():  # for ONNX Runtime, whose own transform is slow and rounds more
            bins = F.conv1d(_mirrored(wave, lengths).unsqueeze(1), _fourier(self.window), stride=HOP)[..., :-1]
            power = bins.square().unflatten(1, (2, -1)).sum(1)
            return (self.filters @ power).clamp_min(POWER_FLOOR).log10()
        window = self.window.to(wave.dtype)
        spectrum = torch.stft(_mirrored(wave, lengths), WINDOW, HOP, window=window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum[..., :-1]).square().sum(-1)
        return (self.filters.to(power.dtype) @ power).clamp_min(POWER_FLOOR).log10()


def _fourier(window: torch.Tensor) -> torch.Tensor:
    """[N] window -> [2 x (N / 2 + 1), 1, N]: the Fourier transform of a windowed frame, cosines, then sines."""
    places = torch.arange(len(window), dtype=torch.float64)
    angles = 2 * torch.pi / len(window) * torch.outer(places[: len(window) // 2 + 1], places)
    waves = torch.cat([angles.cos(), angles.sin()]) * window.double()
    return waves.to(window.dtype).unsqueeze(1)


def _mirrored(wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Mirror each utterance at both of its own ends: [B, S] -> [B, EDGE + S + EDGE]."""
    if lengths is None:
        return F.pad(wave, (EDGE, EDGE), mode="reflect")
    steps = torch.arange(1, EDGE + 1, device=wave.device)
    last = lengths[:, None] - 1
    padded = torch.cat([wave[:, 1 : EDGE + 1].flip(1), wave, wave.new_zeros(wave.shape[0], EDGE)], dim=1)
    return padded.scatter(1, EDGE + last + steps, wave.gather(1, last - steps))
