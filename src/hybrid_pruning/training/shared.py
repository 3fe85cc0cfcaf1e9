"""Stages that several runs begin with: trained in one of them, taken from there by the others."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from hybrid_pruning.config import Config, expand_stages, save_config
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import TEMPORARY, cannot_write
from hybrid_pruning.training.launch import read_data
from hybrid_pruning.training.runs import Run, decisive


def share_stages(config: Config, run: Run, others: Iterable[Run]) -> dict[str, Path]:
    """Take the first stages of a recipe from runs that have finished the same; return their places by name.

    A stage is the same where its recipe and those of all stages before it decide the same training, on the same data. A
    run's own stages stay, finished or begun. Files are hard links where the disk has them: a finished stage's are never
    changed, only replaced. Of the scores that a job keeps beside its last stage there are none.
    """
    stages = expand_stages(config)
    for left in run.folder.glob(f".*{TEMPORARY}"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    trained = list(decisive(config).items()) if stages else []
    open_stages = [name for name in stages if not (run.folder / name).exists()]
    known = [(other, _read_trained(other)) for other in others] if open_stages else []
    taken: dict[str, Path] = {}
    for place, (name, stage) in enumerate(stages.items(), 1):
        own = Run(run.folder / name)
        if own.trained_epochs() == stage.training.epochs:
            continue
        alike = (Run(other.folder / name) for other, theirs in known if theirs[:place] == trained[:place])
        source = next((there for there in alike if _is_finished(there, stage)), None)
        if own.folder.exists() or source is None:
            break
        if not run.config.exists():  # first, as a run is one with its recipe
            save_config(config, run.config)
        temporary = run.folder / f".{name}{TEMPORARY}"
        try:
            left_out = shutil.ignore_patterns(own.evaluation.name, f".*{TEMPORARY}")
            shutil.copytree(source.folder, temporary, ignore=left_out, copy_function=_link)
            save_config(stage, temporary / own.config.name)  # parts that decide nothing may differ
            temporary.rename(own.folder)
        except OSError as error:
            raise cannot_write(own.folder, error) from error
        taken[name] = source.folder
    return taken


def _read_trained(run: Run) -> list[tuple[str, object]]:
    """Return the parts of a run's recipe that decide its training, stage by stage; none without a readable recipe."""
    try:
        config = run.read_config()
    except InputError:
        return []
    return list(decisive(config).items()) if config.stages else []


def _is_finished(stage: Run, config: Config) -> bool:
    """Return whether a stage has all its epochs, and was trained on the data as they are."""
    if stage.trained_epochs() != config.training.epochs:
        return False
    try:
        read_data(config, stage)
    except InputError:
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
