"""How good a model in training is: the dev set scored by the model that would be exported now."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid_pruning.config import Config
from hybrid_pruning.files import atomic_write
from hybrid_pruning.manifest import Label, Utterance
from hybrid_pruning.metrics import act_dcf, cllr, eer, min_dcf
from hybrid_pruning.objective import Objective
from hybrid_pruning.pruning import Gates
from hybrid_pruning.pruning.gate import open_probability
from hybrid_pruning.scoring import score_utterances

SCORES = "dev_scores.tsv"
BINS = 20

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """What a validation found.

    Args:
        figures: metrics of the dev set, and where there are gates the exact sparsity, as fractions.
        scores: [N] log-likelihood ratios, in the dev set's order.
        opened: unit kind -> [units] how likely each gate is open; empty without gates.
    """

    figures: dict[str, float]
    scores: FloatArray
    opened: dict[str, FloatArray]

    def record(self) -> dict[str, Any]:
        """Return it as the log has it: the gates as counts in bins of equal width from 0 to 1."""
        counts = {
            unit: np.histogram(probabilities, BINS, (0.0, 1.0))[0].tolist()
            for unit, probabilities in self.opened.items()
        }
        return {"dev": self.figures} | ({"gates": counts} if counts else {})


def validate(objective: Objective, devset: Sequence[Utterance], target_sparsity: float, config: Config) -> Validation:
    """Score the dev set with the model cut to a target, on all processes together.

    Args:
        objective: the network and its gates; they are left as they were.
        devset: utterances of both classes.
        target_sparsity: what the model that would be exported now has to meet; of no importance without gates.
        config: the recipe.

    Raises:
        InputError: a file that cannot be used, or a score that is not finite.
    """
    sizes: dict[str, float] = {}
    gates = objective.gates
    if gates is not None:
        kept = gates.kept(target_sparsity, objective.constraint)
        exact = gates.accounting.exact_kept(kept)
        sizes = {"sparsity": float(exact.sparsity), "macs_sparsity": float(exact.macs_sparsity)}
        gates.pin(kept)
    try:
        scores = score_utterances(objective.model, devset, config.training.batch_size, config.data.workers)
    finally:
        if gates is not None:
            gates.pin(None)
    bonafide = np.array([utterance.label == Label.BONAFIDE for utterance in devset])
    figures = measure(scores[bonafide], scores[~bonafide])
    return Validation(figures | sizes, scores, {} if gates is None else opened(gates))


def measure(bonafide: FloatArray, spoof: FloatArray) -> dict[str, float]:
    """Return the metrics of [P] and [N] log-likelihood ratios; the accuracy is at the threshold 0."""
    metrics = {"eer": eer, "min_dcf": min_dcf, "act_dcf": act_dcf, "cllr": cllr}
    correct = int((bonafide >= 0).sum() + (spoof < 0).sum())
    return {name: metric(bonafide, spoof) for name, metric in metrics.items()} | {
        "accuracy": correct / (len(bonafide) + len(spoof))
    }


@torch.no_grad()
def opened(gates: Gates) -> dict[str, FloatArray]:
    """Return, for each kind of unit, how likely every one of them is open."""
    found: dict[str, list[FloatArray]] = {}
    for gate in gates.values():
        probabilities = open_probability(gate.log_alpha).double().cpu().numpy()
        found.setdefault(gate.slot.unit, []).append(probabilities)
    return {unit: np.concatenate(parts) for unit, parts in found.items()}


def write_scores(path: Path, devset: Sequence[Utterance], scores: FloatArray) -> None:
    """Write `filename<TAB>cm-score<TAB>cm-label`, scores and keys in one.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path) as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(("filename", "cm-score", "cm-label"))
        writer.writerows((u.utt_id, repr(float(score)), u.label) for u, score in zip(devset, scores, strict=True))
