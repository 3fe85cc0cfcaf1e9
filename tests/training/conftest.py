"""A small training with pruning and one without, made once for the tests of the room."""

from pathlib import Path
from typing import Any

import pytest

from corpus import configure, write_world
from hybrid_pruning.training.launch import train


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def reference(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the recipe as it stands."""
    return train(configure(recipe), tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture(scope="session")
def dense(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run without pruning."""
    return train(configure(recipe, pruning__use_pruning_loss=False), tmp_path_factory.mktemp("dense") / "run")
