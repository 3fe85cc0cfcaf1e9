"""Whisper's encoder: log-mel spectrogram, two convolutions, learnt positions, transformer layers."""

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hybrid_pruning.models.backbone.base import Backbone, Hidden, mask_of
from hybrid_pruning.models.backbone.families import whisper_windows
from hybrid_pruning.models.backbone.linear import take_over
from hybrid_pruning.models.backbone.logmel import EDGE, LogMel


class WhisperBackbone(Backbone):
    """Whisper's encoder at the utterance's own length, where transformers' insists on 30 s.

    Windows: an utterance longer than the positions the model has (1500 frames, 30 s) is cut into the fewest windows
    that fit, all of one size but for a frame, so that none is a stump. The spectrogram is that of the whole utterance;
    each window then starts at position 0 and sees itself alone, and the hidden states are joined in time.

    Counting: transformers freezes the positions, so do we; they and the final norm, which no hidden state passes, are
    parameters all the same, and count as such in the dense backbone and in the shrunk one.

    Args:
        model: transformers' WhisperEncoder, or a model that has one.
        normalize: whether to bring each waveform to zero mean and unit variance first; Whisper was trained without.
    """

    def __init__(self, model: Any, normalize: bool = False) -> None:
        super().__init__(model.config, normalize)
        self.encoder = getattr(model, "encoder", model)
        self.pre_norm = True
        take_over(self.encoder, "fc1", "activation_fn")
        self.log_mel = LogMel(self.config.num_mel_bins)
        self._freeze("encoder.layer_norm.", "encoder.embed_positions.")

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that gives one frame, in samples at 16 kHz: the first window reaches that far."""
        return EDGE + 1

    def _encode(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> Hidden:
        compiling = torch.compiler.is_compiling()  # which cannot look into lengths
        differ = lengths is not None and (compiling or bool((lengths < wave.shape[-1]).any()))
        features, sizes = self.log_mel(wave, lengths if differ else None)
        if _frames(features.shape[-1]) > self.config.max_source_positions:
            found = self._encode_windows(features, sizes)
        else:
            found = self._encode_window(features, sizes)
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
        x = self._lessen_gradient(x).transpose(1, 2) + self.encoder.embed_positions.weight[: x.shape[-1]]
        x = F.dropout(x, self.encoder.dropout, self.training)
        mask = None if sizes is None else mask_of(_frames(sizes), x.shape[1])[:, None, None, :]
        return self._run_layers(x, attention_mask=mask)

    def _encode_windows(self, features: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        """The same for features that are longer than a window; what one utterance has too little of is 0."""
        ends = [
            whisper_windows(size, self.config.max_source_positions)
            for size in ([features.shape[-1]] * len(features) if sizes is None else sizes.tolist())
        ]
        windows = [
            utterance[:, start:end].T
            for utterance, bounds in zip(features, ends, strict=True)
            for start, end in pairwise((0, *bounds))
        ]
        sizes = torch.tensor([len(window) for window in windows], device=features.device)
        x = pad_sequence(windows, batch_first=True).transpose(1, 2)
        states = self._encode_window(x, sizes if bool((sizes < x.shape[-1]).any()) else None)
        return _joined(states, _frames(sizes).tolist(), [len(bounds) for bounds in ends])


def _frames(size: Any) -> Any:
    """Mel frames (a number or a tensor of them) -> frames after the second convolution, whose stride is 2."""
    return (size + 1) // 2


def _joined(states: torch.Tensor, frames: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Join windows [L, N, T', D] with their frames [N] in time; `counts` [B] of them make an utterance."""
    pieces = (states[:, row, :size] for row, size in enumerate(frames))
    utterances = [torch.cat(list(islice(pieces, count)), dim=1) for count in counts]
    longest = max(utterance.shape[1] for utterance in utterances)
    return torch.stack([F.pad(u, (0, 0, 0, longest - u.shape[1])) for u in utterances], dim=1)
