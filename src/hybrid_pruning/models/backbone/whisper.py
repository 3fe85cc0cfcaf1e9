"""Whisper's encoder: log-mel spectrogram, two convolutions, learnt positions, transformer layers."""

from itertools import islice, pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.audio_utils import mel_filter_bank

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.models.backbone.base import Backbone, Hidden, mask_of, replace_linears
from hybrid_pruning.models.backbone.families import HOP, WINDOW, whisper_windows
from hybrid_pruning.pruning.attach import scale_gradient

EDGE = WINDOW // 2
POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0
"""In powers of ten below an utterance's loudest bin; quieter bins are raised to it."""


class WhisperBackbone(Backbone):
    """Whisper's encoder at the utterance's own length, where transformers' insists on 30 s.

    Windows: an utterance longer than the positions the model has (1500 frames, 30 s) is cut into the fewest windows
    that fit, all of one size but for a frame. The spectrogram is that of the whole utterance; each window then starts
    at position 0 and attends to itself alone, and the hidden states are joined in time.

    Counting: the positions and the final norm, which no hidden state passes, are frozen, but count as parameters in
    the dense backbone and in the shrunk one. It was trained on waveforms that are not normalised; see `wrap`.
    """

    def __init__(self, model: Any, normalize: bool = False) -> None:
        super().__init__(model.config, normalize)
        self.encoder = getattr(model, "encoder", model)
        self.pre_norm, self.minimum_samples = True, EDGE + 1  # the spectrogram's first window reaches that far
        replace_linears(self.encoder, "fc1", "activation_fn")
        self.log_mel = LogMel(self.config.num_mel_bins)
        self._freeze("encoder.layer_norm.", "encoder.embed_positions.")

    def _encode(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> Hidden:
        compiling = torch.compiler.is_compiling()  # which cannot look into lengths
        differ = lengths is not None and (compiling or bool((lengths < wave.shape[-1]).any()))
        features, sizes = self.log_mel(wave, lengths if differ else None)
        longer = _frames(features.shape[-1]) > self.config.max_source_positions
        found = (self._encode_windows if longer else self._encode_window)(features, sizes)
        if lengths is None:
            return Hidden(found, None)
        return Hidden(found, torch.full_like(lengths, found.shape[2]) if sizes is None else _frames(sizes))

    def _encode_window(self, features: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        """Encode features [B, bins, M] with sizes [B], or None where all have M -> [L, B, T, D]."""
        x = features
        for conv in (self.encoder.conv1, self.encoder.conv2):
            if sizes is not None:  # convolutions look across the end
                x = x.masked_fill(~mask_of(sizes, x.shape[-1]).unsqueeze(1), 0.0)
            x = F.gelu(conv(x))
        positions = self.encoder.embed_positions.weight[: x.shape[-1]]
        x = scale_gradient(x, self.extractor_gradient).transpose(1, 2) + positions
        x = F.dropout(x, self.encoder.dropout, self.training)
        mask = None if sizes is None else mask_of(_frames(sizes), x.shape[1])[:, None, None, :]
        return self._run_layers(x, attention_mask=mask)

    def _encode_windows(self, features: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        """Encode features that are longer than a window; frames beyond an utterance's own are 0."""
        frames = [features.shape[-1]] * len(features) if sizes is None else sizes.tolist()
        ends = [whisper_windows(size, self.config.max_source_positions) for size in frames]
        windows = [
            utterance[:, start:end].T
            for utterance, bounds in zip(features, ends, strict=True)
            for start, end in pairwise((0, *bounds))
        ]
        sizes = torch.tensor([len(window) for window in windows], device=features.device)
        x = pad_sequence(windows, batch_first=True).transpose(1, 2)
        states = self._encode_window(x, sizes if bool((sizes < x.shape[-1]).any()) else None)
        pieces = (states[:, row, :size] for row, size in enumerate(_frames(sizes).tolist()))
        joined = [torch.cat(list(islice(pieces, len(bounds))), dim=1) for bounds in ends]
        longest = max(utterance.shape[1] for utterance in joined)
        return torch.stack([F.pad(u, (0, 0, 0, longest - u.shape[1])) for u in joined], dim=1)


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram at each utterance's own length, with gradients.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, section 2.2;
    equal to transformers' extractor on each utterance alone and unpadded. It has 80 bins or (large-v3) 128.
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
        """Return the spectrogram [B, bins, M], a frame every 10 ms, and [B] frames of each utterance or None.

        The wave [B, S] at 16 kHz is 0 beyond lengths [B], of `EDGE` + 1 samples at least. The spectrogram is in float32
        or better under autocast too, and undefined beyond an utterance's own frames.
        """
        frames = None if lengths is None else lengths // HOP
        with torch.autocast(wave.device.type, enabled=False):
            log = within = self._log_power(wave.to(torch.promote_types(wave.dtype, torch.float32)), lengths)
            if frames is not None:
                within = log.masked_fill(~mask_of(frames, log.shape[-1]).unsqueeze(1), float("-inf"))
            floor = within.amax((1, 2), keepdim=True) - DYNAMIC_RANGE
            return (torch.maximum(log, floor) + 4.0) / 4.0, frames

    def _log_power(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """[B, S] -> [B, bins, S // HOP]; the last window is left out, as Whisper does."""
        wave, window = _mirrored(wave, lengths), self.window.to(wave.dtype)
        if torch.compiler.is_compiling():  # for ONNX Runtime, whose own transform is slow and rounds more
            bins = F.conv1d(wave.unsqueeze(1), _fourier(self.window), stride=HOP)[..., :-1]
            power = bins.square().unflatten(1, (2, -1)).sum(1)
        else:
            spectrum = torch.stft(wave, WINDOW, HOP, window=window, center=False, return_complex=True)
            power = torch.view_as_real(spectrum[..., :-1]).square().sum(-1)
        return (self.filters.to(power.dtype) @ power).clamp_min(POWER_FLOOR).log10()


def _frames(size: Any) -> Any:
    """Mel frames (a number or a tensor of them) -> frames after the second convolution, whose stride is 2."""
    return (size + 1) // 2


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
