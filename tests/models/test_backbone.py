"""Backbones against transformers, and padded batches against single utterances."""

import random
from collections.abc import Callable

import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from encoders import (
    LENGTHS,
    NO_DROPOUT,
    ON_WAVEFORMS,
    TINY,
    WHISPER,
    MakeBackbone,
    close,
    relative_error,
    shuffle,
    spread,
    states_of_transformers,
    with_random_weights,
)
from hybrid_pruning import pruning
from hybrid_pruning.models.backbone import Backbone, Hidden, build, read_config, wrap
from hybrid_pruning.models.backbone.base import mask_of
from hybrid_pruning.models.backbone.wav2vec2 import convolve_in_float32, group_norm

Record = Callable[[str, float], float]

ANY_FAMILY = pytest.mark.parametrize(("family", "style"), [("wavlm", "base"), ("wav2vec2", "large"), WHISPER])
MIXED_STYLES = [
    *((family, style, {}) for family, style in ON_WAVEFORMS),
    ("wavlm", "base", {"conv_bias": True, "num_conv_pos_embeddings": 15}),
    ("wav2vec2", "base", {"do_stable_layer_norm": True}),
    ("hubert", "large", {"do_stable_layer_norm": False, "conv_bias": False}),
]
ON_PADDED = [("wav2vec2", {}), ("hubert", {"do_stable_layer_norm": False}), ("wavlm", {})]


def loss_over_valid_frames(hidden: Hidden, utterance: int | None = None) -> torch.Tensor:
    """A different weight for every state and dimension, so that no gradient cancels; of one utterance or all."""
    weights = torch.linspace(0.5, 1.5, hidden.frames[:, 0, 0].numel()).view(len(hidden.frames), 1, -1)
    rows = range(hidden.frames.shape[1]) if utterance is None else [utterance]
    ends = [hidden.frames.shape[2]] * hidden.frames.shape[1] if hidden.lengths is None else hidden.lengths.tolist()
    return sum((hidden.frames[:, row, : ends[row]].square() * weights).sum() / ends[row] for row in rows)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradient_error(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """Largest error of any tensor, by that tensor's largest gradient (keys' biases have none but rounding)."""
    assert expected.keys() == found.keys()
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in expected.values())
    return max(
        float((expected[name] - found[name]).abs().max() / expected[name].abs().max().clamp_min(floor))
        for name in expected
    )


def errors_of_padding(backbone: Backbone, wave: torch.Tensor, lengths: torch.Tensor) -> list[float]:
    """Return each utterance's error in a padded batch, by its hidden states alone."""
    hidden, errors = backbone(wave, lengths), []
    for row, length in enumerate(lengths.tolist()):
        alone = backbone(wave[row : row + 1, :length])
        assert alone.lengths is None
        assert alone.frames.shape[2] == int(hidden.lengths[row])
        errors.append(relative_error(alone.frames, hidden.frames[:, row : row + 1, : alone.frames.shape[2]]))
    return errors


@pytest.mark.parametrize(("family", "style", "changes"), MIXED_STYLES)
def test_equal_to_transformers(changes, make_model, make_backbone, wave, record):
    expected = states_of_transformers(make_model(**changes), wave)
    backbone = make_backbone(**changes)
    for lengths in (None, torch.full((len(wave),), wave.shape[1])):
        hidden = backbone(wave, lengths)
        assert hidden.frames.shape == expected.shape == (backbone.depth, len(wave), expected.shape[2], backbone.width)
        assert record("= transformers", relative_error(expected, hidden.frames.detach())) <= 1e-5


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of transformers' WavLM
@pytest.mark.parametrize(("family", "style", "changes"), [(family, "large", changes) for family, changes in ON_PADDED])
def test_equal_to_transformers_padded(changes, make_model, make_backbone, wave, lengths, record):
    mask = mask_of(lengths, wave.shape[1])
    expected = states_of_transformers(make_model(**changes), wave * mask, attention_mask=mask.long())
    hidden = make_backbone(**changes)(wave, lengths)
    assert record("= transformers, padded", relative_error(expected, hidden.frames.detach(), hidden.lengths)) <= 1e-5


@pytest.mark.parametrize("variant", ["raw", "normalised"])
def test_padded_is_alone(variant, make_backbone, wave, lengths, record):
    """Hidden states and gradients; then the hidden states with gates that are closed at random."""
    backbone = make_backbone(variant == "normalised")
    for row, length in enumerate(LENGTHS):
        backbone.zero_grad()
        padded = wave.clone().requires_grad_()
        hidden = backbone(padded, lengths)
        loss_over_valid_frames(hidden, row).backward()
        together = gradients(backbone)

        backbone.zero_grad()
        single = wave[row : row + 1, :length].clone().requires_grad_()
        alone = backbone(single)
        loss_over_valid_frames(alone).backward()

        frames = hidden.frames[:, row : row + 1, : alone.frames.shape[2]]
        assert record("padded = alone", relative_error(alone.frames.detach(), frames.detach())) <= 1e-4
        together["wave"], separate = padded.grad[row : row + 1, :length], {**gradients(backbone), "wave": single.grad}
        assert record("padded = alone, gradients", gradient_error(separate, together)) <= 1e-4
        assert padded.grad[row, length:].abs().sum() == 0
        others = [other for other in range(len(LENGTHS)) if other != row]
        assert padded.grad[others].abs().sum() == 0
    shuffle(pruning.attach(backbone), seed=0)
    with torch.no_grad():
        assert record("padded = alone", max(errors_of_padding(backbone, wave, lengths))) <= 1e-4


@pytest.mark.parametrize(("family", "style", "training"), [("hubert", "base", True), ("hubert", "large", False)])
@torch.no_grad()
def test_padded_is_alone_behind_a_batch_norm(training, make_model, wave, lengths, record):
    """HuBERT's in front of the positional convolution, with statistics and affine part as trained ones have."""
    model = make_model(conv_pos_batch_norm=True)
    norm = model.encoder.pos_conv_embed.batch_norm
    norm.running_mean.normal_(0, 0.3), norm.running_var.uniform_(0.5, 2), norm.bias.data.normal_(0, 0.3)
    expected = states_of_transformers(model, wave)
    backbone = wrap(model).train(training)
    assert record("= transformers", relative_error(expected, backbone(wave).frames)) <= 1e-5
    assert record("padded = alone", max(errors_of_padding(backbone, wave, lengths))) <= 1e-5
    assert norm.num_batches_tracked == 0


def a_variant(chance: random.Random) -> tuple[str, dict[str, object]]:
    """Return a family and a config of the kind that public checkpoints have, or might."""
    family, convs = chance.choice(["wav2vec2", "hubert", "wavlm"]), chance.randint(1, 4)
    some: dict[str, list[object]] = {
        "feat_extract_norm": ["group", "layer"],
        **{key: [True, False] for key in ("do_stable_layer_norm", "conv_bias", "apply_spec_augment")},
        **{key: ["gelu", "relu", "gelu_new", "silu", "tanh"] for key in ("hidden_act", "feat_extract_activation")},
        "num_conv_pos_embeddings": [1, 2, 15, 16, 128],
        "mask_time_prob": [0.0, 0.5],
        "conv_kernel": [[10] + [chance.choice([2, 3, 4]) for _ in range(convs)]],
        "conv_stride": [[5] + [chance.choice([1, 2, 3]) for _ in range(convs)]],
        "conv_dim": [[12] * (convs + 1)],
        "add_adapter" if family != "hubert" else "conv_pos_batch_norm": [True, False],
        "feat_proj_layer_norm" if family == "hubert" else "layer_norm_eps": [False] if family == "hubert" else [1e-3],
        "adapter_attn_dim" if family != "wavlm" else "num_buckets": [4, 16],
    }
    return family, {key: chance.choice(values) for key, values in some.items()}


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(5, 40))])
@torch.no_grad()
def test_any_variant_is_exact(seed: int, wave: torch.Tensor, lengths: torch.Tensor) -> None:
    """In double precision: padded = alone, in training without dropout too; transformers' own; masked = shrunk."""
    family, changes = a_variant(random.Random(seed))
    config = read_config({**NO_DROPOUT, **TINY, **changes, "model_type": family}, "x")
    torch.manual_seed(seed)
    model = with_random_weights(build(config)).eval().double()
    if norm := getattr(model.encoder.pos_conv_embed, "batch_norm", None):
        norm.running_mean.normal_(0, 0.3), norm.running_var.uniform_(0.5, 2)
    wave = wave.double()
    expected = model(wave, output_hidden_states=True).hidden_states[:-1]
    backbone = wrap(model, normalize=False)
    assert relative_error(torch.stack(expected), backbone(wave).frames[: len(expected)]) <= 1e-10
    backbone.normalize = seed % 2 == 0
    assert max(errors_of_padding(backbone.train(seed % 3 == 0), wave, lengths)) <= 1e-10
    gates = pruning.attach(backbone.eval()).double()
    shuffle(gates, seed)
    small, masked = pruning.shrink(backbone, gates), backbone(wave, lengths)
    assert relative_error(masked.frames, small(wave, lengths).frames, masked.lengths) <= 1e-10
    assert sum(p.numel() for p in small.parameters()) == pruning.budget(backbone, gates, gates.kept()).params


def test_padding_changes_nothing(make_backbone: MakeBackbone, wave: torch.Tensor, lengths: torch.Tensor) -> None:
    """Neither its values, infinite ones too, nor its length."""
    for normalize in (False, True):
        backbone, found = make_backbone(normalize), []
        batches = [wave, *(wave.masked_fill(~mask_of(lengths, 4000), value) for value in (1e4, torch.inf, torch.nan))]
        for batch in (*batches, torch.cat([wave, torch.zeros(len(wave), 3000)], dim=1)):
            backbone.zero_grad()
            hidden = backbone(batch, lengths)
            loss_over_valid_frames(hidden).backward()
            found.append((hidden, gradients(backbone)))
        (clean, clean_gradients), *others = found
        for hidden, those in others:
            assert torch.equal(hidden.lengths, clean.lengths)
            frames = hidden.frames[:, :, : clean.frames.shape[2]].detach()
            same_length = frames.shape == hidden.frames.shape
            assert relative_error(clean.frames.detach(), frames, clean.lengths) <= (1e-6 if same_length else 1e-5)
            assert gradient_error(clean_gradients, those) <= (1e-5 if same_length else 1e-4)


@ANY_FAMILY
@torch.no_grad()
def test_normalize_is_that_of_transformers(make_backbone, wave, lengths):
    loud = 3 + 20 * wave
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    utterances = [row[:length].numpy() for row, length in zip(loud, LENGTHS, strict=True)]
    expected = extractor(utterances, sampling_rate=16_000, padding=True, return_tensors="pt").input_values
    raw, normalised = make_backbone()(expected, lengths), make_backbone(True)(loud, lengths)
    assert relative_error(raw.frames, normalised.frames, raw.lengths) <= 1e-5
    raw, normalised = make_backbone()(expected[:1]), make_backbone(True)(loud[:1])
    assert relative_error(raw.frames, normalised.frames) <= 1e-5
    silence = make_backbone(True)(torch.zeros(2, 2000), torch.tensor([2000, 1000]))
    assert torch.isfinite(silence.frames).all()


@ANY_FAMILY
def test_gradient_checkpointing_gives_the_same_gradients(make_backbone, wave, lengths):
    backbone = make_backbone(hidden_dropout=0.1, attention_dropout=0.1).train()
    gates = pruning.attach(backbone, drop_rate=0.5)
    found = []
    for checkpointing in (False, True):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        gates.zero_grad()
        gates.draws = 0
        gates.sample()
        torch.manual_seed(5)
        hidden = backbone(wave, lengths)
        loss_over_valid_frames(hidden).backward()
        found.append((hidden.frames.detach(), {**gradients(backbone), **gradients(gates)}))
    assert relative_error(found[0][0], found[1][0], hidden.lengths) <= 1e-6
    assert set(gates.state_dict()) - {"_extra_state"} <= set(found[0][1])
    assert gradient_error(found[0][1], found[1][1]) <= 1e-5


def test_every_trained_parameter_gets_a_gradient(backbone: Backbone, wave: torch.Tensor) -> None:
    backbone.train()
    loss_over_valid_frames(backbone(wave)).backward()
    assert [name for name, p in backbone.named_parameters() if p.requires_grad != (p.grad is not None)] == []
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert "encoder.embed_positions.weight" in frozen or "masked_spec_embed" in frozen
    assert ("encoder.layer_norm.weight" in frozen) == backbone.pre_norm


@ANY_FAMILY
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_bfloat16_autocast(training, make_backbone, wave, lengths):
    # oneDNN gets bfloat16 convolutions of 32 channels in 4 groups with a kernel of 16 wrong (torch 2.13, CPU)
    backbone = make_backbone(num_conv_pos_embeddings=15)
    with torch.no_grad():
        expected = backbone(wave, lengths)
    gates = pruning.attach(backbone.train(training))
    gates.pin(gates.plan.all_units())
    for gate in gates.values():
        gate.log_alpha.data.fill_(9)
    gates.sample()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = backbone(wave, lengths)
        budget = gates.budget()
    loss_over_valid_frames(Hidden(hidden.frames.float(), hidden.lengths)).backward()
    assert relative_error(expected.frames, hidden.frames.detach().float(), hidden.lengths) <= 0.1
    assert budget.sparsity.dtype == torch.float64
    for gate in gates.values():
        assert gate.log_alpha.dtype == gate.sampled.dtype == torch.float32
        assert not training or gate.log_alpha.grad.dtype == torch.float32
    for gradient in gradients(backbone).values():
        assert gradient.dtype == torch.float32
        assert torch.isfinite(gradient).all()


def test_group_norm_over_an_utterance_does_not_overflow() -> None:
    norm, loud = torch.nn.GroupNorm(4, 4), 200 * torch.randn(1, 4, 8000)
    norm.weight.data.uniform_(0.5, 2)
    found = group_norm(loud.half(), norm, torch.tensor([8000]))
    assert torch.allclose(found.float(), norm(loud), atol=0.01)


@torch.no_grad()
def test_lengths_of_frames(backbone: Backbone) -> None:
    shortest = backbone.minimum_samples
    for samples in (shortest, shortest + 1, 999, 1000, 4000):
        frames = backbone(torch.randn(1, samples)).frames.shape[2]
        hidden = backbone(torch.randn(2, 4000), torch.tensor([4000, samples]))
        assert int(hidden.lengths[1]) == frames
        assert torch.isfinite(hidden.frames[:, 1, :frames]).all()
    for arguments in ((torch.randn(2, shortest - 1),), (torch.randn(2, 4000), torch.tensor([4000, shortest - 1]))):
        with pytest.raises(ValueError, match=f"{shortest - 1} samples; one frame needs {shortest}"):
            backbone(*arguments)


@ANY_FAMILY
def test_the_gradient_into_the_first_convolutions_is_multiplied(make_backbone: MakeBackbone, wave: torch.Tensor):
    backbone, found = make_backbone(), []
    for backbone.extractor_gradient in (1.0, 0.25):
        backbone.zero_grad()
        frames = backbone(wave).frames
        frames.square().sum().backward()
        found.append((frames, gradients(backbone)))
    (frames, whole), (same, multiplied) = found
    assert torch.equal(same, frames)
    factors = {n: 0.25 if n.startswith(("feature_extractor.", "encoder.conv")) else 1.0 for n in whole}
    assert set(factors.values()) == {0.25, 1.0}
    torch.testing.assert_close(multiplied, {name: factors[name] * whole[name] for name in whole})


@ANY_FAMILY
def test_the_multiplier_reaches_every_gate_on_the_convolutions(make_backbone: MakeBackbone, wave: torch.Tensor):
    """The last convolution's too, whose consumer lies behind the extractor; that of the size stays as it is."""
    backbone = make_backbone()
    gates = pruning.attach(backbone.train())
    spread(gates)

    def gradients(factor: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        backbone.extractor_gradient = factor
        gates.sample()
        gates.draws -= 1  # the same noise again
        (size,) = torch.autograd.grad(gates.budget().sparsity, [gates["conv.0"].log_alpha])
        loss = sum(backbone(part).frames.square().sum() for part in (wave, wave[:, :2500]))  # two forwards of a sample
        found = torch.autograd.grad(loss, [gate.log_alpha for gate in gates.values()])
        return dict(zip(gates, found, strict=True)), size

    (whole, size), (less, same) = gradients(1.0), gradients(0.25)
    assert torch.equal(size, same)
    for name, gradient in less.items():
        assert gradient.any() or not name.startswith("conv."), name
        expected = whole[name] * (0.25 if name.startswith("conv.") else 1.0)
        torch.testing.assert_close(gradient, expected, msg=name)


@ANY_FAMILY
def test_a_frozen_backbone_has_no_gradient_and_no_dropout(make_backbone: MakeBackbone, wave: torch.Tensor):
    backbone = make_backbone(hidden_dropout=0.5)
    expected = backbone(wave).frames
    backbone.frozen = True
    found = backbone.train()(wave).frames
    assert not backbone.encoder.training
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)  # other kernels run without gradients
    backbone.frozen_dropout = True
    noisy = backbone.train()(wave).frames
    assert not noisy.requires_grad
    assert not torch.allclose(noisy, expected)
    torch.testing.assert_close(backbone.eval()(wave).frames, expected)


@ANY_FAMILY
def test_a_cut_encoder_is_trained_after_it_has_scored(make_backbone: MakeBackbone, wave: torch.Tensor) -> None:
    """Nothing that a pass without gradients has kept may stand in the way of one with them."""
    backbone = make_backbone()
    gates = pruning.attach(backbone, ("head", "interm"))
    close(gates, "*", share=0.5)
    small = pruning.shrink(backbone, gates)
    with torch.inference_mode():
        before = small.eval()(wave).frames.clone()
    frames = small(wave).frames
    frames.sum().backward()
    assert torch.allclose(frames.detach(), before, atol=1e-5)
    assert any(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpus_positional_convolution_is_the_modules_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    torch.manual_seed(0)
    embed = build(read_config({"model_type": "wavlm", **TINY}, "test")).encoder.pos_conv_embed.to(dtype)
    x = torch.randn(2, embed.conv.in_channels, 30).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = convolve_in_float32(embed.conv, x)
    weight, bias = embed.conv.weight.float(), embed.conv.bias.float()
    expected = torch.nn.functional.conv1d(x.float(), weight, bias, 1, embed.conv.padding, 1, embed.conv.groups)
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
    found.float().sum().backward()
    assert x.grad is not None
