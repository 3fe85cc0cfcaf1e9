"""A run's folder, read for looking at: whatever is there is taken, whatever is missing is said."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hybrid_pruning.errors import InputError
from hybrid_pruning.training import runs as training_runs
from hybrid_pruning.training.runs import open_checkpoint
from hybrid_pruning.trees import number, parse_json, parse_yaml, portable, section, without_folders

CONFIG, ARCHITECTURE, LOG = "config.yaml", "architecture.json", "log.jsonl"
OWN = "run"
"""The folder of a training below that of the job it belongs to."""

Record = Mapping[str, Any]


@dataclass(slots=True)
class Log:
    """What a run logged, by kind of record, oldest first.

    Args:
        groups: what each optimiser was given.
        steps: records of training steps.
        validations: records of the dev set's figures.
        snapshots: the members of the run's family, with their figures.
        warnings: of the checks before and after the training.
        skipped: how many training files could not be read, and the first messages; None where none was.
        damaged: numbers of lines that are no records.
    """

    groups: list[Record] = field(default_factory=list)
    steps: list[Record] = field(default_factory=list)
    validations: list[Record] = field(default_factory=list)
    snapshots: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: Record | None = None
    damaged: list[int] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Sort a record in; parts that are not known are left aside."""
        if isinstance(record.get("loss"), Mapping):
            self.steps.append(record)
        if isinstance(record.get("dev"), Mapping):
            self.validations.append(record)
        if isinstance(record.get("snapshot"), Mapping):
            self.snapshots.append(record["snapshot"])
        if isinstance(record.get("groups"), list):
            self.groups = record["groups"]
        if isinstance(record.get("warnings"), list):
            self.warnings += [str(line) for line in record["warnings"] if str(line) not in self.warnings]
        if isinstance(record.get("skipped"), Mapping):
            self.skipped = record["skipped"]


@dataclass(frozen=True, slots=True)
class Run:
    """One training, as far as it has come.

    Args:
        name: what tells it from the others of the report.
        folder: where it lies.
        config: its resolved recipe as plain values; empty where that is missing.
        config_text: the same as text, without places of this machine; as it stands there where it cannot be read.
        architecture: its model as plain values; empty where that is missing.
        log: what it logged.
        versions: of what computed its last checkpoint; empty where there is none.
        missing: what could not be found or read, one sentence each.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    config_text: str
    architecture: Mapping[str, Any]
    log: Log
    versions: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def epochs(self) -> tuple[int, int]:
        """How many epochs are done, and how many there are to be (0 where that is not known)."""
        done = max((int(number(record.get("epoch"))) for record in self.log.validations), default=0)
        return done, int(number(section(self.config, "training").get("epochs")))

    @property
    def task(self) -> str:
        """What it learns to tell."""
        return str(self.config.get("task", "anti-spoofing"))

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done."""
        done, planned = self.epochs
        return 0 < planned <= done

    @property
    def is_pruned(self) -> bool:
        """Whether the recipe prunes; told from the log where there is no recipe."""
        if self.config:
            return bool(section(self.config, "pruning").get("use_pruning_loss"))
        return any("sparsity" in record for record in self.log.steps)

    def series(self, *keys: str) -> tuple[list[float], list[float]]:
        """Return steps and values of one number of the training records, where they have it."""
        return _series(self.log.steps, keys)

    def validated(self, *keys: str) -> tuple[list[float], list[float]]:
        """Return steps and values of one number of the validations, where they have it."""
        return _series(self.log.validations, keys)

    def names(self, part: str) -> list[str]:
        """Return the names of the numbers in one part of the training records, in the order they came up."""
        return list(dict.fromkeys(name for record in self.log.steps for name in section(record, part)))


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read runs to be compared; of one in stages each that has begun is a run of its own.

    Raises:
        InputError: a folder is no run, or the same is given twice.
    """
    paths = [run for folder in folders for run in _begun(Path(folder))]
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise InputError(f"{path}: is given twice; name each run once")
        seen[path.resolve()] = path
    return [_read_run(path, name) for path, name in zip(paths, _tell_apart(list(seen)), strict=True)]


def _begun(folder: Path) -> list[Path]:
    """Return the runs of a folder's stages, or the folder itself where it has none, or none has begun."""
    return [stage.folder for stage in training_runs.Run(folder).stages() if stage.folder.is_dir()] or [folder]


def newest_checkpoints(folder: Path, count: int) -> list[Path]:
    """Return the last `count` epochs' checkpoints, or where there is none the newest of any kind."""
    return training_runs.Run(folder).newest_checkpoints(count)


def _read_run(folder: Path, name: str) -> Run:
    if not (folder / CONFIG).exists() and not (folder / LOG).exists():
        problem = f"has neither {CONFIG} nor {LOG}" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder}: {problem}; give a folder that `hybrid-pruning train --out` has made")
    missing: list[str] = []
    text = _read_text(folder / CONFIG, missing)
    config = _parse(lambda: parse_yaml(text), folder / CONFIG, missing) if text else {}
    text = yaml.safe_dump(portable(config), sort_keys=False, allow_unicode=True) if config else without_folders(text)
    plain = _read_text(folder / ARCHITECTURE, missing)
    architecture = _parse(lambda: parse_json(plain), folder / ARCHITECTURE, missing) if plain else {}
    log = _read_log(folder / LOG, missing)
    versions = _read_versions(folder, missing)
    return Run(name, folder, config, text, architecture, log, versions, tuple(missing))


def _read_text(path: Path, missing: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        missing.append(f"{path.name} is not there ({error.strerror}).")
        return ""


def _parse(parse: Any, path: Path, missing: list[str]) -> Mapping[str, Any]:
    try:
        tree = parse()
    except ValueError:
        tree = None
    if isinstance(tree, Mapping):
        return tree
    missing.append(f"{path.name} is damaged.")
    return {}


def _read_log(path: Path, missing: list[str]) -> Log:
    log = Log()
    for line, text in enumerate(_read_text(path, missing).splitlines(), start=1):
        try:
            record = parse_json(text)
        except ValueError:
            record = None
        if isinstance(record, Mapping):
            log.add(record)
        elif text.strip():
            log.damaged.append(line)
    if log.damaged:
        lines = ", ".join(map(str, log.damaged[:3])) + ("..." if len(log.damaged) > 3 else "")
        missing.append(f"{path.name}, line {lines}: cut off or damaged and left out.")
    return log


def _read_versions(folder: Path, missing: list[str]) -> Mapping[str, str]:
    newest = newest_checkpoints(folder, 1)
    if not newest:
        missing.append("No checkpoint has been written yet, or they were removed.")
        return {}
    state = open_checkpoint(newest[0])
    if state is None:
        missing.append(f"{newest[0].name} is damaged.")
    return {str(name): str(version) for name, version in section(state, "versions").items()}


def _series(records: Sequence[Record], keys: tuple[str, ...]) -> tuple[list[float], list[float]]:
    points = list(_points(records, keys))
    return [step for step, _ in points], [value for _, value in points]


def _points(records: Sequence[Record], keys: tuple[str, ...]) -> Iterator[tuple[float, float]]:
    for record in records:
        value: Any = section(record, *keys[:-1]).get(keys[-1])
        if isinstance(value, int | float) and math.isfinite(value):
            yield number(record.get("step")), float(value)


def _tell_apart(paths: Sequence[Path]) -> list[str]:
    """Name folders by as few of their last parts as tell them apart; OUT/run, a job's own training, by OUT."""
    parts = [path.parent.parts if path.name == OWN and path.parent.name else path.parts for path in paths]
    if len(set(parts)) < len(parts):
        parts = [path.parts for path in paths]
    depth = 1
    while len(names := ["/".join(some[-depth:]) for some in parts]) != len(set(names)):
        depth += 1
    return names
