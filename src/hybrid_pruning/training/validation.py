"""Validation: the dev set, or trials over it, scored by the model that would be exported now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid_pruning.config import Config
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import Register, read_keys
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray, act_dcf, cllr, eer, min_dcf
from hybrid_pruning.metrics.measures import Names, Sample
from hybrid_pruning.pruning import Gates
from hybrid_pruning.pruning.gate import open_probability
from hybrid_pruning.scoring.backend import score_cosines
from hybrid_pruning.scoring.scores import embed_paths, score_utterances
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.objective import Objective

BINS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """The result of a validation: metrics, and where there are gates the exact sparsity, as fractions.

    The scores are [N] log-likelihood ratios in the dev set's order, or [T] cosines in the trials'; positive are the
    bona fide, or the target trials. `opened` has the [units] probabilities of each kind's gates to be open.
    """

    figures: dict[str, float]
    scores: FloatArray
    positive: np.ndarray[Any, np.dtype[np.bool_]]
    opened: dict[str, FloatArray]

    def record(self) -> dict[str, Any]:
        """Return the record for the log: the gates as counts in bins of equal width from 0 to 1."""
        counts = {unit: np.histogram(found, BINS, (0.0, 1.0))[0].tolist() for unit, found in self.opened.items()}
        return {"dev": self.figures} | ({"gates": counts} if counts else {})


@dataclass(frozen=True, slots=True, eq=False)
class DevTrials:
    """Verification trials over the dev set, [T] in the order of their file, and the place of each utterance there."""

    enrol: Names
    test: Names
    classes: Names
    places: dict[str, int]

    def cosines(self, embeddings: FloatArray) -> FloatArray:
        """Return the [T] cosines between the embeddings [N, E] that each trial compares."""
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        directions = embeddings / np.maximum(lengths, np.finfo(np.float64).tiny)
        places = [[self.places[name] for name in names] for names in (self.enrol, self.test)]
        return score_cosines(directions, np.array(places, dtype=np.int64).T)


def read_dev_trials(path: Path, devset: Sequence[Utterance], manifest: Path) -> DevTrials:
    """Read the trials of a validation over a manifest's dev set, in any form that `evaluate --sv` reads."""
    keys = read_keys(path, SV, SV.trial)
    register = Register(utterance.utt_id for utterance in devset)
    enrol, test = (keys.columns[name] for name in SV.trial)
    places: dict[str, int] = {}
    for name in (*enrol.tolist(), *test.tolist()):
        if (place := register.find(name)) is None:
            raise InputError(
                f"{path}: '{name}' is no utt_id of {manifest}; do data.trials.dev and data.dev belong together?"
            )
        places[name] = place
    return DevTrials(enrol, test, keys.classes, places)


def validate(
    objective: Objective,
    devset: Sequence[Utterance],
    target_sparsity: float,
    config: Config,
    trials: DevTrials | None = None,
) -> Validation:
    """Score the dev set, or trials over it, with the model cut to a target, on all processes together.

    Network and gates are left as they were.
    """
    sizes: dict[str, float] = {}
    model, gates = objective.model, objective.gates
    batch_size, workers = config.training.batch_size, config.data.workers
    if gates is not None:
        kept = gates.kept(target_sparsity, objective.constraint)
        exact = gates.accounting.exact_kept(kept)
        sizes = {"sparsity": float(exact.sparsity), "macs_sparsity": float(exact.macs_sparsity)}
        gates.pin(kept)
    try:
        if trials is None:
            scores = score_utterances(model, devset, batch_size, workers)
            positive = np.array([utterance.label == Label.BONAFIDE for utterance in devset])
            figures = measure(scores[positive], scores[~positive])
        else:
            paths, seconds = [u.path for u in devset], [u.seconds for u in devset]
            scores = trials.cosines(embed_paths(model, paths, batch_size, workers, seconds=seconds))
            positive = trials.classes == "target"
            figures = Sample({SV.scores: scores}, trials.classes).measure(SV.measures)
    finally:
        if gates is not None:
            gates.pin(None)
    return Validation(figures | sizes, scores, positive, {} if gates is None else opened(gates))


def measure(bonafide: FloatArray, spoof: FloatArray) -> dict[str, float]:
    """Return the metrics of [P] and [N] log-likelihood ratios; the accuracy is at the threshold 0."""
    metrics = {"eer": eer, "min_dcf": min_dcf, "act_dcf": act_dcf, "cllr": cllr}
    correct = int((bonafide >= 0).sum() + (spoof < 0).sum())
    return {name: metric(bonafide, spoof) for name, metric in metrics.items()} | {
        "accuracy": correct / (len(bonafide) + len(spoof))
    }


@torch.no_grad()
def opened(gates: Gates) -> dict[str, FloatArray]:
    """Return, for each kind of unit, the probabilities of its gates to be open."""
    found: dict[str, list[FloatArray]] = {}
    for gate in gates.values():
        probabilities = open_probability(gate.log_alpha).double().cpu().numpy()
        found.setdefault(gate.slot.unit, []).append(probabilities)
    return {unit: np.concatenate(parts) for unit, parts in found.items()}


def write_scores(path: Path, devset: Sequence[Utterance], scores: FloatArray, trials: DevTrials | None = None) -> None:
    """Write scores and keys in one: `filename cm-score cm-label`, or of trials `enrol test score label`."""
    values = [repr(float(score)) for score in scores]
    columns: dict[str, Any] = {
        "filename": [utterance.utt_id for utterance in devset],
        "cm-score": values,
        "cm-label": [utterance.label for utterance in devset],
    }
    if trials is not None:
        columns = {"enrol": trials.enrol, "test": trials.test, SV.scores: values, "label": trials.classes}
    write_table(path, list(columns), zip(*columns.values(), strict=True))
