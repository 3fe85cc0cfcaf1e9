"""Cosines, means of several recordings, AS-norm and quality measures: each against its definition in float64 loops."""

from dataclasses import replace

import numpy as np
import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.calibration import QUALITIES, Calibration, Fit
from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.scoring import backend as backend_module
from hybrid_pruning.scoring.backend import (
    Backend,
    EnrolmentModels,
    build_cohort,
    find_impostors,
    to_directions,
)
from hybrid_pruning.scoring.embeddings import Embeddings

N, E, SPEAKERS = 30, 8, 12
MEMBERS = [[0], [1, 2, 3], [4, 4, 5], [6], [29]]
MODELS = EnrolmentModels.of(MEMBERS, ["one", "three", "twice", "alone", "last"])
EVERY_PAIR = np.array([(one, other) for one in range(len(MEMBERS)) for other in range(len(MEMBERS))])


def make_embeddings(count: int = N, seed: int = 1) -> Embeddings:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(count, E)) * rng.uniform(0.5, 3, (count, 1)) + 0.7).astype(np.float32)
    return Embeddings([f"u{index}" for index in range(count)], vectors, rng.uniform(1, 30, count))


@pytest.fixture
def embeddings() -> Embeddings:
    return make_embeddings()


@pytest.fixture
def cohort() -> Cohort:
    speakers = [f"s{index % SPEAKERS}" for index in range(40)]  # of four or three recordings each
    return build_cohort(make_embeddings(40, seed=2), speakers, 5, "train.tsv")


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum())


def reference_cohort() -> tuple[np.ndarray, list[np.ndarray]]:
    vectors = make_embeddings(40, seed=2).vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    own = [[vectors[index] for index in range(40) if index % SPEAKERS == speaker] for speaker in range(SPEAKERS)]
    return mean, [unit(np.mean([unit(vector - mean) for vector in some], axis=0)) for some in own]


def reference_models(embeddings: Embeddings, mean: np.ndarray, members: list[list[int]]) -> list[np.ndarray]:
    vectors = embeddings.vectors.astype(np.float64) - mean
    return [unit(np.mean([unit(vectors[place]) for place in places], axis=0)) for places in members]


def reference_score(enrol: np.ndarray, test: np.ndarray, speakers: list[np.ndarray], top_n: int) -> float:
    """AS-norm by its definition."""
    raw, sides = float(enrol @ test), []
    for side in (enrol, test):
        closest = sorted((float(side @ speaker) for speaker in speakers), reverse=True)[:top_n]
        mean = sum(closest) / top_n
        sides.append((raw - mean) / (sum((score - mean) ** 2 for score in closest) / top_n) ** 0.5)
    return sum(sides) / 2


def test_the_cohort_is_its_speakers_means(cohort: Cohort):
    mean, speakers = reference_cohort()
    np.testing.assert_allclose(cohort.mean, mean, atol=1e-6)
    np.testing.assert_allclose(cohort.speakers, np.stack(speakers), atol=1e-6)
    train = make_embeddings(6)
    found = build_cohort(train, ["a", "b", "b", "c", "c", "c"], 2, "train.tsv").speakers[0]
    expected = unit((train.vectors - train.vectors.mean(axis=0))[0].astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=1e-6, err_msg="a speaker of one recording is that recording")


def test_a_cohort_of_embeddings_as_they_are_weighs_them_by_their_length():
    vectors = make_embeddings(40, seed=2).vectors.astype(np.float64)
    found = build_cohort(
        make_embeddings(40, seed=2), [f"s{i % SPEAKERS}" for i in range(40)], 5, "t", unit_length=False
    )
    mean = vectors.mean(axis=0)
    expected = [unit(vectors[speaker::SPEAKERS].mean(axis=0) - mean) for speaker in range(SPEAKERS)]
    np.testing.assert_allclose(found.speakers, np.stack(expected), atol=1e-6)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)


@pytest.mark.parametrize("block", [7, 1 << 14])
def test_without_as_norm_scores_are_cosines_less_the_mean(
    embeddings: Embeddings, cohort: Cohort, block: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backend_module, "BLOCK", block)
    for mean, backend in ((np.zeros(E), Backend()), (reference_cohort()[0], Backend(cohort, normalise=False))):
        found, _ = backend.score(embeddings, MODELS, EVERY_PAIR)
        models = reference_models(embeddings, mean, MEMBERS)
        np.testing.assert_allclose(found, [models[a] @ models[b] for a, b in EVERY_PAIR], atol=1e-6)
    assert abs(found - Backend().score(embeddings, MODELS, EVERY_PAIR)[0]).max() > 0.05


@pytest.mark.parametrize(("top_n", "cells"), [(2, 1), (5, 1 << 22), (SPEAKERS, 1), (SPEAKERS, 1 << 22)])
def test_as_norm_is_that_of_loops(
    embeddings: Embeddings, cohort: Cohort, top_n: int, cells: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backend_module, "CELLS", cells)
    mean, speakers = reference_cohort()
    models = reference_models(embeddings, mean, MEMBERS)
    expected = [reference_score(models[one], models[other], speakers, top_n) for one, other in EVERY_PAIR]
    found, _ = Backend(replace(cohort, top_n=top_n)).score(embeddings, MODELS, EVERY_PAIR)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found.reshape(5, 5), found.reshape(5, 5).T, atol=1e-9, err_msg="symmetric")


def test_quality_measures_match_their_definitions(embeddings: Embeddings, cohort: Cohort):
    pairs = np.array([[1, 0], [2, 4], [3, 3]])
    _, found = Backend(cohort).score(embeddings, MODELS, pairs)
    assert tuple(found) == QUALITIES
    seconds = [np.log(sum(embeddings.seconds[place] for place in places)) for places in MEMBERS]
    lengths = [np.mean([np.linalg.norm(embeddings.vectors[place]) for place in places]) for places in MEMBERS]
    mean, speakers = reference_cohort()
    models = reference_models(embeddings, mean, MEMBERS)
    closest = [np.sort([model @ speaker for speaker in speakers])[-5:].mean() for model in models]
    for name, values in (("log-seconds", seconds), ("embedding-length", lengths), ("impostor-mean", closest)):
        for end, take in (("min", min), ("max", max)):
            expected = [take(values[one], values[other]) for one, other in pairs]
            np.testing.assert_allclose(found[f"{name}-{end}"], expected, rtol=1e-5, err_msg=name)
    assert tuple(Backend(cohort, normalise=False).score(embeddings, MODELS, pairs)[1]) == QUALITIES[:4]


def test_calibration_comes_last_and_weighs_qualities(embeddings: Embeddings, cohort: Cohort):
    raw, qualities = Backend(cohort).score(embeddings, MODELS, EVERY_PAIR)
    weights = {"log-seconds-min": 0.5, "impostor-mean-max": -2.0}
    calibration = Calibration((Fit(3.0, -1.0, 0.5, "s", "k", "", 1, 1, weights),))
    found, _ = Backend(cohort, calibration=calibration).score(embeddings, MODELS, EVERY_PAIR)
    expected = 3 * raw - 1 + 0.5 * qualities["log-seconds-min"] - 2 * qualities["impostor-mean-max"]
    np.testing.assert_allclose(found, expected)


def test_a_test_recording_that_is_in_the_cohort_counts_as_any_other(cohort: Cohort):
    """No speaker is left out of the cohort: that is the user's to see to, and the score stays finite."""
    train, pairs = make_embeddings(40, seed=2), np.array([[0, 1], [0, 0]])
    found, _ = Backend(cohort).score(train, EnrolmentModels.of([[0], [12]], ["a", "b"]), pairs)
    mean, speakers = reference_cohort()
    models = reference_models(train, mean, [[0], [12]])
    expected = [reference_score(models[0], models[other], speakers, 5) for other in (1, 0)]
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_cohorts_that_cannot_normalise_are_refused(embeddings: Embeddings, cohort: Cohort):
    for top_n in (13, 300, 1, 0):
        with pytest.raises(InputError, match=rf"train.tsv: top-n {top_n}, but this cohort has 12 speakers; choose"):
            replace(cohort, top_n=top_n)
    with pytest.raises(InputError, match=r"train.tsv: 'u1' has no speaker"):
        build_cohort(make_embeddings(3), ["a", "-", "b"], 2, "train.tsv")
    same = replace(cohort, speakers=np.repeat(cohort.speakers[:1], SPEAKERS, axis=0))
    directions = to_directions(embeddings.vectors, embeddings.ids)
    with pytest.raises(InputError, match=r"'u0': the 5 closest speakers of train.tsv are all equally close"):
        find_impostors(directions, embeddings.ids, same)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_embedding_without_a_direction_is_named(embeddings: Embeddings, value: float):
    embeddings.vectors[[3, 5]] = value
    with pytest.raises(InputError, match=r"'u3' \(and 1 more\): its embedding less the mean has no direction"):
        to_directions(embeddings.vectors, embeddings.ids)
    embeddings.vectors[1] = -embeddings.vectors[0]  # recordings that cancel out
    models, first = EnrolmentModels.of([[0, 1], [2]], ["mean", "other"]), embeddings.take(["u0", "u1", "u2"])
    with pytest.raises(InputError, match=r"'mean'.* has no direction"):
        Backend().score(first, models, EVERY_PAIR[:2])
