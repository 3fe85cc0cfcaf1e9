"""The target's way: its shape, its ends, and its rests at the points of a family."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_pruning.pruning import Growth, scheduled_target

SCHEDULES = ("linear", "cosine", "exponential", "expm1", "sigmoid")
fractions = st.floats(0, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(start=fractions, end=fractions, beyond=st.floats(1, 1e6), before=st.floats(-1e6, 0))
@settings(deadline=None)
def test_exact_at_both_ends(schedule: str, start: float, end: float, beyond: float, before: float) -> None:
    assert scheduled_target(schedule, 0, start, end) == scheduled_target(schedule, before, start, end) == start
    assert scheduled_target(schedule, 1, start, end) == scheduled_target(schedule, beyond, start, end) == end


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(start=fractions, end=fractions, one=st.floats(-0.5, 1.5), other=st.floats(-0.5, 1.5))
@settings(deadline=None)
def test_monotone_and_within_its_ends(schedule: str, start: float, end: float, one: float, other: float) -> None:
    early, late = (scheduled_target(schedule, at, start, end) for at in sorted((one, other)))
    rounding = 1e-15
    assert (late - early) * math.copysign(1, end - start) >= -rounding
    assert min(start, end) - rounding <= early <= max(start, end) + rounding


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_jumps(schedule: str) -> None:
    points = [scheduled_target(schedule, step / 1000, 0.1, 0.7) for step in range(1001)]
    steps = [b - a for a, b in pairwise(points)]
    assert max(steps) < 0.6 * 6 / 1000
    assert min(steps) > 0


@pytest.mark.parametrize(
    ("schedule", "early", "middle"),
    [("linear", 0.25, 0.5), ("cosine", 0.1464, 0.5), ("exponential", 0.0625, 0.25), ("expm1", 0.0169, 0.0759)],
)
def test_shapes(schedule: str, early: float, middle: float) -> None:
    assert scheduled_target(schedule, 0.25, 0, 1) == pytest.approx(early, abs=1e-4)
    assert scheduled_target(schedule, 0.5, 0, 1) == pytest.approx(middle, abs=1e-4)
    assert scheduled_target("sigmoid", 0.25, 0, 1) < scheduled_target("cosine", 0.25, 0, 1)


POINTS = (0.3, 0.5, 0.65)
growths = pytest.mark.parametrize("rest", [0, 1, 7])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [2, 5.5, 100])
@growths
def test_rests_delay_the_target_and_change_nothing_else(schedule: str, warmup: float, rest: int) -> None:
    way, plain = Growth(schedule, 0.1, 0.7, warmup, POINTS, rest), Growth(schedule, 0.1, 0.7, warmup)
    steps = math.ceil(warmup) + rest * len(POINTS) + 3
    targets = [way.target(step) for step in range(steps)]
    assert targets == sorted(targets)
    assert targets[0] == 0.1
    assert targets[-1] == targets[-2] == 0.7, "and stays there"
    resting = [step for step in range(steps) if way.rested(step)]
    assert len(resting) == rest * len(POINTS)
    assert [targets[step] for step in resting] == [point for point in POINTS for _ in range(rest)]
    grown = [target for step, target in enumerate(targets) if step not in resting]
    assert grown == [plain.target(step) for step in range(len(grown))]


@pytest.mark.parametrize("schedule", SCHEDULES)
@growths
def test_the_target_passes_each_point_once(schedule: str, rest: int) -> None:
    way = Growth(schedule, 0.0, 0.7, 40, POINTS, rest)
    for point, steps in zip(POINTS, way.last_steps(), strict=True):
        assert way.target(steps - 1) <= point < way.target(steps)
        assert way.rested(steps - 1) == (1 if rest else 0), "a snapshot is taken when the rest is over"


def test_a_rest_is_measured_from_0_to_1() -> None:
    way = Growth("linear", 0.0, 0.8, 5, (0.4,), 4)
    assert [way.rested(step) for step in range(9)] == [0, 0, 0.25, 0.5, 0.75, 1, 0, 0, 0]
    assert [way.target(step) for step in range(9)] == [0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, pytest.approx(0.6), 0.8]
    assert way.last_steps() == [7], "the point is the schedule's own, too"


def test_a_target_that_jumps_passes_no_point() -> None:
    assert Growth("cosine", 0.0, 0.7, 0, POINTS).last_steps() == [0, 0, 0]
    stairs = Growth("cosine", 0.0, 0.7, 0, POINTS, 2)
    assert [stairs.target(step) for step in range(7)] == [0.3, 0.3, 0.5, 0.5, 0.65, 0.65, 0.7]
    assert stairs.last_steps() == [2, 4, 6]
