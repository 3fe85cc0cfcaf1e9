"""A small training with pruning and one without, made once for the tests of the room."""

import pytest

from corpus import configure, write_world
from hybrid_pruning.training.launch import train


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def reference(recipe, tmp_path_factory):
    return train(configure(recipe), tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture(scope="session")
def dense(recipe, tmp_path_factory):
    return train(configure(recipe, pruning__use_pruning_loss=False), tmp_path_factory.mktemp("dense") / "run")
