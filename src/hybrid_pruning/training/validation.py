"""Validation: the dev set, or trials over it, scored by the model that would be exported now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid_pruning.config import Config, Files, by_name
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
from hybrid_pruning.scoring.scores import embed_paths, score_paths
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.objective import Objective

BINS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """The result of a validation: metrics, and where there are gates the exact sparsity, as fractions.

    The scores are [N] log-likelihood ratios in the dev set's order, or [T] cosines in the trials'; positive are the
    bona fide, or the target trials. `gates` are histograms of the probabilities to be open, see `open_histograms`. Of a
    dev set of several corpora the metrics are of all scores together, `mean_eer` beside them; `corpora` has each EER.
    `closed` are the slots of which no unit is kept.
    """

    figures: dict[str, float]
    scores: FloatArray
    positive: np.ndarray[Any, np.dtype[np.bool_]]
    gates: dict[str, list[int]]
    corpora: dict[str, float]
    closed: list[str]

    def record(self) -> dict[str, Any]:
        """Return the record for the log."""
        further = {"dev_eer": self.corpora, "gates": self.gates, "closed": self.closed}
        return {"dev": self.figures} | {name: values for name, values in further.items() if values}


@dataclass(frozen=True, slots=True, eq=False)
class DevTrials:
    """Verification trials over the dev set, [T] in the order of their file, and the two places [T, 2] of each there."""

    enrol: Names
    test: Names
    classes: Names
    places: np.ndarray[Any, np.dtype[np.intp]]

    def cosines(self, embeddings: FloatArray) -> FloatArray:
        """Return the [T] cosines between the embeddings [N, E] that each trial compares."""
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return score_cosines(embeddings / np.maximum(lengths, np.finfo(np.float64).tiny), self.places)


def read_dev_trials(files: Files, devset: Sequence[Utterance], manifests: str) -> DevTrials:
    """Read the trials of a validation over the dev set, of each corpus, in any form that `evaluate --sv` reads."""
    lists = [_read_trials(path, corpus, devset, manifests) for corpus, path in by_name(files).items()]
    fields = [[getattr(one, name) for one in lists] for name in ("enrol", "test", "classes", "places")]
    return DevTrials(*map(np.concatenate, fields))


def _read_trials(path: Path, corpus: str, devset: Sequence[Utterance], manifests: str) -> DevTrials:
    keys, prefix = read_keys(path, SV, SV.trial), f"{corpus}/" if corpus else ""
    register = Register(utterance.utt_id for utterance in devset)
    enrol, test = (np.array([f"{prefix}{name}" for name in keys.columns[column].tolist()]) for column in SV.trial)
    places = [[register.find(name) for name in side.tolist()] for side in (enrol, test)]
    for side, found in zip((enrol, test), places, strict=True):
        if None in found:
            name = str(side[found.index(None)]).removeprefix(prefix)
            raise InputError(
                f"{path}: '{name}' is no utt_id of {manifests}; do data.trials.dev and data.dev belong together?"
            )
    return DevTrials(enrol, test, keys.classes, np.array(places, dtype=np.intp).T)


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
    closed: list[str] = []
    model, gates = objective.model, objective.gates
    batch_size, workers = config.training.batch_size, config.data.workers
    if gates is not None:
        kept = gates.kept(target_sparsity, objective.constraint)
        exact = gates.accounting.exact_kept(kept)
        sizes = {"sparsity": float(exact.sparsity), "macs_sparsity": float(exact.macs_sparsity)}
        closed = [name for name, units in kept.items() if not len(units)]
        gates.pin(kept)
    paths, seconds = [utterance.path for utterance in devset], [utterance.seconds for utterance in devset]
    try:
        if trials is None:
            scores = score_paths(model, paths, batch_size, workers, seconds=seconds)
            positive = np.array([utterance.label == Label.BONAFIDE for utterance in devset])
            corpora = [utterance.corpus for utterance in devset]
            figures = measure(scores[positive], scores[~positive])
        else:
            scores = trials.cosines(embed_paths(model, paths, batch_size, workers, seconds=seconds))
            positive = trials.classes == "target"
            corpora = [devset[place].corpus for place in trials.places[:, 0].tolist()]
            figures = Sample({SV.scores: scores}, trials.classes).measure(SV.measures)
    finally:
        if gates is not None:
            gates.pin(None)
    if rates := measure_corpora(scores, positive, corpora):
        figures["mean_eer"] = sum(rates.values()) / len(rates)
    histograms = {} if gates is None else open_histograms(gates)
    return Validation(figures | sizes, scores, positive, histograms, rates, closed)


def measure(bonafide: FloatArray, spoof: FloatArray) -> dict[str, float]:
    """Return the metrics of [P] and [N] log-likelihood ratios; the accuracy is at the threshold 0."""
    metrics = {"eer": eer, "min_dcf": min_dcf, "act_dcf": act_dcf, "cllr": cllr}
    correct = int((bonafide >= 0).sum() + (spoof < 0).sum())
    accuracy = correct / (len(bonafide) + len(spoof))
    return {name: metric(bonafide, spoof) for name, metric in metrics.items()} | {"accuracy": accuracy}


def measure_corpora(
    scores: FloatArray, positive: np.ndarray[Any, np.dtype[np.bool_]], corpora: Sequence[str]
) -> dict[str, float]:
    """Return the EER of [N] scores in each of several corpora that have both classes, by its name."""
    names, own = np.unique(corpora, return_inverse=True)
    parts = {
        str(name): (scores[positive & (own == at)], scores[~positive & (own == at)]) for at, name in enumerate(names)
    }
    rates = {name: eer(*sides) for name, sides in parts.items() if all(side.size for side in sides)}
    return rates if len(rates) > 1 else {}


@torch.no_grad()
def open_histograms(gates: Gates) -> dict[str, list[int]]:
    """Return for each kind of unit the counts of its gates by probability to be open, in equal bins from 0 to 1."""
    found: dict[str, list[FloatArray]] = {}
    for gate in gates.values():
        opened = gate.deterministic() if gate.binary else open_probability(gate.log_alpha)
        found.setdefault(gate.slot.unit, []).append(opened.double().cpu().numpy())
    return {unit: np.histogram(np.concatenate(parts), BINS, (0.0, 1.0))[0].tolist() for unit, parts in found.items()}


def write_scores(path: Path, devset: Sequence[Utterance], scores: FloatArray, trials: DevTrials | None = None) -> None:
    """Write scores and keys in one: `filename cm-score cm-label`, or of trials `enrol test score label`."""
    values = [repr(float(score)) for score in scores]
    if trials is None:
        names, labels = zip(*((utterance.utt_id, utterance.label) for utterance in devset), strict=True)
        columns: dict[str, Any] = {"filename": names, "cm-score": values, "cm-label": labels}
    else:
        columns = {"enrol": trials.enrol, "test": trials.test, SV.scores: values, "label": trials.classes}
    write_table(path, list(columns), zip(*columns.values(), strict=True))
