"""Distillation: losses that hold hidden states and outputs to those of a teacher, a larger network of the same width.

Gates cut what lies inside of a layer, never its width, so that states are compared layer by layer without a projection.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.config import DistillationConfig
from hybrid_pruning.models.backbone import Hidden
from hybrid_pruning.models.backbone.base import mask_of
from hybrid_pruning.models.speech_model import SpeechModel


class Teacher:
    """A network in evaluation mode, and the losses against it; no part of what is trained or saved.

    Args:
        model: a detector or an extractor of embeddings; or a backbone alone, of which only hidden states are compared.
        asked: the recipe's layers and weights.
    """

    def __init__(self, model: nn.Module, asked: DistillationConfig) -> None:
        self.model, self.asked = model.eval().requires_grad_(False), asked
        self.backbone: Any = getattr(model, "backbone", model)
        self.backbone.frozen = True  # its input is the student's, whose check for NaN would wait for a GPU

    def losses(
        self, wave: torch.Tensor, lengths: torch.Tensor | None, hidden: Hidden, output: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the weighted losses by name for wave [B, S], from the student's hidden states and output.

        "hidden" is the mean over layers of L1 relative to the teacher's mean magnitude, plus 1 - cosine, as in DPHuBERT
        (Peng et al., Interspeech 2023, section 2.2) but for that scale, which lets layers of any magnitude weigh alike.
        "output" is the divergence KL(teacher || student) of the classes, or 1 - cosine of embeddings.
        """
        if next(self.model.parameters()).device != wave.device:  # to() looks at every tensor: milliseconds
            self.model.to(wave.device)
        found: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            expected = self.backbone(wave, lengths)
            wanted = None if self.asked.output == 0 else self.model.classifier(self.model.head(expected))  # type: ignore[operator]
        with torch.autocast(wave.device.type, enabled=False):
            if self.asked.hidden:
                found["hidden"] = self.asked.hidden * hidden_loss(hidden, expected, self.asked.layers)
            if wanted is not None:
                classes = isinstance(self.model, SpeechModel) and self.model.classes is not None
                loss = class_divergence if classes else embedding_distance
                found["output"] = self.asked.output * loss(output.float(), wanted.float())
        return found


def hidden_loss(student: Hidden, teacher: Hidden, layers: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return the mean over layers of |s - t|_1 / |t|_1 + 1 - cos(s, t) over valid frames; layer 0 is the input."""
    s, t = student.frames.float(), teacher.frames.float()
    if layers is not None:
        s, t = s[list(layers)], t[list(layers)]
    valid = s.new_ones(s.shape[1:3]) if student.lengths is None else mask_of(student.lengths, s.shape[2]).to(s)
    distance = ((s - t).abs().sum(-1) * valid).sum((1, 2)) / (t.abs().sum(-1) * valid).sum((1, 2))
    cosine = (F.cosine_similarity(s, t, dim=-1) * valid).sum((1, 2)) / valid.sum()
    return (distance + 1 - cosine).mean()


def class_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean KL(teacher || student), in nats, of logits [B, classes] (Hinton et al., 2015)."""
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")


def embedding_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - cosine of embeddings [B, E]."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
