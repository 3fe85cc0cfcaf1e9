"""Kept units that meet a target, on bare tensors: the gates' own choice where it can, the nearest to it elsewhere."""

import pytest
import torch
from torch import nn

from hybrid_pruning.pruning import Cut, Plan, Role, Slot
from hybrid_pruning.pruning.budget import Accounting
from hybrid_pruning.pruning.select import meet_target


def account(step: int = 1, **slots: tuple[int, int]) -> Accounting:
    """Return the accounting of one tensor a slot, (units, parameters of each)."""
    model = nn.Module()
    for name, shape in slots.items():
        model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    cuts = {name: (Cut(name, 0, Role.SCALE),) for name in slots}
    return Accounting(model, Plan(tuple(Slot(name, "unit", slots[name][0], cuts[name], step=step) for name in slots)))


@pytest.mark.parametrize(
    ("own", "heavy", "light"),
    [((0, 1), (0, 1), 300), ((0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5), 0), ((), (5,), 400)],
    ids=["own choice", "nearest below", "nearest above"],
)
def test_heavy_units_stay_as_near_as_possible_to_their_gates(
    own: tuple[int, ...], heavy: tuple[int, ...], light: int
) -> None:
    """Half of 6 x 100 and 400 x 1 parameters goes; the light units with the highest scores make up the rest."""
    scores = {"heavy": torch.arange(6), "light": torch.arange(400)}
    found = meet_target(account(heavy=(6, 100), light=(400, 1)), {"heavy": own, "light": ()}, scores, 0.5, "params")
    assert found == {"heavy": heavy, "light": tuple(range(400 - light, 400))}


def test_another_choice_of_heavy_units_is_taken_where_the_own_one_misses_the_target() -> None:
    """Of 3 x 1150 and 20 x 100 parameters 1150 go, which no number of light units weighs."""
    rounded, scores = {"heavy": (0, 1, 2), "light": ()}, {"heavy": torch.arange(3), "light": torch.arange(20)}
    found = meet_target(account(heavy=(3, 1150), light=(20, 100)), rounded, scores, 1150 / 5450, "params")
    assert found == {"heavy": (1, 2), "light": tuple(range(20))}


def test_a_short_block_counts_as_a_block() -> None:
    """Slots of 5 units in steps of 2: one block less than all goes, the lowest, of one unit."""
    every = tuple(range(5))
    scores = {name: 10 * place - torch.arange(5) for place, name in enumerate("abc")} | {"light": torch.arange(1500)}
    accounting = account(2, a=(5, 100), b=(5, 100), c=(5, 100), light=(1500, 1))
    found = meet_target(accounting, dict.fromkeys("abc", every) | {"light": ()}, scores, 1550 / 3000, "params")
    assert found == {"a": (0, 1, 2, 3), "b": every, "c": every, "light": tuple(range(1450, 1500))}


def test_a_short_block_is_the_last_of_equal_ones() -> None:
    """The mean of three times -0.1 is below that of two in the last bit."""
    scores = {"a": torch.full((8,), -0.1, dtype=torch.float64)}
    assert scores["a"][:3].mean() < scores["a"][:2].mean()
    assert meet_target(account(3, a=(8, 1)), {"a": ()}, scores, 0.25, "params") == {"a": (0, 1, 2, 3, 4, 5)}
