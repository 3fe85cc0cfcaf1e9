"""The loss: the task's, plus the Lagrangian of the size where there are gates."""

import pytest
import torch
from torch.nn import functional as F

from encoders import MakeBackbone
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Constraint, Lagrangian, attach
from hybrid_pruning.training.objective import Objective, sum_losses

CLASSES = Classes(("spoof", "bonafide"), (1, 1))
HEAD = HeadConfig(heads=3, compression=4, embedding=5)


@pytest.fixture
def kind() -> tuple[str, str]:
    return ("wavlm", "base")


@pytest.fixture
def model(make_backbone: MakeBackbone) -> SpeechModel:
    torch.manual_seed(0)
    return SpeechModel.build(make_backbone(), HEAD, CLASSES).train()


@pytest.fixture
def batch(wave: torch.Tensor, lengths: torch.Tensor) -> Batch:
    return Batch(wave, lengths, torch.tensor([0, 1, 1]), torch.arange(3))


def gated(model: SpeechModel, constraint: Constraint = "params") -> Objective:
    gates = attach(model.backbone, drop_rate=0.3, seconds=0.5)
    return Objective(model, gates, Lagrangian(), constraint).train()


def test_a_dense_model_has_the_tasks_loss_alone(model: SpeechModel, batch: Batch):
    losses = Objective(model)(batch, 0.5)
    assert list(losses) == ["task"]
    expected = F.cross_entropy(model(batch.wave, batch.lengths), batch.target)
    assert torch.equal(losses["task"], expected)
    assert torch.equal(sum_losses(losses), expected)


@pytest.mark.parametrize("constraint", ["params", "macs"])
def test_the_lagrangian_is_the_papers(model: SpeechModel, batch: Batch, constraint: Constraint):
    objective = gated(model, constraint)
    assert objective.gates is not None
    assert objective.lagrangian is not None
    objective.lagrangian.lambda1.data.fill_(3.0)
    objective.lagrangian.lambda2.data.fill_(-5.0)
    size = objective.gates.budget()
    left = size.params / size.dense_params if constraint == "params" else size.macs / size.dense_macs
    sparsity = float(1 - torch.as_tensor(left).detach())
    losses = objective(batch, 0.7)
    expected = 3.0 * (sparsity - 0.7) - 5.0 * (sparsity - 0.7) ** 2
    assert 0.05 < sparsity < 0.65
    assert losses["sparsity"].item() == pytest.approx(expected, rel=1e-5)
    assert sum_losses(losses).item() == pytest.approx(sum(part.item() for part in losses.values()))


def test_every_forward_draws_new_gates_that_the_task_feels(model: SpeechModel, batch: Batch):
    objective = gated(model)
    first, second = (objective(batch, 0.5)["task"] for _ in range(2))
    assert not torch.equal(first, second)


def test_gradients_reach_network_gates_and_multipliers(model: SpeechModel, batch: Batch):
    objective = gated(model)
    sum_losses(objective(batch, 0.9)).backward()
    without = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert objective.lagrangian is not None
    lambda1, lambda2 = objective.lagrangian.lambda1.grad, objective.lagrangian.lambda2.grad
    assert lambda1 is not None
    assert lambda2 is not None
    assert lambda1 < 0, "too large a model: ascending makes lambda1 negative, which rewards sparsity"
    assert lambda2.item() == pytest.approx(lambda1.item() ** 2, rel=1e-5)


def test_only_the_network_is_rounded_under_autocast(model: SpeechModel, batch: Batch):
    objective = gated(model)
    assert objective.gates is not None
    precise = objective(batch, 0.5)
    objective.gates.draws = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = objective(batch, 0.5)
    assert torch.equal(rounded["sparsity"], precise["sparsity"])
    assert not torch.equal(rounded["task"], precise["task"])
    assert all(gate.sampled is not None and gate.sampled.dtype == torch.float32 for gate in objective.gates.values())
    sum_losses(rounded).backward()
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
