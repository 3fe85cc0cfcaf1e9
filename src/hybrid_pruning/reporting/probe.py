"""A probe of hidden states: how well the mean over time of each tells the classes, or speakers, apart."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.console import Table, say, say_table
from hybrid_pruning.data.trainset import read_set
from hybrid_pruning.metrics import FloatArray, eer
from hybrid_pruning.models.backbone import Backbone, Hidden
from hybrid_pruning.models.heads import Head, take_statistics
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.reporting.inspection import share_bar
from hybrid_pruning.scoring.engine import choose_device
from hybrid_pruning.scoring.scores import embed_paths
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.export import build_export
from hybrid_pruning.training.runs import Run
from hybrid_pruning.training.validation import read_dev_trials

L2 = 0.01
"""Weight of half the squared weights beside the mean loss, on features of unit variance."""
STEPS = 200


@dataclass(frozen=True, slots=True)
class Probe:
    """The EER of each hidden state, 0 the first layer's input, by the measure in words; the training utterances."""

    measure: str
    utterances: int
    eer: tuple[float, ...]

    def as_json(self) -> Mapping[str, Any]:
        """Return plain values."""
        return asdict(self)


class Moments(Head):
    """Mean and standard deviation over time of every hidden state: [L, B, T, D] -> [B, L x 2D]."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.embedding_width = 2 * backbone.depth * backbone.width

    def forward(self, hidden: Hidden) -> torch.Tensor:
        """Return [B, L x 2D]."""
        return take_statistics(hidden.frames, hidden.lengths).transpose(0, 1).flatten(1)


def probe(
    model: str | Path | Backbone,
    train: str | Path,
    dev: str | Path,
    trials: str | Path | None = None,
    batch_size: int = 16,
    workers: int = 2,
    device: str = "auto",
) -> Probe:
    """Measure each hidden state of an encoder by itself; the encoder is not trained.

    Of anti-spoofing by a logistic regression on mean and standard deviation over time, at unit variance; with trials by
    the cosine of means, less the mean of the training utterances.

    Args:
        model: a run, an artifact, a transformers folder, a hub id, or a loaded encoder.
        train: manifest that the classifier is fitted on.
        dev: manifest that the EER is of.
        trials: list of trials over `dev`, for speaker verification.
        batch_size: windows in a batch at most.
        workers: threads that decode.
        device: see `choose_device`.
    """
    fitted, judged = (
        read_set(Path(path), "speaker-verification" if trials else "anti-spoofing") for path in (train, dev)
    )
    known = None if trials is None else read_dev_trials(Path(trials), judged, str(dev))
    if isinstance(model, (str, Path)):
        model = build_export(model).backbone if Run(model).config.exists() else load_backbone(model)
    body = SpeechModel(model, Moments(model), None, HeadConfig()).to(choose_device(device))
    embedded = []
    for utterances in (fitted, judged):
        paths, seconds = [one.path for one in utterances], [one.seconds for one in utterances]
        found = embed_paths(body, paths, batch_size, workers, seconds=seconds)
        embedded.append(found.reshape(len(paths), model.depth, -1).swapaxes(0, 1).astype(np.float64))
    if known is None:
        target, positive = (np.array([one.label == Label.BONAFIDE for one in its]) for its in (fitted, judged))
        scores = [classify(own, target, other) for own, other in zip(*embedded, strict=True)]
    else:
        positive, means = known.classes == "target", (part[..., : model.width] for part in embedded)
        scores = [known.cosines(other - own.mean(0)) for own, other in zip(*means, strict=True)]
    measure = "logistic regression on mean and std" if known is None else "cosine of means"
    return Probe(measure, len(fitted), tuple(eer(found[positive], found[~positive]) for found in scores))


def classify(fitted: FloatArray, positive: Any, judged: FloatArray) -> FloatArray:
    """Return the [M] scores of features [M, D] by a logistic regression on features [N, D] with classes [N]."""
    mean, deviation = fitted.mean(0), fitted.std(0)
    scale = np.where(deviation > 0, deviation, 1)
    x, other = (torch.from_numpy((part - mean) / scale) for part in (fitted, judged))
    y = torch.from_numpy(positive).to(x)
    weight, bias = (torch.zeros(size, dtype=x.dtype, requires_grad=True) for size in (x.shape[1], 1))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = F.binary_cross_entropy_with_logits(x @ weight + bias, y) + L2 / 2 * weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    scores: FloatArray = (other @ weight).detach().numpy()
    return scores


def print_probe(found: Probe) -> None:
    """Print the EER of each hidden state, with a bar that is empty at chance and full without errors."""
    rows = [
        (
            str(state),
            f"{100 * rate:6.2f}",
            [*share_bar(max(0.0, 1 - 2 * rate)), *([" best"] if rate == min(found.eer) else [])],
        )
        for state, rate in enumerate(found.eer)
    ]
    say_table(Table(("hidden state", "EER %", "1 - 2 EER"), rows, left=3), box="none")
    say(f"by {found.measure} of {found.utterances} training utterances; hidden state 0 is the first layer's input")
