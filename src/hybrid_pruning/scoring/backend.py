"""Embeddings -> scores of trials: centre, compare, normalise, calibrate, in this order.

cosine      of embeddings less the cohort's mean, or of the embeddings themselves where there is no cohort
AS-norm     against the cohort, unless it is declined
calibration a log-likelihood ratio of the score and of the trial's quality measures: last, as it is fitted on normalised
            scores and two of the measures are by-products of AS-norm

AS-norm: each score as far as it stands out among those that both its sides have with the closest cohort speakers.
Source: Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition", 2017, adaptive symmetric
normalisation with each side's own closest speakers; there the deviation is not defined, here it is that of the N
speakers themselves (divided by N).

Quality measures are symmetric: the smaller and the larger value of the two sides.
Source: Thienpondt et al., "The IDLAB VoxSRC-20 Submission: Large Margin Fine-Tuning and Quality-Aware Score Calibration
in DNN Based Speaker Verification", 2021: durations, magnitudes of the embeddings, and the mean of the closest
impostors' scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hybrid_pruning.console import progress_bar
from hybrid_pruning.data.manifest import UNKNOWN
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.calibration import QUALITIES, Calibration
from hybrid_pruning.models.cohort import Cohort, Vectors
from hybrid_pruning.scoring.embeddings import Embeddings
from hybrid_pruning.scoring.engine import Embedder

BLOCK = 1 << 14
"""Trials at a time, so that memory does not grow with their number."""
CELLS = 1 << 22
"""Scores against the cohort at a time: 16 MiB."""
SHORTEST_SECONDS = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class EnrolmentModels:
    """The sides of trials, M models of one recording each, or of several that a speaker is enrolled with.

    The model of several recordings is the mean of their centred embeddings, each of unit length before, and is of unit
    length itself. `places` are those of their recordings, model after model (one that stands twice counts twice),
    `owner` the model that each belongs to, ascending.
    """

    names: list[str]
    places: IntArray
    owner: IntArray

    @classmethod
    def of(cls, members: Sequence[Sequence[int]], names: Sequence[str]) -> Self:
        """Return them from the places of each one's recordings."""
        counts = [len(places) for places in members]
        places = np.array([place for places in members for place in places], dtype=np.int64)
        return cls(list(names), places, np.repeat(np.arange(len(members)), counts))

    def total(self, values: FloatArray) -> FloatArray:
        """Return [M] the sum of a value [N] of recordings over each model's."""
        sums: FloatArray = np.bincount(self.owner, values[self.places], minlength=len(self.names)).astype(np.float64)
        return sums

    def average(self, values: FloatArray) -> FloatArray:
        """Return [M] the mean of a value [N] of recordings over each model's."""
        return self.total(values) / np.bincount(self.owner, minlength=len(self.names))

    def directions(self, recordings: Vectors) -> Vectors:
        """Return [M, E] the models' directions from those [N, E] of the recordings."""
        if len(self.names) == len(self.places):
            return recordings[self.places]
        sums = np.zeros((len(self.names), recordings.shape[1]), dtype=np.float32)
        np.add.at(sums, self.owner, recordings[self.places])
        return to_directions(sums, self.names)


@dataclass(frozen=True, slots=True)
class Backend:
    """The steps from a model's embeddings to the scores of trials.

    No cohort makes plain cosines; not to normalise with it still subtracts its mean. The calibration is of scores that
    were made with this very cohort.
    """

    cohort: Cohort | None = None
    normalise: bool = True
    calibration: Calibration | None = None

    @classmethod
    def of(cls, model: Embedder) -> Self:
        """Return a model's own."""
        weighed = () if model.calibration is None else model.calibration.qualities
        if model.cohort is None and any(name.startswith("impostor-mean") for name in weighed):
            fault = "the model is calibrated by how close its cohort comes, but has none"
            raise InputError(f"{fault}; give it the cohort it had")
        return cls(model.cohort, model.cohort is not None, model.calibration)

    def score(
        self, embeddings: Embeddings, models: EnrolmentModels, pairs: IntArray
    ) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return [T] scores of trials, pairs [T, 2] of models, and their quality measures by name, [T] each."""
        mean = None if self.cohort is None else self.cohort.mean
        directions = models.directions(to_directions(embeddings.vectors, embeddings.ids, mean))
        scores = score_cosines(directions, pairs)
        lengths = np.linalg.norm(embeddings.vectors, axis=1).astype(np.float64)
        measures = {
            "log-seconds": np.log(np.maximum(models.total(embeddings.seconds), SHORTEST_SECONDS)),
            "embedding-length": models.average(lengths),
        }
        if self.cohort is not None and self.normalise:
            centre, deviation = find_impostors(directions, models.names, self.cohort)
            enrol, test = ((scores - centre[side]) / deviation[side] for side in pairs.T)
            scores = (enrol + test) / 2
            measures["impostor-mean"] = centre
        ends = {"min": np.min, "max": np.max}
        found = {f"{name}-{end}": ends[end](of[pairs], axis=1) for name, of in measures.items() for end in ends}
        qualities = {name: found[name] for name in QUALITIES if name in found}
        if self.calibration is not None:
            scores = self.calibration.apply(scores, qualities)
        return np.asarray(scores, dtype=np.float64), qualities

    def __str__(self) -> str:
        parts = ["cosine"]
        if self.cohort is not None:
            parts.append(f"less the mean of {self.cohort.source}")
        if self.cohort is not None and self.normalise:
            parts.append(f"AS-norm with the {self.cohort.top_n} closest of its {len(self.cohort.speakers):,} speakers")
        parts.append("not calibrated" if self.calibration is None else "calibrated")
        return ", ".join(parts)


def to_directions(vectors: Vectors, names: Sequence[str], mean: Vectors | None = None) -> Vectors:
    """Return embeddings [N, E], less the mean [E] where one is given, at unit length; bad ones are named."""
    centred = vectors if mean is None else vectors - mean
    lengths = np.sqrt(np.einsum("ve,ve->v", centred, centred))
    bad = np.flatnonzero(~(lengths > 0) | ~np.isfinite(lengths))
    if bad.size:
        more = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
        raise InputError(
            f"'{names[bad[0]]}'{more}: its embedding less the mean has no direction, as it is 0 or not finite; has the "
            "training diverged, or is it compared with the mean of itself?"
        )
    unit: Vectors = centred / lengths[:, None]
    return unit


def score_cosines(directions: Vectors | FloatArray, pairs: IntArray) -> FloatArray:
    """Return [T] the cosine of each trial's two directions, [M, E] of unit length."""
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        enrol, test = pairs[start : start + BLOCK].T
        scores[start : start + BLOCK] = np.einsum("te,te->t", directions[enrol], directions[test])
    return scores


def find_impostors(directions: Vectors, names: Sequence[str], cohort: Cohort) -> tuple[FloatArray, FloatArray]:
    """Return [M] mean and [M] deviation, above 0, of the cosines with the closest speakers of a cohort.

    The directions [M, E] are centred with the cohort's mean; none of its speakers should be among them.
    """
    mean, deviation = np.empty(len(directions)), np.empty(len(directions))
    rows = max(1, CELLS // len(cohort.speakers))
    with progress_bar() as bar:
        task = bar.add_task("comparing with the cohort", total=len(directions))
        for start in range(0, len(directions), rows):
            block = directions[start : start + rows] @ cohort.speakers.T
            closest = np.partition(block, -cohort.top_n, axis=1)[:, -cohort.top_n :].astype(np.float64)
            mean[start : start + rows], deviation[start : start + rows] = closest.mean(1), closest.std(1)
            bar.update(task, advance=len(block))
    flat = np.flatnonzero(~(deviation > 0))
    if flat.size:
        raise InputError(
            f"'{names[flat[0]]}': the {cohort.top_n} closest speakers of {cohort.source} are all equally close; is "
            "the cohort one recording under many names?"
        )
    return mean, deviation


def build_cohort(
    embeddings: Embeddings, speakers: Iterable[str], top_n: int, source: str, unit_length: bool = True
) -> Cohort:
    """Return the cohort of a training manifest: the mean of all its embeddings, and its speakers' models.

    A speaker's embeddings are averaged centred and at unit length or, without `unit_length`, as they are.
    """
    members: dict[str, list[int]] = {}
    for place, speaker in enumerate(speakers):
        members.setdefault(speaker, []).append(place)
    if UNKNOWN in members:
        raise InputError(
            f"{source}: '{embeddings.ids[members[UNKNOWN][0]]}' has no speaker; a cohort needs the column 'speaker'"
        )
    mean = embeddings.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    models = EnrolmentModels.of(list(members.values()), list(members))
    if unit_length:
        directions = models.directions(to_directions(embeddings.vectors, embeddings.ids, mean))
    else:
        means = np.stack([embeddings.vectors[places].mean(axis=0) for places in members.values()])
        directions = to_directions(means, models.names, mean)
    return Cohort(mean, directions, top_n, source)
