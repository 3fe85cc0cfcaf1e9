"""The latency of one model over another's, for those who have both at hand."""

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.timing import Ratio, Task, interleaved, ratio
from hybrid_pruning.models.speech_model import SpeechModel


def latency_ratio(model: SpeechModel, reference: SpeechModel, seconds: float = 4.0, repeats: int = 12) -> Ratio:
    """Return how long a model takes to embed one utterance over how long the reference takes; below 1 is faster.

    Args:
        model: the model in question; both are left in evaluation mode.
        reference: what it is compared with, on the same device.
        seconds: length of the utterance, which is noise.
        repeats: rounds, each of one pass through either model.
    """
    tasks = {name: _embedding(net, seconds) for name, net in {"model": model, "reference": reference}.items()}
    times = interleaved(tasks, repeats)
    return ratio(times["model"], times["reference"])


def _embedding(model: SpeechModel, seconds: float) -> Task:
    wave = torch.randn(1, round(seconds * SAMPLE_RATE_HZ), device=next(model.parameters()).device)
    model.eval()
    return torch.inference_mode()(lambda: model.embed(wave))
