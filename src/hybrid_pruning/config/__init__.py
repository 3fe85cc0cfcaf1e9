"""A recipe: YAML + `--set a.b=c` -> one checked, complete configuration."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from hybrid_pruning.config.recipe import (
    AugmentConfig,
    BackboneConfig,
    CodecConfig,
    CodecName,
    CohortConfig,
    Config,
    CorpusConfig,
    DataConfig,
    DistillationConfig,
    HeadConfig,
    ObjectiveConfig,
    PruningConfig,
    RawBoostConfig,
    Section,
    TrainingConfig,
    by_name,
    listed,
)
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, has_control_characters
from hybrid_pruning.trees import MOST_BYTES, parse_yaml, read_bytes

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "CodecConfig",
    "CodecName",
    "CohortConfig",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "DistillationConfig",
    "HeadConfig",
    "ObjectiveConfig",
    "PruningConfig",
    "RawBoostConfig",
    "TrainingConfig",
    "by_name",
    "change_config",
    "check_config",
    "expand_stages",
    "is_changed",
    "listed",
    "load_config",
    "save_config",
]

MOST_VALUES = 10_000  # more are a mistake, or meant to exhaust the memory
MOST_SECONDS, MOST_WEIGHTS = 100_000, 2**30  # of audio in a batch, and of a head's largest layer: some gigabytes
COSINES = ("am", "aam", "sphereface2")  # kinds of objective that have class weights as directions
SHARED = ("base", "corpus", "stages", "task")  # keys that a stage cannot have of its own
CARRIED = ("head", "backbone.source", "backbone.revision", "backbone.random")  # of the network, as in the first stage
RESERVED = ("checkpoints", "evaluation", "tensorboard")  # folders that a run has of its own


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe; ``a.b=c`` settings win over the file, and that over the one beside it that its `base:` names."""
    tree = _read(Path(path))
    for override in overrides:
        _merge(tree, _parse_override(tree, override))
    return check_config(tree, str(path))


def check_config(tree: Mapping[str, Any], name: str) -> Config:
    """Return the configuration of a tree of plain values; `name` stands in the error messages."""
    config = _validate(tree, name)
    stages = expand_stages(config, name)
    trainings = {f"{name}: stages.{stage}": found for stage, found in stages.items()} or {name: config}
    for place, training in trainings.items():
        for fault in _faults(training):
            raise InputError(f"{place}: {fault}")
    _check_order(stages, name)
    return config


def change_config(config: Config, changes: Mapping[str, Any], name: str) -> Config:
    """Return a recipe with other values at keys such as `training.lr`; `name` stands in the error messages."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        _merge(tree, _nest(tree, key, value, name))
    return check_config(tree, name)


def expand_stages(config: Config, name: str = "recipe") -> dict[str, Config]:
    """Return the complete recipe of each stage by its name, in order; none where the recipe has none."""
    found = {}
    for stage, changes in config.stages.items():
        if fixed := next((key for key in changes if key in SHARED), None):
            raise InputError(f"{name}: key 'stages.{stage}.{fixed}': all stages have the same; give it at the top")
        tree = config.model_dump(mode="json", exclude={"stages"})
        _merge(tree, changes)
        found[stage] = _validate(tree, name, f"stages.{stage}.")
    return found


def save_config(config: Config, path: str | Path) -> None:
    """Write a configuration as YAML that `load_config` reads back."""
    with atomic_write(path) as handle:
        yaml.safe_dump(config.model_dump(mode="json"), handle, sort_keys=False)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    content = read_bytes(path, MOST_BYTES[".yaml"], "check the path of the recipe")
    try:
        tree = parse_yaml(content, MOST_VALUES)
    except ValueError as error:
        raise InputError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected keys and values, found {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str) or has_control_characters(base):
        raise InputError(f"{path}: base {base!r}, expected the name of a file beside the recipe")
    source = (path.parent / base).resolve()
    if source in seen:
        raise InputError(f"{path}: base '{base}' leads back to itself")
    merged = _read(source, (*seen, source))
    _merge(merged, tree)
    return merged


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _parse_override(tree: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Return the changes of a setting."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: expected key=value, e.g. pruning.target_sparsity=0.7")
    try:
        value = parse_yaml(text, MOST_VALUES)
    except ValueError as error:
        raise InputError(f"--set {override}: the value is not valid YAML") from error
    return _nest(tree, key, value, f"--set {override}")


def _nest(tree: Mapping[str, Any], key: str, value: Any, name: str) -> dict[str, Any]:
    """Return a value below its key `a.b`; refuse a stage that the recipe lacks, which would be one more training."""
    *parents, last = key.strip().split(".")
    changes = {last: deepcopy(value)}
    for part in reversed(parents):
        changes = {part: changes}
    asked = changes.get("stages")
    there = found if isinstance(found := tree.get("stages"), dict) else {}
    if isinstance(asked, dict) and (new := sorted(asked.keys() - there.keys())):
        known = ", ".join(there) or "none"
        raise InputError(f"{name}: there is no stage '{new[0]}'; the recipe's stages: {known}")
    return changes


def _validate(tree: Mapping[str, Any], name: str, prefix: str = "") -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{name}: {_explain(error, prefix)}") from error


def _explain(error: ValidationError, prefix: str) -> str:
    """Return one line for the first thing wrong; the prefix is the part of the recipe that its keys stand in."""
    errors = error.errors()
    # a key that may be of several types has an error for each: the deepest got furthest
    first = max((e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]), key=lambda e: len(e["loc"]))
    path = [
        str(part)
        for part in first["loc"]
        if not str(part).startswith(("constrained-", "dict[", "[key]", "lax-or-strict["))
    ]
    key = prefix + ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"key '{key}' is unknown; {_nearest(path)}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, found {short.repr(first['input'])}"


def _nearest(path: list[str]) -> str:
    section: Any = Config
    for part in path[:-1]:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    names = list(section.model_fields)
    close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known there: {', '.join(names)}"


def _check_order(stages: Mapping[str, Config], name: str) -> None:
    """Require that each stage can go on with the network that the one before leaves."""
    pruned = ""
    for stage, config in stages.items():
        if stage in RESERVED:
            raise InputError(f"{name}: stages: '{stage}' is a folder that every run has; give the stage another name")
        for key in CARRIED:
            if attrgetter(key)(config) != attrgetter(key)(next(iter(stages.values()))):
                raise InputError(f"{name}: stages.{stage}.{key} differs from the first stage's; the network goes on")
        if pruned and config.pruning.use_pruning_loss:
            raise InputError(
                f"{name}: stages.{stage}.pruning.use_pruning_loss is on and stage '{pruned}' has pruned already; "
                "turn it off for every stage after that, which trains the small model"
            )
        pruned = stage if config.pruning.use_pruning_loss else pruned


def _faults(config: Config) -> list[str]:
    """Return the values of one training that do not go together, in terms of their keys.

    No validators of the sections: of a recipe with stages only its stages are trainings, and need to be whole.
    """
    training, data, head, pruning = config.training, config.data, config.head, config.pruning
    objective, spoofing = config.objective, config.task == "anti-spoofing"
    seconds, weights = training.batch_size * data.crop_seconds, head.heads * head.compression * head.embedding
    size, hold = f"training.batch_size {training.batch_size}", f"export_hold_epochs {pruning.export_hold_epochs:g}"
    low, high, points = pruning.min_sparsity, pruning.target_sparsity, pruning.export_at
    rising = all(early < late for early, late in pairwise((low, *points))) and max(points, default=high) <= high
    faults = {
        f"{size} is no multiple of training.accumulate {training.accumulate}": training.batch_size
        % training.accumulate,
        f"{size} x data.crop_seconds {data.crop_seconds:g} is {seconds:g} seconds a batch; expected at most "
        f"{MOST_SECONDS}": seconds > MOST_SECONDS,
        f"head: heads x compression x embedding are {weights} weights; expected at most {MOST_WEIGHTS}": (
            weights > MOST_WEIGHTS
        ),
        f"pruning.min_sparsity {low} is above pruning.target_sparsity {high}": low > high,
        f"pruning.export_at {list(points)}: expected rising values above pruning.min_sparsity {low}, up to "
        f"pruning.target_sparsity {high}": not rising,
        f"pruning.{hold}: there is nothing to hold at; give pruning.export_at, or leave it out": (
            pruning.export_hold_epochs and not points
        ),
        "backbone.frozen and pruning.use_pruning_loss are both on; pruning trains the backbone, turn one off": (
            config.backbone.frozen and pruning.use_pruning_loss
        ),
        "training.clip_gates goes with training.clip_norm, which is null; give a norm, or turn it off": (
            training.clip_gates and training.clip_norm is None
        ),
        "backbone.frozen_dropout goes with backbone.frozen; an encoder that learns has its dropout anyway": (
            config.backbone.frozen_dropout and not config.backbone.frozen
        ),
        f"{size} / training.accumulate {training.accumulate} is one utterance, of which head.classifier_norm batch has "
        "no statistics; take more": head.classifier_norm == "batch" and training.batch_size <= training.accumulate,
    }
    if (asked := config.distillation) is not None:
        faults["distillation.hidden and distillation.output are both 0; give one a weight, or leave it out"] = (
            not asked.hidden and not asked.output
        )
        faults["backbone.frozen: hidden states do not change; set distillation.hidden=0, or turn it off"] = (
            config.backbone.frozen and asked.hidden > 0
        )
    fault = f"pruning.method {pruning.method} cuts before the first step and leaves no snapshots; drop export_at"
    faults[fault] = pruning.cuts_first and bool(points)
    faults["data.eval.dev has the name of the set of data.dev; give it another one"] = "dev" in data.eval
    exact = pruning.constraint_solver == "exact"
    faults["pruning.freeze_epochs goes with pruning.constraint_solver exact, whose choice of units it freezes"] = (
        not exact and is_changed(pruning, "freeze_epochs")
    )
    faults[
        "pruning.start_noise and training.clip_gates are of sampled gates; pruning.constraint_solver exact has none"
    ] = exact and (pruning.start_noise > 0 or training.clip_gates)
    for key in ("sampling", "speed_speakers"):
        fault = f"data.{key} is for task: speaker-verification, whose classes are speakers"
        faults[fault] = spoofing and is_changed(data, key)
    balance = data.balance
    faults["data.temperature goes with data.balance, which is empty; name corpus, class or both there"] = (
        not balance and data.temperature is not None
    )
    faults[f"data.balance {', '.join(balance)}: name each once, the one within the other behind it"] = len(
        set(balance)
    ) < len(balance)
    faults["data.balance: class and data.sampling: speakers both share out over speakers; leave one out"] = (
        "class" in balance and data.sampling == "speakers"
    )
    for key, files in {"train": by_name(data.train), "dev": by_name(data.dev)}.items():
        faults[f"data.{key}: {listed(files)}: one manifest stands under two names; a corpus counts once"] = len(
            set(files.values())
        ) < len(files)
    for name in data.eval:
        faults[f"data.trials.{name}: expected one file, as data.eval.{name} is one set"] = isinstance(
            data.trials.get(name), dict
        )
    faults[f"objective.kind {objective.kind} is for task: speaker-verification; anti-spoofing has softmax alone"] = (
        spoofing and objective.kind != "softmax"
    )
    faults["objective.class_weights are of task: speaker-verification; anti-spoofing has its model's classifier"] = (
        spoofing and is_changed(objective, "class_weights")
    )
    margins = ("sub_centres", "margin_start_epochs", "margin_warmup_epochs", "margin_growth")
    for key, kinds in (("inter_top_k", COSINES[:2]), *((key, COSINES) for key in margins)):
        fault = f"objective.{key} goes with objective.kind {' or '.join(kinds)}, not {objective.kind}"
        faults[fault] = objective.kind not in kinds and is_changed(objective, key)
    fault = "data.trials.dev is missing; speaker verification is validated on trials over data.dev: give their file"
    faults[fault] = not spoofing and "dev" not in data.trials
    names = ", ".join(by_name(data.dev)) or "one file"
    faults[f"data.trials.dev: expected {names}, as data.dev has"] = (
        by_name(data.trials.get("dev", data.dev)).keys() != by_name(data.dev).keys()
    )
    return [fault for fault, there in faults.items() if there]


def is_changed(section: Section, key: str) -> bool:
    """Return whether an option has another value than its default."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)
