"""A recipe: YAML plus `--set a.b=c` -> one checked, complete configuration."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, has_control_characters

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
MOST_VALUES = 10_000
"""A recipe of more values than that is a mistake, or meant to exhaust the memory."""
Unit = Literal["conv", "head", "attlayer", "interm", "ffnlayer"]


class Section(BaseModel):
    """A part of the configuration; keys it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What to train on; paths are relative to the folder the command is run in."""

    train: Path = Field(description="manifest (TSV) of the training utterances")
    dev: Path = Field(description="manifest of the utterances validated on after each epoch")
    crop_seconds: Positive = Field(3.0, description="length of a training example; shorter utterances are repeated")
    workers: int = Field(2, ge=0, description="processes that decode audio")


class BackboneConfig(Section):
    """The SSL encoder."""

    source: str = Field(description="hub id, transformers folder, or one of our artifacts")
    random: bool = Field(False, description="take the architecture alone, with fresh weights")
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward pass to save memory")


class HeadConfig(Section):
    """What turns hidden states into an embedding."""

    kind: Literal["mhfa", "statistics"] = Field("mhfa", description="multi-head factorised attention, or mean and std")
    heads: int = Field(32, ge=1, description="MHFA's attention heads")
    compression: int = Field(128, ge=1, description="MHFA's width of keys and values")
    embedding: int = Field(256, ge=1, description="width of the embedding")


class TrainingConfig(Section):
    """The optimisation of the network; the pruning parameters have their own under `pruning`."""

    epochs: int = Field(5, ge=1)
    batch_size: int = Field(16, ge=1, description="utterances per optimiser step and process, all micro-steps together")
    accumulate: int = Field(1, ge=1, description="micro-steps per optimiser step; batch_size must be a multiple of it")
    lr: Positive = Field(5e-4, description="peak learning rate of the head")
    final_lr: Positive = Field(5e-5, description="learning rate the exponential decay ends at")
    lr_warmup_epochs: float = Field(2, ge=0, description="epochs over which the learning rate rises from zero")
    backbone_lr_ratio: float = Field(0.05, ge=0, description="the backbone's learning rate over the head's")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, for head and backbone, not for norms and biases")
    clip_norm: Positive = Field(3.0, description="largest gradient norm of the network; pruning is not clipped")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="of the network; gates stay in float32")
    checkpoint_steps: int = Field(1000, ge=1, description="steps between two checkpoints within an epoch")
    keep_checkpoints: int = Field(3, ge=1, description="the last epochs whose checkpoints stay on disk")
    log_every: int = Field(10, ge=1, description="steps between two lines of log.jsonl")


class PruningConfig(Section):
    """The paper's pruning block, which works as the recipe has it, and ours beside it.

    Sparsity is the fraction REMOVED: a target of 0.7 leaves 30%.
    """

    use_pruning_loss: bool = Field(False, description="off trains the dense model with the same code")
    target_sparsity: Fraction = Field(0.5, description="fraction of the backbone removed at the end")
    initial_reg_lr: Positive = Field(5e-2, description="learning rate of gates and multipliers")
    sparsity_warmup_epochs: float = Field(5, ge=0, description="epochs over which the target grows")
    sparsity_schedule: Literal["linear", "cosine", "exponential", "sigmoid"] = "cosine"
    min_sparsity: Fraction = Field(0.0, description="target at the first step")
    units: tuple[Unit, ...] = Field(get_args(Unit), description="what may be cut")
    constraint: Literal["params", "macs"] = Field("params", description="what the target counts")
    macs_seconds: Positive = Field(4.0, description="length of the utterance that MACs are counted for")
    drop_rate: Annotated[float, Field(gt=0, lt=1)] | dict[Unit, Annotated[float, Field(gt=0, lt=1)]] = Field(
        0.01, description="how likely fresh gates are shut; one number, or one per unit"
    )
    clamp_lambda1: bool = Field(
        True, description="keep lambda1 >= 0, as the recipe does; without it lambda1 winds up while the gates still lag"
    )


class Config(Section):
    """A whole recipe."""

    seed: int = Field(42, ge=0, lt=2**31)
    data: DataConfig
    backbone: BackboneConfig
    head: HeadConfig = HeadConfig()
    training: TrainingConfig = TrainingConfig()
    pruning: PruningConfig = PruningConfig()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe.

    Args:
        path: a YAML file; its `base:` key, where present, names a recipe beside it that it builds on.
        overrides: ``a.b=c`` settings that win over the file; the value is YAML.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is of the wrong kind or range.
    """
    path = Path(path)
    tree = _read(path)
    for override in overrides:
        _merge(tree, _parse_override(override))
    return check_config(tree, str(path))


def check_config(tree: Mapping[str, Any], name: str) -> Config:
    """Return the configuration a tree of plain values describes; `name` stands in the error messages."""
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{name}: {_explain(error)}") from error
    if config.training.batch_size % config.training.accumulate:
        raise InputError(
            f"{name}: training.batch_size {config.training.batch_size} is no multiple of "
            f"training.accumulate {config.training.accumulate}"
        )
    if config.pruning.min_sparsity > config.pruning.target_sparsity:
        raise InputError(
            f"{name}: pruning.min_sparsity {config.pruning.min_sparsity} is above "
            f"pruning.target_sparsity {config.pruning.target_sparsity}"
        )
    return config


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back."""
    with atomic_write(path) as handle:
        yaml.safe_dump(config.model_dump(mode="json"), handle, sort_keys=False)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path of the recipe") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
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


class _Loader(yaml.SafeLoader):
    """One that refuses what the next line would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key '{twice}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    """Read YAML; ValueError where it is something else, or too much."""
    try:
        tree = yaml.load(text, _Loader)
        _count(tree, MOST_VALUES)
    except RecursionError as error:
        raise ValueError("it is nested too deeply, or within itself") from error
    return tree


def _count(value: Any, left: int) -> int:
    """Return how many more values a tree may have; a few lines of aliases make trees of any size, and endless ones."""
    if left <= 0:
        raise ValueError(f"more than {MOST_VALUES} values; aliases stand in for too much, write it out")
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        left = _count(part, left - 1)
    return left


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: expected key=value, e.g. pruning.target_sparsity=0.7")
    try:
        value = _parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"--set {override}: the value is not valid YAML") from error
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _explain(error: ValidationError) -> str:
    """One line for the first thing wrong."""
    errors = error.errors()
    # a key that may be of several types has an error for each: the deepest got furthest
    first = max((e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]), key=lambda e: len(e["loc"]))
    path = [str(part) for part in first["loc"] if not str(part).startswith(("constrained-", "dict[", "[key]"))]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"key '{key}' is unknown; {_nearest(path)}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, found {_shown(first['input'])}"


def _shown(value: Any) -> str:
    """A value as it is written in Python, its middle left out where it is long."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    return short.repr(value)


def _nearest(path: list[str]) -> str:
    section: Any = Config
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    names = list(section.model_fields)
    close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known there: {', '.join(names)}"
