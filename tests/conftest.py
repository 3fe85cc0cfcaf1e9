"""Fixtures: models of every kind, worlds and jobs made once, and the largest error that each property showed."""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from encoders import (
    FAMILIES,
    KINDS,
    LENGTHS,
    NO_DROPOUT,
    MakeBackbone,
    MakeModel,
    Once,
    make_config,
    with_random_weights,
)
from hybrid_pruning.models.backbone import Backbone, wrap

_largest: dict[str, dict[str, float]] = defaultdict(dict)

torch.set_num_threads(1)  # these models are too small to share out


@pytest.fixture(scope="session", autouse=True)
def without_trace() -> None:
    """Keep pytest from listening to torch's trace of an export, which takes longer to write than the export."""
    logger = logging.getLogger("torch.__trace")
    logger.handlers, logger.addHandler = [], lambda _: None  # type: ignore[method-assign]


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def family(kind: tuple[str, str]) -> str:
    return kind[0]


@pytest.fixture
def style(kind: tuple[str, str]) -> str:
    return kind[1]


@pytest.fixture
def make_model(family: str, style: str) -> MakeModel:
    """Build transformers' model; two calls give the same weights."""

    def make(**overrides: object) -> torch.nn.Module:
        torch.manual_seed(0)
        model = FAMILIES[family][1](make_config(family, style, **{**NO_DROPOUT, **overrides}))
        return with_random_weights(model.eval())

    return make


@pytest.fixture
def make_backbone(make_model: MakeModel) -> MakeBackbone:
    def make(normalize: bool = False, **overrides: object) -> Backbone:
        return wrap(make_model(**overrides), normalize).eval()

    return make


@pytest.fixture
def backbone(make_backbone: MakeBackbone) -> Backbone:
    return make_backbone()


@pytest.fixture
def wave() -> torch.Tensor:
    return torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def lengths() -> torch.Tensor:
    return torch.tensor(LENGTHS)


@pytest.fixture
def record(family: str, style: str) -> Callable[[str, float], float]:
    """Remember the largest error of a property for the table at the end; returns the error."""

    def remember(measure: str, error: float) -> float:
        row = _largest[f"{family} {style}"]
        row[measure] = max(row.get(measure, 0.0), error)
        return error

    return remember


@pytest.fixture
def cli(capsys, tmp_path):
    """Run a command in the test's own folder."""
    from world import Result, run_main

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = run_main(arguments, tmp_path)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once in all test processes: `once(name, make)` returns it, filled by `make(folder)`."""
    base = tmp_path_factory.getbasetemp()

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                folder.mkdir()
                try:
                    make(folder)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
        return folder

    return made_once


@pytest.fixture(scope="session")
def pristine(once: Once) -> Path:
    """A world with a recipe, a finished run, its model, and scores."""
    from world import make_world

    return once("world", make_world)


@pytest.fixture
def world(pristine, tmp_path):
    """A copy of that world, for a test to break."""
    from world import copy_world

    return copy_world(pristine, tmp_path)


@pytest.fixture(scope="session")
def spoofing_job(once: Once) -> Path:
    """A folder with a corpus, an encoder, manifests and, in out/, the finished job of anti-spoofing."""
    from world import make_spoofing_job

    return once("spoofing", make_spoofing_job)


@pytest.fixture(scope="session")
def verification_job(once: Once) -> Path:
    """The same for speaker verification, trained in two stages of which the second prunes."""
    from world import make_verification_job

    return once("verification", make_verification_job)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measures = sorted({measure for row in _largest.values() for measure in row})
    if measures:
        terminalreporter.section("largest errors")
        terminalreporter.write_line(" " * 16 + "".join(f"{measure:>28}" for measure in measures))
    for name, row in _largest.items():
        cells = "".join(f"{row[measure]:28.2e}" if measure in row else f"{'-':>28}" for measure in measures)
        terminalreporter.write_line(f"{name:16}{cells}")
