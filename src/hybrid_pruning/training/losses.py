"""Losses on speaker embeddings: class weights as directions, cosines to them, and margins that pull classes apart.

Each is a module: embedding [B, E], target [B] -> loss. Its weights are the objective's and no part of the model: they
know the speakers of the training data, and verification compares strangers. At the start the weights are drawn, unless
by Xavier's rule, from a normal distribution of variance 1 / E: all directions are as likely, and lengths, which do not
change cosines but how fast they change, about 1; the SphereFace2 bias has a rule of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.config import ObjectiveConfig

SMALLEST = 1e-7
"""Of a squared sine: its root would have an infinite gradient at 0, where embedding and class weight are parallel."""


class ClassLoss(nn.Module):
    """A loss over classes: forward(embedding [B, E], target [B], share of the margins from 0 to 1) -> scalar."""

    weight: nn.Parameter

    def forward(self, embedding: torch.Tensor, target: torch.Tensor, share: float = 1.0) -> torch.Tensor:
        """Return the mean loss of a batch."""
        raise NotImplementedError


class Softmax(ClassLoss):
    """Cross-entropy of a linear layer from E to C, without margin or normalisation: the baseline."""

    def __init__(self, embedding: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, embedding) * embedding**-0.5)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, embedding: torch.Tensor, target: torch.Tensor, share: float = 1.0) -> torch.Tensor:  # noqa: ARG002
        """Return the mean loss of a batch; there are no margins to take a share of."""
        return F.cross_entropy(F.linear(embedding, self.weight, self.bias), target)


class CosineLoss(ClassLoss):
    """A loss on cosines: K directions for each class, of which the closest counts.

    Source of the sub-centres: Deng et al., "Sub-center ArcFace", ECCV 2020, section 3.2.
    """

    def __init__(self, embedding: int, classes: int, sub_centres: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, sub_centres, embedding) * embedding**-0.5)

    def cosines(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return [B, C], the cosines between embeddings [B, E] and the closest sub-centre of every class."""
        classes, sub_centres, _ = self.weight.shape
        directions = F.normalize(self.weight, dim=-1).flatten(0, 1)
        found = F.linear(F.normalize(embedding, dim=-1), directions)
        return found if sub_centres == 1 else found.view(-1, classes, sub_centres).max(dim=2).values


class MarginSoftmax(CosineLoss):
    """Cross-entropy of scaled cosines with a margin on the own class and, where asked, on its closest rivals.

    "am" subtracts the margin from the cosine: Wang et al., "Additive Margin Softmax for Face Verification", 2018,
    equation 6. "aam" adds it to the angle: Deng et al., "ArcFace", CVPR 2019, equation 3, with `add_angle`'s fall-back.
    The `top_k` other classes that are closest get a margin the other way, which brings them closer still: Zhao et al.,
    "Multi-query multi-head attention pooling and Inter-TopK penalty for speaker verification", ICASSP 2022, section
    3.2; for "am" the same on the cosine. Margins are in cosine for "am" and in radians for "aam"; top_k < C.
    """

    def __init__(
        self,
        embedding: int,
        classes: int,
        kind: str = "aam",
        scale: float = 32.0,
        margin: float = 0.2,
        top_k: int = 0,
        inter_margin: float = 0.06,
        sub_centres: int = 1,
    ) -> None:
        super().__init__(embedding, classes, sub_centres)
        self.apart = APART[kind]
        self.scale, self.margin, self.top_k, self.inter_margin = scale, margin, top_k, inter_margin

    def forward(self, embedding: torch.Tensor, target: torch.Tensor, share: float = 1.0) -> torch.Tensor:
        """Return the mean loss of a batch."""
        cosines, place = self.cosines(embedding), target.unsqueeze(1)
        own = self.apart(cosines.gather(1, place), share * self.margin)
        if self.top_k:
            closest = cosines.detach().topk(self.top_k + 1, dim=1).indices  # one more: the own class may be among them
            rivals = closest != place
            rivals[:, -1] &= ~rivals.all(dim=1)
            found = cosines.gather(1, closest)
            penalised = self.apart(found, -share * self.inter_margin)
            cosines = cosines.scatter(1, closest, torch.where(rivals, penalised, found))
        # in place where autograd allows it: with many speakers a [B, C] more is what fills the memory
        return F.cross_entropy(cosines.scatter(1, place, own).mul_(self.scale), target)


class SphereFace2(CosineLoss):
    """Every class against everything else, each a question of yes or no: no softmax, so that classes do not compete.

    Of its forms this is C, with margins on the cosine: lambda/r log(1 + exp(-r (g(cos y) - m) - b)) for the own class y
    plus (1 - lambda)/r log(1 + exp(r (g(cos j) + m) + b)) for each other j, with g(z) = 2 ((z + 1) / 2)^t - 1.
    Source: Wen et al., "SphereFace2: Binary classification is all you need for deep face recognition", ICLR 2022,
    section 3. Here r is the scale, m the margin, lambda the balance, t >= 1 the sharpness, and b a bias that starts,
    unless it is given, where own and other classes pull equally at right angles.
    """

    def __init__(
        self,
        embedding: int,
        classes: int,
        scale: float = 32.0,
        margin: float = 0.2,
        balance: float = 0.7,
        sharpness: float = 3.0,
        bias: float | None = None,
        sub_centres: int = 1,
    ) -> None:
        super().__init__(embedding, classes, sub_centres)
        self.scale, self.margin, self.balance, self.sharpness = scale, margin, balance, sharpness
        start = balanced_bias(classes, scale, margin, balance, sharpness) if bias is None else bias
        self.bias = nn.Parameter(torch.tensor(start))

    def forward(self, embedding: torch.Tensor, target: torch.Tensor, share: float = 1.0) -> torch.Tensor:
        """Return the mean loss of a batch."""
        cosines, place, margin = self.cosines(embedding), target.unsqueeze(1), share * self.margin
        similarity = 2 * ((cosines + 1) / 2).clamp_min(0) ** self.sharpness - 1  # rounding may leave [-1, 1]
        own = F.softplus(-self.scale * (similarity.gather(1, place) - margin) - self.bias).squeeze(1)
        logits = (self.scale * (similarity + margin) + self.bias).scatter_(1, place, -math.inf)
        others = F.softplus(logits).sum(dim=1)
        return ((self.balance * own + (1 - self.balance) * others) / self.scale).mean()


def add_angle(cosine: torch.Tensor, angle: float) -> torch.Tensor:
    """Return cos(theta + angle) of cos(theta), for angles from -pi to pi.

    Where theta + angle would leave [0, pi], and the cosine turn round, it is the cosine moved by 1 - cos(angle)
    instead: the same value at that edge, and monotonic beyond it. The papers leave this open.
    """
    sine = (1 - cosine.square()).clamp_min(SMALLEST).sqrt()
    found = cosine * math.cos(angle) - sine * math.sin(angle)
    moved = math.copysign(1 - math.cos(angle), angle)
    within = cosine > -math.cos(angle) if angle >= 0 else cosine < math.cos(angle)
    return torch.where(within, found, cosine - moved)


APART: Mapping[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "am": lambda cosine, margin: cosine - margin,
    "aam": add_angle,
}
"""A cosine made smaller by a margin of each kind, or larger where that is negative."""


def balanced_bias(classes: int, scale: float, margin: float, balance: float, sharpness: float) -> float:
    """Return the bias of SphereFace2 at which, at right angles, own and other classes have gradients of equal size.

    With x = exp(b), a and c the logits of the own and another class without bias, and z = lambda / ((1 - lambda)
    (C - 1)) these are equal where exp(a + c) x^2 + exp(c) (1 - z) x - z = 0.
    """
    right_angle = 2 * 0.5**sharpness - 1
    own, other = scale * (right_angle - margin), scale * (right_angle + margin)
    ratio = balance / ((1 - balance) * (classes - 1))
    root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.exp(own - other))
    return math.log(2 * ratio) - other - math.log(1 - ratio + root)


def build_loss(config: ObjectiveConfig, embedding: int, classes: int) -> ClassLoss:
    """Return the loss of a recipe's section over E features and C speakers, with fresh weights.

    Xavier's rule: uniform with variance 2 / (E + K C). Source: Glorot, Bengio, AISTATS 2010, equation 16.
    """
    sizes, margins, own = (embedding, classes), (config.scale, config.margin), config.sphereface2
    if config.kind == "softmax":
        loss: ClassLoss = Softmax(*sizes)
    elif config.kind == "sphereface2":
        loss = SphereFace2(*sizes, *margins, own.balance, own.t, own.bias, config.sub_centres)
    else:
        inter = (config.inter_top_k, config.inter_margin)
        loss = MarginSoftmax(*sizes, config.kind, *margins, *inter, config.sub_centres)
    if config.class_weights == "xavier":
        nn.init.xavier_uniform_(loss.weight.detach().flatten(0, -2))
    return loss


@torch.no_grad()
def carry_over(loss: ClassLoss, weights: Mapping[str, torch.Tensor], before: Sequence[str], now: Sequence[str]) -> int:
    """Copy an earlier loss's weights for the same classes into a loss, as far as shapes agree; return how many classes.

    `before` and `now` name the classes of the earlier and the new loss in the order of their weights.
    """
    known = {name: place for place, name in enumerate(before)}
    places = [(place, known[name]) for place, name in enumerate(now) if name in known]
    carried = 0
    for name, value in loss.state_dict().items():
        old = weights.get(name)
        if old is None or old.shape[1:] != value.shape[1:] or old.dim() != value.dim():
            continue
        if not value.dim():
            value.copy_(old)
        elif places:
            new, there = zip(*places, strict=True)
            value[list(new)] = old[list(there)].to(value)
            carried = len(places)
    return carried
