"""What a run's folder says of itself: its recipe and its architecture; a new run, or one to go on with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_pruning.config import Config, expand_stages, load_config, save_config
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import remove_leftovers, write_json
from hybrid_pruning.models.speech_model import SpeechModel, understanding
from hybrid_pruning.training.checkpoints import FOLDER
from hybrid_pruning.trees import read_json

CONFIG, ARCHITECTURE, DATA = "config.yaml", "architecture.json", "data.json"
MAY_DIFFER: Any = {"corpus": True, "data": {"workers", "eval", "trials"}, "stages": True}
"""What a resumed run's recipe may say otherwise; of trials and stages see `decisive`."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The content of a manifest, of a list, or of a folder of recordings, as far as it decides a training.

    Args:
        path: where it lies.
        rows: how many utterances, trials or files it has.
        sha256: of the rows, in their order.
    """

    path: Path
    rows: int
    sha256: str


def read_run(run: str | Path) -> tuple[Config, SpeechModel]:
    """Return a run's recipe and its model, dense and with fresh weights.

    Raises:
        InputError: the folder is no run.
    """
    run = Path(run)
    try:
        about = read_json(run / ARCHITECTURE)
        with understanding(run):
            model = SpeechModel.from_architecture(about)
    except InputError as error:
        raise InputError(f"{run}: is no training run ({ARCHITECTURE} is missing or damaged)") from error
    return load_config(run / CONFIG), model


def write_run(run: Path, config: Config, architecture: dict[str, Any], data: Mapping[str, Digest]) -> None:
    """Write a run's recipe, its architecture, and the digests of its data by their keys in the recipe."""
    save_config(config, run / CONFIG)
    digests = {key: {"rows": digest.rows, "sha256": digest.sha256} for key, digest in data.items()}
    for name, content in ((ARCHITECTURE, architecture), (DATA, digests)):
        write_json(run / name, content)


def check_data(run: Path, data: Mapping[str, Digest]) -> None:
    """Refuse to go on from a run's checkpoints with other data; say where a run of an older version cannot tell.

    Args:
        run: the run's folder.
        data: the digests of what is there now.

    Raises:
        InputError: a file has changed, or the run's record of them cannot be read.
    """
    if not any((run / FOLDER).glob("*.pt")):  # it begins again
        return
    if not (run / DATA).exists():
        line = f"{run}: has no {DATA}, as runs of older versions; that the data are the same cannot be checked"
        say(line)
        return
    try:
        known = read_json(run / DATA)
        then = {key: (int(known[key]["rows"]), str(known[key]["sha256"])) for key in data}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run / DATA}: is damaged; remove it to resume without checking the data") from error
    for key, now in data.items():
        if then[key] != (now.rows, now.sha256):
            counts = (
                f"{then[key][0]} rows then, {now.rows} now" if then[key][0] != now.rows else "as many rows, but others"
            )
            raise InputError(
                f"{now.path}: {key} has changed since {run} was begun ({counts}); bring back what it was, or start a "
                "new run"
            )


def check_run(run: Path, config: Config) -> None:
    """Refuse to resume what is no run, or one of another recipe.

    Raises:
        InputError: it is.
    """
    try:
        there = (run / CONFIG).exists()
    except OSError as error:
        raise InputError(f"{run}: cannot be read ({error.strerror}); check its permissions") from error
    if not there:
        raise InputError(f"{run}: is no training run ({CONFIG} is missing)")
    if decisive(load_config(run / CONFIG)) != decisive(config):
        raise InputError(f"{run / CONFIG}: differs from the recipe given; resume with the run's own")
    if (run / FOLDER).exists():  # a run killed before its first checkpoint begins again
        read_run(run)
    remove_leftovers(run)


def decisive(config: Config) -> dict[str, Any]:
    """Return what a recipe says that decides a training's weights and log, stage by stage where it has stages."""
    stages = {name: decisive(stage) for name, stage in expand_stages(config).items()}
    if stages:
        return stages
    return {**config.model_dump(mode="json", exclude=MAY_DIFFER), "trials": str(config.data.trials.get("dev"))}


def stage_runs(run: Path) -> list[Path]:
    """Return the runs of a run's stages in order, whether they are there by now or not.

    None for a run without stages, and where its recipe cannot be read.
    """
    try:
        config = load_config(run / CONFIG)
    except InputError:
        return []
    return [run / name for name in config.stages]


def last_stage(run: Path, config: Config | None = None) -> Path:
    """Return the run of the last stage, or the run itself where it has none.

    Args:
        run: the run's folder.
        config: its recipe; by default the one that lies there.
    """
    stages = stage_runs(run) if config is None else [run / name for name in config.stages]
    return [run, *stages][-1]
