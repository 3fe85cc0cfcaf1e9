"""Runs, finished or not: whatever is in their folders is read, with a sentence for each file that is missing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hybrid_pruning.config import GATED
from hybrid_pruning.data.tracks import SV, TRACK1, Track
from hybrid_pruning.errors import InputError, in_one_line
from hybrid_pruning.extras import explain
from hybrid_pruning.models.size import KeptUnits, count_parameters, count_units
from hybrid_pruning.training.runs import AVERAGED, Run, open_checkpoint
from hybrid_pruning.trees import number, parse_json, parse_yaml, portable, section, without_folders

if TYPE_CHECKING:
    from hybrid_pruning.models.speech_model import SpeechModel
    from hybrid_pruning.pruning import Constraint

Record = Mapping[str, Any]
Series = tuple[list[float], list[float]]
"""Steps and values."""


@dataclass(slots=True)
class Log:
    """The records of a log by kind, oldest first; `skipped` counts unreadable training files, with some messages."""

    groups: list[Record] = field(default_factory=list)
    steps: list[Record] = field(default_factory=list)
    validations: list[Record] = field(default_factory=list)
    snapshots: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: Record | None = None

    def add(self, record: Record) -> None:
        """Sort a record in; parts of other kinds are left aside."""
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
class LoggedRun:
    """One training; its recipe and architecture are plain values, so that those of other versions are read too.

    Args:
        name: unique in the report.
        config: its resolved recipe; empty where that is missing, as are architecture and versions.
        config_text: the same as text, without places of this machine; unchanged where it cannot be read.
        versions: of Python and the libraries that computed its last checkpoint.
        missing: a sentence for each file that could not be found or read.
    """

    name: str
    files: Run
    config: Record
    config_text: str
    architecture: Record
    log: Log
    versions: Mapping[str, str]
    missing: Sequence[str]

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs that are done, and all that are planned (0 where that is not known)."""
        done = max((int(number(record.get("epoch"))) for record in self.log.validations), default=0)
        return done, int(number(section(self.config, "training").get("epochs")))

    @property
    def track(self) -> Track:
        """The kind of evaluation of its scores."""
        return SV if self.config.get("task") == "speaker-verification" else TRACK1

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done."""
        done, planned = self.epochs
        return 0 < planned <= done

    @property
    def is_pruned(self) -> bool:
        """Whether gates prune in this training, by the recipe or, where there is none, by the log."""
        if self.config:
            pruning = section(self.config, "pruning")
            return bool(pruning.get("use_pruning_loss")) and pruning.get("method", "joint") in GATED
        return any("sparsity" in record for record in self.log.steps)

    def series(self, *keys: str) -> Series:
        """Return steps and values of one number of the training records, or below `dev` of the validations."""
        records = self.log.validations if keys[0] == "dev" else self.log.steps
        found = [(number(record.get("step")), section(record, *keys[:-1]).get(keys[-1])) for record in records]
        points = [(step, float(value)) for step, value in found if isinstance(value, int | float)]
        points = [(step, value) for step, value in points if math.isfinite(value)]
        return [step for step, _ in points], [value for _, value in points]


Runs = Sequence[LoggedRun]


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Kept units of a run's backbone with their source, a sentence; parameters of head and classifier, all kept."""

    units: KeptUnits
    head_params: int
    basis: str


def read_runs(folders: Sequence[str | Path]) -> list[LoggedRun]:
    """Read runs to be compared; of one in stages each that has begun is a run of its own."""
    paths: list[Path] = []
    for folder in folders:
        stages = [stage.folder for stage in Run(folder).stages() if stage.folder.is_dir()]
        paths += stages or [Path(folder)]
    whole = [path.resolve() for path in paths]
    for place, path in enumerate(paths):
        if whole[place] in whole[:place]:
            raise InputError(f"{path}: is given twice; name each run once")
    return [_read_run(Run(path), name) for path, name in zip(paths, _name_runs(whole), strict=True)]


def count_model(run: LoggedRun) -> ModelSize | str:
    """Return the size of the model that an export would write now, or one sentence why that is not known."""
    about = section(run.architecture, "backbone")
    if not about:
        return "Unknown without the model's architecture."
    try:
        import torch

        from hybrid_pruning.models.speech_model import SpeechModel

        with torch.device("meta"):  # sizes without weights
            model = SpeechModel.from_architecture(run.architecture)
        kept, basis = _count_kept(run, model)
        units = count_units(section(about, "config"), bool(about.get("normalize")), kept)
    except ModuleNotFoundError as error:
        return f"Not counted: {explain(error)}."
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # plain values of another version's making
        return f"Could not be counted ({type(error).__name__}: {in_one_line(error)})."
    return ModelSize(units, count_parameters(model.head, model.classifier), basis)


def count(value: Any) -> str:
    """Return 94381936 as '94.38 M', which no line breaks."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            digits = 2 if value < 100 * factor else 1
            return f"{value / factor:.{digits}f}\N{NO-BREAK SPACE}{suffix}"
    return str(int(value))


def _count_kept(run: LoggedRun, model: "SpeechModel") -> tuple[dict[str, int], str]:
    """Return slot name -> kept units, for slots that had gates now or before, and the source of these counts."""
    from hybrid_pruning.pruning import PlanError, plan_for, shape_of

    shape = shape_of(model.backbone)
    before = {} if shape is None else {name: len(units) for name, units in shape.kept.items()}
    if not run.is_pruned:
        cut = section(run.config, "pruning").get("use_pruning_loss")
        return before, "Cut before the first step." if cut else "Nothing was pruned in this training."
    pruning, scheduled = section(run.config, "pruning"), run.series("sparsity", "target")[1]
    last = int(number(section(run.config, "training").get("average"))) or AVERAGED
    paths = run.files.newest_checkpoints(last if run.is_finished else 1)
    gates, reason = None, "no checkpoint can be read"
    try:
        gates = run.files.read_gates(paths) if paths else None
    except PlanError:  # damaged, or of another version
        pass
    except InputError:
        reason = f"{run.files.config.name} cannot be read"
    if gates is None:
        sizes = {slot.name: slot.size for slot in plan_for(model.backbone).slots}
        logged = [section(record, "kept") for record in run.log.steps if record.get("kept")]
        if not logged:
            raise ValueError("neither a checkpoint nor the log has the gates")
        counts = {name: round(number(share) * sizes[name]) for name, share in logged[-1].items()}
        return before | counts, f"As last logged, each gate rounded on its own: {reason}."
    target = number(pruning.get("target_sparsity")) if run.is_finished or not scheduled else scheduled[-1]
    constraint: Constraint = "macs" if pruning.get("constraint") == "macs" else "params"
    kept = before | {name: len(units) for name, units in gates.kept(target, constraint).items()}
    if not run.is_finished:
        return kept, f"Cut as an export would cut it now, in the middle of the training ({paths[-1].stem})."
    averaged = f"the mean of the last {len(paths)} checkpoints" if len(paths) > 1 else "the last checkpoint"
    return kept, f"Cut as an export cuts it, by {averaged}."


def _read_run(files: Run, name: str) -> LoggedRun:
    if not files.config.exists() and not files.log.exists():
        absent = f"has neither {files.config.name} nor {files.log.name}"
        problem = absent if files.folder.is_dir() else "does not exist"
        raise InputError(f"{files.folder}: {problem}; give a folder that `hybrid-pruning train --out` has made")
    missing: list[str] = []
    text, config = _read_plain(files.config, parse_yaml, missing)
    text = yaml.safe_dump(portable(config), sort_keys=False, allow_unicode=True) if config else without_folders(text)
    _, architecture = _read_plain(files.architecture, parse_json, missing)
    log = _read_log(files, missing)
    return LoggedRun(name, files, config, text, architecture, log, _read_versions(files, missing), missing)


def _read_plain(path: Path, parse: Callable[[str], Any], missing: list[str]) -> tuple[str, Record]:
    """Return the text of a file and its names with values; empty where it cannot be read, which is noted."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        missing.append(f"{path.name} is not there ({error.strerror}).")
        return "", {}
    try:
        tree = parse(text) if text else {}
    except ValueError:
        tree = None
    if isinstance(tree, Mapping):
        return text, tree
    missing.append(f"{path.name} is damaged.")
    return text, {}


def _read_log(files: Run, missing: list[str]) -> Log:
    log = Log()
    try:
        records = files.read_log()
    except OSError as error:
        missing.append(f"{files.log.name} is not there ({error.strerror}).")
        return log
    for record in records:
        if record is not None:
            log.add(record)
    damaged = [str(line) for line, record in enumerate(records, start=1) if record is None]
    if damaged:
        lines = ", ".join(damaged[:3]) + ("..." if len(damaged) > 3 else "")
        missing.append(f"{files.log.name}, line {lines}: cut off or damaged and left out.")
    return log


def _read_versions(files: Run, missing: list[str]) -> dict[str, str]:
    newest = files.newest_checkpoints(1)
    if not newest:
        missing.append("No checkpoint has been written yet, or they were removed.")
        return {}
    try:
        state = open_checkpoint(newest[0])
    except ModuleNotFoundError as error:
        missing.append(f"{newest[0].name} was not read: {explain(error)}.")
        return {}
    if state is None:
        missing.append(f"{newest[0].name} is damaged.")
    return {str(name): str(version) for name, version in section(state, "versions").items()}


def _name_runs(paths: Sequence[Path]) -> list[str]:
    """Name folders by as few of their last parts as make each unique; OUT/run, a job's own training, by OUT."""
    parts = [path.parent.parts if path.name == "run" and path.parent.name else path.parts for path in paths]
    if len(set(parts)) < len(parts):
        parts = [path.parts for path in paths]
    depth = 1
    while len(names := ["/".join(some[-depth:]) for some in parts]) != len(set(names)):
        depth += 1
    return names
