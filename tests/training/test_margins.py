"""Every loss is its paper's formula, written out pair by pair in float64; gradients stay finite; weights carry over."""

import math

import numpy as np
import pytest
import torch

from hybrid_pruning.config import ObjectiveConfig
from hybrid_pruning.training.losses import MarginSoftmax, Softmax, SphereFace2, add_angle, build_loss, carry_over
from hybrid_pruning.training.objective import margin_share

CLASSES, WIDTH, BATCH = 7, 5, 12
SCALE, MARGIN, INTER = 16.0, 0.3, 0.1


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
    return embedding, torch.randint(CLASSES, (BATCH,), generator=generator)


def cosine_table(embedding, weight):
    """[B, C], one pair after the other: the largest over a class's directions."""
    table = np.zeros((len(embedding), len(weight)))
    for i, x in enumerate(embedding.detach().numpy()):
        for j, centres in enumerate(weight.detach().numpy()):
            table[i, j] = max(x @ w / (np.linalg.norm(x) * np.linalg.norm(w)) for w in centres)
    return table


def cross_entropy(logits, target):
    losses = [math.log(sum(math.exp(v - row[y]) for v in row)) for row, y in zip(logits, target.tolist(), strict=True)]
    return sum(losses) / len(losses)


def farther(kind, cosine, margin):
    if kind == "am":
        return cosine - margin
    angle = math.acos(cosine) + margin
    if angle > math.pi:
        return cosine - (1 - math.cos(margin))
    return math.cos(angle) if angle >= 0 else cosine + (1 - math.cos(margin))


def expected_margin_softmax(kind, cosines, target, top_k):
    logits = cosines.copy()
    for i, y in enumerate(target.tolist()):
        rivals = sorted((j for j in range(CLASSES) if j != y), key=lambda j, row=cosines[i]: -row[j])
        for j in rivals[:top_k]:
            logits[i, j] = farther(kind, cosines[i, j], -INTER)
        logits[i, y] = farther(kind, cosines[i, y], MARGIN)
    return cross_entropy(SCALE * logits, target)


@pytest.mark.parametrize("kind", ["am", "aam"])
@pytest.mark.parametrize("top_k", [0, 1, 3, CLASSES - 1])
@pytest.mark.parametrize("sub_centres", [1, 3])
def test_margin_softmax_is_the_papers(kind, top_k, sub_centres):
    loss = MarginSoftmax(WIDTH, CLASSES, kind, SCALE, MARGIN, top_k, INTER, sub_centres).double()
    embedding, target = draw()
    expected = expected_margin_softmax(kind, cosine_table(embedding, loss.weight), target, top_k)
    assert loss(embedding, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sub_centres", [1, 3])
def test_sphereface2_is_the_papers(sub_centres):
    loss = SphereFace2(WIDTH, CLASSES, SCALE, MARGIN, 0.6, 2.5, 0.4, sub_centres).double()
    embedding, target = draw()
    total = 0.0
    for row, y in zip(cosine_table(embedding, loss.weight), target.tolist(), strict=True):
        for j, cosine in enumerate(row):
            g = 2 * ((cosine + 1) / 2) ** 2.5 - 1
            if j == y:
                total += 0.6 / SCALE * math.log(1 + math.exp(-SCALE * (g - MARGIN) - 0.4))
            else:
                total += 0.4 / SCALE * math.log(1 + math.exp(SCALE * (g + MARGIN) + 0.4))
    assert loss(embedding, target).item() == pytest.approx(total / BATCH, rel=1e-6)


def test_softmax_is_a_linear_layers():
    loss = Softmax(WIDTH, CLASSES).double()
    embedding, target = draw()
    logits = embedding @ loss.weight.T + loss.bias
    assert loss(embedding, target).item() == pytest.approx(cross_entropy(logits.detach().numpy(), target))


def test_a_share_of_the_margins_counts():
    embedding, target = draw()
    whole = MarginSoftmax(WIDTH, CLASSES, "aam", SCALE, MARGIN, 2, INTER).double()
    half = MarginSoftmax(WIDTH, CLASSES, "aam", SCALE, MARGIN / 2, 2, INTER / 2).double()
    half.load_state_dict(whole.state_dict())
    assert whole(embedding, target, 0.5).item() == pytest.approx(half(embedding, target).item())
    none = cross_entropy(SCALE * cosine_table(embedding, whole.weight), target)
    assert whole(embedding, target, 0.0).item() == pytest.approx(none)


def test_margins_grow_after_their_start_in_either_shape():
    """The public code's: none in the first of ten-step epochs, 1 - 0.001^progress over three, all of them then."""
    ramp = {"kind": "aam", "margin_start_epochs": 1, "margin_warmup_epochs": 3}
    found = {
        growth: [
            margin_share(ObjectiveConfig(**ramp, margin_growth=growth), step, 10) for step in (0, 9, 10, 24, 39, 80)
        ]
        for growth in ("linear", "exponential")
    }
    part = 14 / 29  # the last step of the warm-up has all of it
    assert found["linear"] == pytest.approx([0, 0, 0, part, 1, 1])
    assert found["exponential"] == pytest.approx([0, 0, 0, 1 - 0.001**part, 1, 1])
    assert {margin_share(ObjectiveConfig(), step, 10) for step in range(30)} == {1.0}


@pytest.mark.parametrize(("start", "length"), [("unit", 1.0), ("xavier", 0.168)])
def test_class_weights_start_at_the_length_of_their_rule(start, length):
    """Of 5,994 speakers with three directions each; 0.168 is that of the public code."""
    torch.manual_seed(0)
    loss = build_loss(ObjectiveConfig(kind="aam", sub_centres=3, class_weights=start), 256, 5994)
    assert loss.weight.shape == (5994, 3, 256)
    assert loss.weight.norm(dim=-1).mean().item() == pytest.approx(length, abs=2e-3)
    if start == "xavier":
        assert loss.weight.abs().max().item() == pytest.approx((6 / (3 * 5994 + 256)) ** 0.5, rel=1e-4)


def test_the_fall_back_goes_on_where_the_angle_leaves_the_half_circle():
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    for margin in (0.2, 0.5, -0.2, -0.06):
        found = add_angle(angles.cos(), margin)
        inside = (angles + margin > 1e-3) & (angles + margin < math.pi - 1e-3) & (angles.sin() > 1e-3)
        torch.testing.assert_close(found[inside], (angles + margin).cos()[inside])
        assert (found.diff() < 1e-6).all(), "a larger angle is never closer"
        assert found.diff().abs().max() < 2e-3, "no jump"


KINDS = {
    "am": lambda: MarginSoftmax(WIDTH, CLASSES, "am", top_k=2, sub_centres=2),
    "aam": lambda: MarginSoftmax(WIDTH, CLASSES, "aam", top_k=2, sub_centres=2),
    "sphereface2": lambda: SphereFace2(WIDTH, CLASSES, sub_centres=2),
    "softmax": lambda: Softmax(WIDTH, CLASSES),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_gradients_are_finite_where_embedding_and_weight_are_parallel(kind, side):
    torch.manual_seed(0)
    loss = KINDS[kind]()
    weight = loss.weight.detach()
    embedding = (side * weight.reshape(CLASSES, -1, WIDTH)[:, 0]).clone().requires_grad_()
    loss(embedding, torch.arange(CLASSES)).backward()
    assert torch.isfinite(embedding.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in loss.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_down_the_gradient_bring_the_loss_down(kind):
    torch.manual_seed(0)
    loss, target = KINDS[kind](), torch.arange(CLASSES)
    embedding = torch.randn(CLASSES, WIDTH)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.02)
    values = []
    for _ in range(50):
        values.append(loss(embedding, target))
        values[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert values[-1] < 0.8 * values[0]


def test_the_first_bias_of_sphereface2_balances_own_and_others():
    """At right angles to all, the pull to the own class is as strong as the push of all others together."""
    loss = SphereFace2(CLASSES + 1, CLASSES, SCALE, MARGIN).double()
    loss.weight.data = torch.eye(CLASSES, CLASSES + 1, dtype=torch.float64).unsqueeze(1)
    embedding = torch.eye(CLASSES + 1, dtype=torch.float64)[-1:].clone().requires_grad_()
    loss(embedding, torch.tensor([2])).backward()
    gradient = embedding.grad[0]
    assert gradient[2] < 0
    assert -gradient[2].item() == pytest.approx((gradient[:CLASSES].sum() - gradient[2]).item(), rel=1e-4)


BUILT = {
    "softmax": lambda loss: isinstance(loss, Softmax),
    "am": lambda loss: isinstance(loss, MarginSoftmax) and (loss.scale, loss.margin, loss.top_k) == (20, 0.1, 3),
    "aam": lambda loss: isinstance(loss, MarginSoftmax) and loss.apart is add_angle and loss.inter_margin == 0.05,
    "sphereface2": lambda loss: isinstance(loss, SphereFace2) and (loss.balance, loss.sharpness) == (0.8, 2),
}


@pytest.mark.parametrize("kind", BUILT)
def test_a_recipe_is_built_as_it_says(kind):
    asked = {"scale": 20, "margin": 0.1, "inter_top_k": 3, "inter_margin": 0.05, "sub_centres": 2}
    config = ObjectiveConfig.model_validate({"kind": kind, **asked, "sphereface2": {"balance": 0.8, "t": 2}})
    loss = build_loss(config, WIDTH, CLASSES)
    assert BUILT[kind](loss)
    assert loss.weight.shape == ((CLASSES, WIDTH) if kind == "softmax" else (CLASSES, 2, WIDTH))


def test_fresh_weights_have_lengths_of_about_one():
    weight = MarginSoftmax(256, 500, "aam").weight
    assert weight.norm(dim=-1).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_the_same_name_keep_their_weights(kind):
    old, new = KINDS[kind](), KINDS[kind]()
    before, now = [f"s{i}" for i in range(CLASSES)], [f"s{i}" for i in range(3, CLASSES + 3)]
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    assert carry_over(new, old.state_dict(), before, now) == CLASSES - 3
    assert torch.equal(new.weight[:-3], old.weight[3:])
    assert torch.equal(new.weight[-3:], fresh["weight"][-3:])


def test_weights_of_another_shape_stay_fresh():
    old, new = MarginSoftmax(WIDTH, CLASSES, sub_centres=2), MarginSoftmax(WIDTH, CLASSES, sub_centres=3)
    fresh = new.weight.detach().clone()
    names = list("abcdefg")
    assert carry_over(new, old.state_dict(), names, names) == 0
    assert carry_over(new, Softmax(WIDTH, CLASSES).state_dict(), names, names) == 0
    assert torch.equal(new.weight, fresh)
