"""Heads: the equations and the size of the paper, and no influence of padding."""

import math

import pytest
import torch

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone import Hidden
from hybrid_pruning.models.heads import MHFA, Classifier, Head, Statistics, build_head

DEPTH, BATCH, FRAMES, WIDTH = 3, 4, 9, 12
LENGTHS = torch.tensor([9, 4, 1, 6])


@pytest.fixture(params=["mhfa", "statistics"])
def head(request: pytest.FixtureRequest) -> Head:
    torch.manual_seed(0)
    config = HeadConfig(kind=request.param, heads=5, compression=7, embedding=6)
    return spread(build_head(config, DEPTH, WIDTH))


def spread(head: Head) -> Head:
    """Give the hidden states different weights in the learnt mixtures, which start equal."""
    for name, parameter in head.named_parameters():
        if name.endswith("mix"):
            torch.nn.init.normal_(parameter)
    return head


def frames() -> torch.Tensor:
    return torch.randn(DEPTH, BATCH, FRAMES, WIDTH, generator=torch.Generator().manual_seed(1))


def test_the_size_is_the_papers():
    head = build_head(HeadConfig(), depth=13, width=768)
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_249_850  # "1.25M"


def test_mhfa_is_the_papers_equations():
    """Equations 4-7 of Peng et al. 2022, one number at a time."""
    torch.manual_seed(0)
    head = spread(MHFA(DEPTH, WIDTH, heads=5, compression=7, embedding=6)).double()
    hidden = frames().double()
    expected = torch.stack([mhfa_by_hand(head, hidden[:, row, :n]) for row, n in enumerate(LENGTHS.tolist())])
    torch.testing.assert_close(head(Hidden(hidden, LENGTHS)), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def mhfa_by_hand(head: MHFA, hidden: torch.Tensor) -> torch.Tensor:
    """[L, T, D] of one utterance -> [E]."""
    keys, values = [], []
    for mix, layer, found in ((head.key_mix, head.key, keys), (head.value_mix, head.value, values)):
        weights = [math.exp(w) for w in mix.tolist()]
        for t in range(hidden.shape[1]):
            mixed = sum((w / sum(weights) * hidden[index, t] for index, w in enumerate(weights)), torch.zeros(WIDTH))
            found.append(layer.weight @ mixed + layer.bias)
    pooled = []
    for query, bias in zip(head.query.weight, head.query.bias, strict=True):
        attention = [math.exp(float(query @ key + bias)) for key in keys]
        pooled.append(sum((a / sum(attention) * v for a, v in zip(attention, values, strict=True)), torch.zeros(7)))
    return head.out.weight @ torch.cat(pooled) + head.out.bias


def test_statistics_are_mean_and_standard_deviation():
    head = Statistics(depth=1, width=WIDTH, embedding=2 * WIDTH)
    torch.nn.init.eye_(head.out.weight)
    torch.nn.init.zeros_(head.out.bias)
    hidden = frames()[:1]
    expected = torch.cat([hidden[0].mean(1), hidden[0].std(1, correction=0)], dim=1)
    torch.testing.assert_close(head(Hidden(hidden, None)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("beyond", [0.0, 1e4, float("nan")])
def test_padding_changes_nothing(head: Head, beyond: float):
    hidden = frames()
    padded = hidden.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        padded[:, row, length:] = beyond
    found = head(Hidden(padded, LENGTHS))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = head(Hidden(hidden[:, row : row + 1, :length], None))
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_every_parameter_and_every_hidden_state_gets_a_gradient(head: Head):
    hidden = frames().requires_grad_()
    found = head(Hidden(hidden, LENGTHS))
    assert found.shape == (BATCH, head.embedding_width)
    found.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        if not name.startswith("query.bias"):  # softmax over time cancels it
            assert parameter.grad.abs().max() > 0, name
    assert hidden.grad is not None
    for row, length in enumerate(LENGTHS.tolist()):
        reached = hidden.grad[:, row].abs().amax((0, 2)) > 0
        assert reached.tolist() == [True] * length + [False] * (FRAMES - length)


def test_the_feature_mean_comes_off_every_hidden_state(head: Head):
    centred = frames() - frames().mean(-1, keepdim=True)
    expected = head(Hidden(centred, LENGTHS))
    assert not torch.allclose(head(Hidden(frames(), LENGTHS)), expected)
    head.feature_mean = True
    torch.testing.assert_close(head(Hidden(frames(), LENGTHS)), expected)


def test_the_gradient_into_the_hidden_states_is_multiplied(head: Head):
    """For the head alone: what else reads them, as a teacher's loss, has its whole gradient."""

    def gradients(factor: float) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        head.zero_grad()
        head.gradient = factor
        hidden = frames().requires_grad_()
        (head(Hidden(hidden, LENGTHS)).square().sum() + hidden.sum()).backward()
        assert hidden.grad is not None
        return hidden.grad - 1, [parameter.grad for parameter in head.parameters()]

    (whole, own), (less, same) = gradients(1.0), gradients(0.25)
    torch.testing.assert_close(less, 0.25 * whole)
    torch.testing.assert_close(same, own)


def test_a_batch_norm_learns_the_embeddings_statistics():
    torch.manual_seed(0)
    classifier, embedding = Classifier(WIDTH, 2, "batch"), 3 * torch.randn(64, WIDTH) + 1
    for _ in range(200):
        classifier.train()(embedding)
    by_hand = (embedding - embedding.mean(0)) / embedding.var(0).sqrt()
    expected = classifier[2](by_hand.relu())
    torch.testing.assert_close(classifier.eval()(embedding), expected, rtol=1e-3, atol=1e-3)
    one = classifier(embedding[:1])
    torch.testing.assert_close(one, classifier(embedding)[:1], msg="in evaluation no utterance depends on others")
