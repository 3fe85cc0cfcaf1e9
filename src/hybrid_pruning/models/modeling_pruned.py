"""Pruned speech encoders and detectors for transformers: wav2vec 2.0 (XLS-R), HuBERT, WavLM and Whisper's encoder.

`hybrid-pruning convert --to transformers` writes this file beside weights and config.json. torch and transformers are
all it needs:

    AutoModel.from_pretrained(FOLDER, trust_remote_code=True)  # hidden states
    pipeline("audio-classification", model=FOLDER, trust_remote_code=True)  # of a detector: bonafide or spoof

Keys of config.json beside the family's own, whose widths are the dense model's: `conv_widths`, the channels of each
convolution; `kept_heads`, for each layer the dense model's attention heads that are left; `ffn_widths`, for each layer
its neurons. `[]` and 0 are a sub-layer that lost all its units and leaves its output bias; null is one closed as a
whole. A detector has `head`, `classes` and `calibration`; logits[:, 0] is its log-likelihood ratio (LLR) of bona fide
against spoofed speech, calibrated where the model is, and logits[:, 1] is 0. A padded batch gives every utterance what
it gets alone.
"""

import math
from itertools import islice, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BatchFeature,
    HubertConfig,
    HubertModel,
    HubertPreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    Wav2Vec2PreTrainedModel,
    WavLMConfig,
    WavLMModel,
    WavLMPreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperPreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

DETECTOR_WEIGHTS = [r"^head\.", r"^classifier\."]
"""Names that an encoder leaves in its detector's file."""


class PrunedWav2Vec2Config(Wav2Vec2Config):
    """wav2vec 2.0's with the widths of each layer."""

    model_type = "pruned_wav2vec2"


class PrunedHubertConfig(HubertConfig):
    """HuBERT's with the widths of each layer."""

    model_type = "pruned_hubert"


class PrunedWavLMConfig(WavLMConfig):
    """WavLM's with the widths of each layer."""

    model_type = "pruned_wavlm"


class PrunedWhisperConfig(WhisperConfig):
    """Whisper's with the widths of each of the encoder's layers."""

    model_type = "pruned_whisper"


class ChannelNorm(nn.Module):
    """A layer norm over channels, of which those that are gone count as the zeros they were when they were closed."""

    def __init__(self, kept: int, dense: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(kept)), nn.Parameter(torch.zeros(kept))
        self.eps, self.share = dense.eps, kept / dense.normalized_shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [..., kept] over its last dimension."""
        variance, mean = torch.var_mean(x.float(), dim=-1, correction=0, keepdim=True)
        variance = self.share * variance + self.share * (1 - self.share) * mean.square()
        y = (x.float() - self.share * mean) * torch.rsqrt(variance + self.eps)
        return y.to(x.dtype) * self.weight + self.bias


class ClosedPart(nn.Module):
    """A sub-layer without units: its output bias [D] or, of one closed as a whole, nothing; then None as often."""

    def __init__(self, width: int | None = None, outputs: int = 1) -> None:
        super().__init__()
        self.bias = None if width is None else nn.Parameter(torch.zeros(width))
        self.outputs = outputs

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> Any:
        """Return what broadcasts onto the residual stream."""
        y = hidden_states.new_zeros(()) if self.bias is None else self.bias
        return y if self.outputs == 1 else (y, *[None] * (self.outputs - 1))


def _narrow(dense: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=dense.bias is not None)


def _narrow_norm(dense: nn.LayerNorm, kept: int) -> nn.Module:
    return dense if kept == dense.normalized_shape[0] else ChannelNorm(kept, dense)


def _narrow_layers(layers: Any, config: Any, attention: str, outputs: int, names: tuple[str, str, str]) -> None:
    """Narrow layers in place; `names` are the feed-forward sub-layer's module, if it has one, and its projections."""
    whole, first, second = names
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    for layer, heads, neurons in zip(layers, config.kept_heads, config.ffn_widths, strict=True):
        part = getattr(layer, attention)
        if heads:
            for name in ("q_proj", "k_proj", "v_proj"):
                setattr(part, name, _narrow(getattr(part, name), width, len(heads) * size))
            part.out_proj = _narrow(part.out_proj, len(heads) * size, width)
            part.num_heads = len(heads)
        else:
            setattr(layer, attention, ClosedPart(None if heads is None else width, outputs))
        if neurons:
            inside = getattr(layer, whole) if whole else layer
            setattr(inside, first, _narrow(getattr(inside, first), width, neurons))
            setattr(inside, second, _narrow(getattr(inside, second), neurons, width))
        else:
            setattr(layer, whole or second, ClosedPart(None if neurons is None else width))
            if not whole:
                setattr(layer, first, ClosedPart())


def _inside(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """[B] lengths -> [B, size] bool, True within."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def _attended(lengths: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """Return the mask [B, 1, 1, T] that is added to attention's scores of x [B, T, D]: 0, or minus infinity."""
    if lengths is None:
        return None
    return x.new_zeros(()).masked_fill(~_inside(lengths, x.shape[1]), float("-inf"))[:, None, None]


def _lengths_of(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return the lengths [B] in a mask [B, S]; None where there is no padding."""
    return None if attention_mask is None or bool(attention_mask.all()) else attention_mask.sum(-1)


def _run(layers: Any, x: Any, **context: Any) -> list[torch.Tensor]:
    """Return the layers' input [B, T, D] and the output of each."""
    states = [x]
    for layer in layers:
        x = layer(states[-1], **context)
        states.append(x[0] if isinstance(x, tuple) else x)
    return states


# --- wav2vec 2.0, HuBERT, WavLM ---


class OnWaveforms:
    """In front of a family's model: narrows it, and encodes padded batches as if each utterance were alone."""

    _keys_to_ignore_on_load_unexpected: Any = DETECTOR_WEIGHTS

    def __init__(self: Any, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the family's
        self._narrow_extractor(config)
        if config.model_type == PrunedWavLMConfig.model_type:  # the position bias outlives the first layer's attention
            self.encoder.position_bias = PositionBias(config)
            for layer, heads in zip(self.encoder.layers, config.kept_heads, strict=True):
                layer.attention = GatedAttention(layer.attention, heads or [])
        outputs = 3 if hasattr(self.encoder, "position_bias") else 2
        feed_forward = ("feed_forward", "intermediate_dense", "output_dense")
        _narrow_layers(self.encoder.layers, config, "attention", outputs, feed_forward)

    def _narrow_extractor(self: Any, config: Any) -> None:
        before = 1
        for layer, kept in zip(self.feature_extractor.conv_layers, config.conv_widths, strict=True):
            conv, norm = layer.conv, getattr(layer, "layer_norm", None)
            layer.conv = nn.Conv1d(before, kept, conv.kernel_size, conv.stride, bias=conv.bias is not None)
            if isinstance(norm, nn.GroupNorm):
                layer.layer_norm = nn.GroupNorm(kept, kept, norm.eps)
            elif norm is not None:
                layer.layer_norm = _narrow_norm(norm, kept)
            before = kept
        projection = self.feature_projection
        projection.projection = _narrow(projection.projection, before, config.hidden_size)
        if hasattr(projection, "layer_norm"):
            projection.layer_norm = _narrow_norm(projection.layer_norm, before)
        if getattr(config, "channel_scale", False):
            self.channel_scale = nn.Parameter(torch.ones(before))

    def forward(
        self: Any,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Encode waveforms [B, S] at 16 kHz, from the folder's feature extractor with their mask [B, S].

        `hidden_states` are the encoder's input and every layer's output, the last one without the final norm that
        `last_hidden_state` has in pre-norm models. Frames beyond an utterance's own are undefined.
        """
        lengths = _lengths_of(attention_mask)
        x, lengths = self._convolve(self._normalise(input_values, lengths).unsqueeze(1), lengths)
        x = self.feature_projection(x.transpose(1, 2) * getattr(self, "channel_scale", 1.0))
        x = x[0] if isinstance(x, tuple) else x
        inside = None if lengths is None else _inside(lengths, x.shape[1])
        if inside is not None:  # the positional convolution looks across the end
            x = x.masked_fill(~inside.unsqueeze(-1), 0.0)
        x = x + self._positions(x, inside)
        pre_norm, norm = self.config.do_stable_layer_norm, self.encoder.layer_norm
        x = self.encoder.dropout(x if pre_norm else norm(x))
        context = {"attention_mask": _attended(lengths, x)}
        if hasattr(self.encoder, "position_bias"):
            context["position_bias"] = self.encoder.position_bias(x.shape[1])
        states = _run(self.encoder.layers, x, **context)
        last = norm(states[-1]) if pre_norm else states[-1]
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(last_hidden_state=last, hidden_states=tuple(states) if wanted else None)

    def _normalise(self: Any, wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Bring each [S] waveform to mean 0 and variance 1 where the extractor, which has another eps, does not."""
        eps = getattr(self.config, "waveform_eps", None)
        if eps is None:
            return wave
        inside = torch.ones_like(wave) if lengths is None else _inside(lengths, wave.shape[1]).to(wave)
        count = inside.sum(-1, keepdim=True)
        wave = (wave - (wave * inside).sum(-1, keepdim=True) / count) * inside
        return wave * torch.rsqrt(wave.square().sum(-1, keepdim=True) / count + eps)

    def _convolve(self: Any, x: Any, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, 1, S] -> [B, C, T] and the frames of each; a group norm's statistics are over an utterance's own."""
        for layer in self.feature_extractor.conv_layers:
            norm = getattr(layer, "layer_norm", None)
            if lengths is None:
                x = layer(x)
                continue
            lengths = torch.div(lengths - layer.conv.kernel_size[0], layer.conv.stride[0], rounding_mode="floor") + 1
            if not isinstance(norm, nn.GroupNorm):
                x = layer(x)
                continue
            y = layer.conv(x).float()
            inside, count = _inside(lengths, y.shape[-1]).unsqueeze(1), lengths[:, None, None]
            y = y - (y * inside).sum(-1, keepdim=True) / count
            y = y * torch.rsqrt((y.square() * inside).sum(-1, keepdim=True) / count + norm.eps)
            x = layer.activation(y.to(x.dtype) * norm.weight[:, None] + norm.bias[:, None])
        return x, lengths

    def _positions(self: Any, x: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        """Return the positional convolution of [B, T, D]; HuBERT's batch norm in front of it shifts padding's zeros."""
        embed = self.encoder.pos_conv_embed
        if inside is None or getattr(embed, "batch_norm", None) is None:
            return embed(x)
        x = embed.batch_norm(x.transpose(1, 2)).masked_fill(~inside.unsqueeze(1), 0.0)
        return embed.activation(embed.padding(embed.conv(x))).transpose(1, 2)


class PositionBias(nn.Module):
    """WavLM's learnt bias for each distance between two frames, of all the dense model's heads."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.num_buckets, config.num_attention_heads)
        self.max_distance = config.max_bucket_distance

    def forward(self, frames: int) -> torch.Tensor:
        """Return the bias [heads, frames, frames], queries first."""
        place = torch.arange(frames, device=self.embedding.weight.device)
        distance = torch.arange(1 - frames, frames, device=place.device)
        half = self.embedding.num_embeddings // 2
        exact = half // 2  # buckets of one distance; beyond, they grow with its logarithm
        far = torch.log(distance.abs().clamp_min(1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + far * (half - exact)).long().clamp_max(half - 1)
        bucket = torch.where(distance.abs() < exact, distance.abs(), far) + half * (distance > 0)
        return self.embedding(bucket).T[:, place[None, :] - place[:, None] + frames - 1]


class GatedAttention(nn.Module):
    """WavLM's self-attention with some of the dense model's heads, each gated by its own slice of the input."""

    def __init__(self, dense: Any, heads: list[int]) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = dense.q_proj, dense.k_proj, dense.v_proj
        self.out_proj, self.gru_rel_pos_linear = dense.out_proj, dense.gru_rel_pos_linear
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, len(heads), 1, 1))
        self.heads, self.dropout = heads, dense.dropout

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any, position_bias: torch.Tensor, **_: Any) -> Any:
        """[B, T, D], mask [B, 1, 1, T] to add, bias of all heads [H, T, T] -> [B, T, D], no weights, the bias."""
        batch, frames, _width = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, frames, len(self.heads), -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = hidden_states.view(batch, frames, len(position_bias), -1)[:, :, self.heads].transpose(1, 2)
        a, b = torch.sigmoid(self.gru_rel_pos_linear(x).unflatten(-1, (2, 4)).sum(-1)).chunk(2, dim=-1)
        bias = (a * (b * self.gru_rel_pos_const - 1.0) + 2.0) * position_bias[self.heads]
        bias = bias if attention_mask is None else bias + attention_mask
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2)), None, position_bias


class PrunedWav2Vec2Model(OnWaveforms, Wav2Vec2Model):
    """wav2vec 2.0 or XLS-R with the widths in its config."""

    config_class = PrunedWav2Vec2Config
    _supports_flash_attn = _supports_flex_attn = False


class PrunedHubertModel(OnWaveforms, HubertModel):
    """HuBERT with the widths in its config."""

    config_class = PrunedHubertConfig
    _supports_flash_attn = _supports_flex_attn = False


class PrunedWavLMModel(OnWaveforms, WavLMModel):
    """WavLM with the widths in its config."""

    config_class = PrunedWavLMConfig


# --- Whisper ---


class PrunedWhisperFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel spectrogram of every utterance at its own length, where Whisper's is of 30 s."""

    def __call__(self, raw_speech: Any, *_: Any, return_tensors: Any = None, **options: Any) -> BatchFeature:
        """[S] or several of them -> `input_features` [B, bins, M], frames of 10 ms, and `attention_mask` [B, M]."""
        waves = [raw_speech] if np.ndim(raw_speech[0]) == 0 else raw_speech
        options |= {"padding": "longest", "truncation": False, "do_normalize": getattr(self, "do_normalize", False)}
        extract = super().__call__
        alone = [extract(np.asarray(wave, dtype=np.float32), **options)["input_features"][0] for wave in waves]
        longest = max(spectrum.shape[1] for spectrum in alone)
        mask = [np.arange(longest) < spectrum.shape[1] for spectrum in alone]
        padded = [np.pad(spectrum, ((0, 0), (0, longest - spectrum.shape[1]))) for spectrum in alone]
        features = {"input_features": np.stack(padded), "attention_mask": np.stack(mask).astype(np.int32)}
        return BatchFeature(features, tensor_type=return_tensors)


class PrunedWhisperModel(WhisperEncoder):
    """Whisper's encoder with the widths in its config, at the utterance's own length.

    A longer utterance than it has positions for (30 s) is cut into the fewest windows that fit, all of one size but
    for a frame; each attends to itself alone, and their hidden states are joined.
    """

    config_class = PrunedWhisperConfig
    _supports_flash_attn = _supports_flex_attn = False
    _keys_to_ignore_on_load_unexpected = DETECTOR_WEIGHTS

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        (kept,) = config.conv_widths
        self.conv1 = nn.Conv1d(config.num_mel_bins, kept, 3, padding=1)
        self.conv2 = nn.Conv1d(kept, config.d_model, 3, stride=2, padding=1)
        _narrow_layers(self.layers, config, "self_attn", 2, ("", "fc1", "fc2"))

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Encode spectrograms [B, bins, M] from the folder's feature extractor, with their mask [B, M].

        `hidden_states` are the encoder's input and every layer's output, the last one without the final norm that
        `last_hidden_state` has. Frames beyond an utterance's own are undefined.
        """
        lengths = _lengths_of(attention_mask)
        sizes = [input_features.shape[-1]] * len(input_features) if lengths is None else lengths.tolist()
        ends = [self._ends(size) for size in sizes]
        windows = [
            features[:, start:end].T
            for features, bounds in zip(input_features, ends, strict=True)
            for start, end in pairwise((0, *bounds))
        ]
        measured = torch.tensor([len(window) for window in windows], device=input_features.device)
        x = pad_sequence(windows, batch_first=True).transpose(1, 2)
        frames = [(len(window) + 1) // 2 for window in windows]
        states = []
        for state in self._encode(
            x, measured if len(set(frames)) > 1 or bool((measured < x.shape[-1]).any()) else None
        ):
            pieces = (row[:count] for row, count in zip(state, frames, strict=True))
            states.append(
                pad_sequence([torch.cat([*islice(pieces, len(bounds))]) for bounds in ends], batch_first=True)
            )
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = tuple(states) if wanted else None
        return BaseModelOutput(last_hidden_state=self.layer_norm(states[-1]), hidden_states=hidden)

    def _ends(self, size: int) -> list[int]:
        """Return the ends of the windows over so many frames of 10 ms."""
        pairs = (size + 1) // 2
        count = -(-pairs // self.config.max_source_positions)
        return [*(2 * (pairs * index // count) for index in range(1, count)), size]

    def _encode(self, x: torch.Tensor, sizes: torch.Tensor | None) -> list[torch.Tensor]:
        """Encode windows [B, bins, M] of `sizes` [B], or None where all have M."""
        for conv in (self.conv1, self.conv2):
            if sizes is not None:  # convolutions look across the end
                x = x.masked_fill(~_inside(sizes, x.shape[-1]).unsqueeze(1), 0.0)
            x = F.gelu(conv(x))
        x = x.transpose(1, 2)
        x = F.dropout(x + self.embed_positions.weight[: x.shape[1]], self.dropout, self.training)
        return _run(self.layers, x, attention_mask=_attended(None if sizes is None else (sizes + 1) // 2, x))


# --- detectors ---


class Pooling(nn.Module):
    """Hidden states [L, B, T, D] with lengths [B] -> embedding [B, E], by multi-head factorised attention (MHFA) or as
    mean and standard deviation.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.about, depth, width = config.head, config.num_hidden_layers + 1, config.hidden_size
        heads, compression, embedding = (self.about[name] for name in ("heads", "compression", "embedding"))
        if self.about["kind"] == "statistics":
            self.mix, self.out = nn.Parameter(torch.zeros(depth)), nn.Linear(2 * width, embedding)
            return
        self.key_mix, self.value_mix = nn.Parameter(torch.zeros(depth)), nn.Parameter(torch.zeros(depth))
        self.key, self.value = nn.Linear(width, compression), nn.Linear(width, compression)
        self.query, self.out = nn.Linear(compression, heads), nn.Linear(heads * compression, embedding)

    def forward(self, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return [B, E]."""
        inside = _inside(lengths, states.shape[2]).unsqueeze(-1)
        if self.about["kind"] == "statistics":
            x, count = self._mix(self.mix, states).masked_fill(~inside, 0.0), lengths.unsqueeze(1)
            mean = x.sum(1) / count
            variance = ((x - mean.unsqueeze(1)).square() * inside).sum(1) / count
            return self.out(torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1))
        key = self.key(self._mix(self.key_mix, states))
        value = self.value(self._mix(self.value_mix, states)).masked_fill(~inside, 0.0)
        attention = self.query(key).masked_fill(~inside, float("-inf")).softmax(dim=1)  # [B, T, heads]
        return self.out((attention.transpose(1, 2) @ value).flatten(1))

    def _mix(self, weights: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the hidden states [B, T, D], where asked for without its mean over D."""
        x = torch.einsum("l,lbtd->btd", weights.softmax(dim=0), states)
        return x - x.mean(-1, keepdim=True) if self.about["feature_mean"] else x


class ScaleShift(nn.Module):
    """[B, E] times a scale plus a shift: a batch norm after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, E]."""
        return x * self.weight + self.bias


class Detects:
    """In front of a family's class: an encoder, a head and a classifier, whose first class is bona fide."""

    encoder_class: ClassVar[Any]

    def __init__(self: Any, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the family's
        setattr(self, self.base_model_prefix, self.encoder_class(config))
        width = config.head["embedding"]
        norm = nn.LayerNorm(width) if config.head["classifier_norm"] == "layer" else ScaleShift(width)
        self.head = Pooling(config)
        self.classifier = nn.Sequential(norm, nn.ReLU(), nn.Linear(width, config.classes))
        self.post_init()

    def forward(
        self: Any,
        input_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        input_features: Any = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Score what the folder's feature extractor makes of recordings; logits [B, 2] are their LLR and 0."""
        inputs = input_values if input_features is None else input_features
        if attention_mask is None:
            attention_mask = torch.ones(len(inputs), inputs.shape[-1], device=inputs.device, dtype=torch.long)
        states = self.base_model(inputs, attention_mask, output_hidden_states=True).hidden_states
        lengths = self._get_feat_extract_output_lengths(attention_mask.sum(-1)).long()
        scores = self.classifier(self.head(torch.stack(states), lengths))
        llr = scores[:, 0] - scores[:, 1:].logsumexp(1)
        llr = llr * self.config.calibration["scale"] + self.config.calibration["offset"]
        logits = torch.stack([llr, torch.zeros_like(llr)], dim=1)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=states if wanted else None)


# transformers' pipeline asks for a model by the name of its class: these are its own


class Wav2Vec2ForSequenceClassification(Detects, Wav2Vec2PreTrainedModel):
    """A detector of spoofed speech on a pruned wav2vec 2.0 or XLS-R."""

    config_class, encoder_class = PrunedWav2Vec2Config, PrunedWav2Vec2Model


class HubertForSequenceClassification(Detects, HubertPreTrainedModel):
    """A detector of spoofed speech on a pruned HuBERT."""

    config_class, encoder_class = PrunedHubertConfig, PrunedHubertModel


class WavLMForSequenceClassification(Detects, WavLMPreTrainedModel):
    """A detector of spoofed speech on a pruned WavLM."""

    config_class, encoder_class = PrunedWavLMConfig, PrunedWavLMModel


class WhisperForAudioClassification(Detects, WhisperPreTrainedModel):
    """A detector of spoofed speech on a pruned encoder of Whisper."""

    config_class, encoder_class = PrunedWhisperConfig, PrunedWhisperModel
    _supports_flash_attn = _supports_flex_attn = False
