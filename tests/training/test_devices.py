"""A step makes no tensor on the CPU and waits for none on its device; torch's meta device stands for a GPU."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encoders import REPRESENTATIVE, close, shuffle
from hybrid_pruning.config import DistillationConfig, HeadConfig
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Lagrangian, attach, shrink
from hybrid_pruning.training.objective import Objective, Teacher

CLASSES = Classes(("spoof", "bonafide"), (1, 1))


class Strays(TorchDispatchMode):
    """Notes operations on the CPU, and tensors that are made there and copied: torch.tensor shows as a lift."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        tensors = [one for one in tree_leaves((arguments, options, result)) if isinstance(one, torch.Tensor)]
        if "lift_fresh" in str(operation) or any(one.device.type == "cpu" for one in tensors):
            self.found.append(str(operation))
        return result


@pytest.mark.parametrize("kind", REPRESENTATIVE, ids="-".join)
@pytest.mark.parametrize("state", ["gated", "shrunk"])
def test_a_step_stays_on_its_device(state, make_backbone, monkeypatch):
    """An operation that waits, such as bool() of a tensor, raises on the meta device."""
    backbone = make_backbone()
    gates = attach(backbone)
    shuffle(gates, seed=0)
    close(gates, "attlayer.1", "ffnlayer.0")
    if state == "shrunk":
        backbone, gates = shrink(backbone, gates), None
    model, teacher = (SpeechModel.build(one, HeadConfig(heads=2), CLASSES) for one in (backbone, make_backbone()))
    objective = Objective(model, gates, Lagrangian() if gates else None).to("meta").train()
    objective.teacher = Teacher(teacher, DistillationConfig(teacher="given"))
    teacher.to("meta")
    batch = Batch(torch.randn(2, 4000), None, torch.tensor([0, 1]), torch.arange(2)).to(torch.device("meta"))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none on the meta device
    objective.expected_sparsity() if gates else None  # moves what it counts with once
    objective.draw(0.5)  # the noise is the CPU's, so that it is the same on every device
    monkeypatch.setattr(objective, "draw", lambda _: None)
    with Strays() as strays:
        losses = objective(batch, 0.5)
    assert set(losses) == {"task", "hidden", "output", *(["sparsity"] if gates else [])}
    assert strays.found == []
