"""The grid of a sweep: a cell for each sparsity, method, seed and varied value, with its name and its recipe."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, TypeVar

import yaml

from hybrid_pruning.config import Config, change_config, expand_stages
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.runs import snapshot_name
from hybrid_pruning.trees import parse_yaml

OWN = {
    "seed": "--seed",
    "pruning.method": "--method",
    **dict.fromkeys(("pruning.target_sparsity", "pruning.use_pruning_loss"), "--sparsity"),
}
"""Keys that have an option of their own."""
Value = TypeVar("Value")
LONGEST = 40
"""Letters of a value in a cell's name."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Values of a grid's axes; one without values leaves the recipe's, and is not in the cells' names."""

    sparsities: tuple[float, ...]
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    varied: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GridCell:
    """One job of a grid.

    Args:
        name: of the cell and its folder, such as taylor-hp70-s2.
        group: the same without the seed.
        line: the same without sparsity and seed, empty where there are no other axes.
        dense: the name of the dense cell of the same seed and values.
        target: the fraction to be removed, 0 for the dense model.
        values: axis, `method` or a varied key, -> its value as YAML, of those that concern the cell.
        options: of the command line, by which `sweep` has this cell alone.
    """

    name: str
    group: str
    line: str
    dense: str
    target: float
    values: Mapping[str, str]
    options: tuple[str, ...]
    config: Config


def parse_axes(
    sparsities: str | Sequence[float], methods: str | Sequence[str], seeds: str | Sequence[int], vary: Sequence[str]
) -> Axes:
    """Return the axes of a grid, each value there once; sparsities in rising order, from 0 to below 1."""
    varied: dict[str, tuple[Any, ...]] = {}
    for text in vary:
        key, values = _parse_varied(text)
        if key in varied:
            raise InputError(f"--vary {key} stands twice; give its values once, separated by commas")
        varied[key] = values
    fractions = "fractions removed, from 0 (dense) to below 1, such as 0,0.5,0.7"
    targets = _parse_list("--sparsity", sparsities, _fraction, fractions)
    ways = _parse_list("--method", methods, _word, "values of pruning.method, such as joint,taylor")
    numbers = _parse_list("--seed", seeds, int, "whole numbers, such as 1,2,3")
    if not targets:
        raise InputError(f"--sparsity: nothing, expected {fractions}")
    return Axes(tuple(sorted(targets)), ways, numbers, varied)


def lay_out(config: Config, axes: Axes) -> list[GridCell]:
    """Return the cells of a grid, seed by seed and in each the dense one first.

    Settings of `pruning` count where a stage prunes, and not for the dense cell, which there is once for all of them.
    """
    stages = expand_stages(config)
    pruned = [stage for stage in stages.values() if stage.pruning.use_pruning_loss]
    if stages and not pruned:
        raise InputError(f"sweep: none of the stages {', '.join(stages)} prunes: turn pruning.use_pruning_loss on")
    if any(stage.pruning.export_at for stage in pruned or [config]):
        raise InputError(
            "sweep: the recipe has pruning.export_at, several sizes from one training: use `run`, or "
            "--set pruning.export_at=[] --set pruning.export_hold_epochs=0"
        )
    cells: dict[str, GridCell] = {}
    for seed, values in product(axes.seeds or (None,), product(*axes.varied.values())):
        varied = dict(zip(axes.varied, values, strict=True))
        for method, target in product(axes.methods or (None,), axes.sparsities):
            cell = _make_cell(config, target, method, varied, seed)
            if cells.setdefault(cell.name, cell).options != cell.options:
                raise InputError(f"sweep: {cell.name} would be two cells; write the values of --vary otherwise")
    _refuse_copies(cells.values())
    return list(cells.values())


def choose(cells: Sequence[GridCell], only: str | Sequence[str]) -> list[GridCell]:
    """Return the cells whose names are asked for, `*` and `?` standing for letters; all where none is."""
    wanted = only.split(",") if isinstance(only, str) else only
    for pattern in wanted:
        if not any(fnmatchcase(cell.name, pattern.strip()) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise InputError(f"--only {pattern}: no cell has that name; there are {names}")
    return [cell for cell in cells if not wanted or any(fnmatchcase(cell.name, one.strip()) for one in wanted)]


def set_values(config: Config, values: Mapping[str, Any], name: str) -> Config:
    """Return a recipe with other values at its keys; with stages, those of `pruning` at each stage that prunes."""
    stages = expand_stages(config)
    places = [f"stages.{stage}." for stage, its in stages.items() if its.pruning.use_pruning_loss] or [""]
    changes = {
        f"{place}{key}": value
        for key, value in values.items()
        for place in (places if key.split(".")[0] == "pruning" else [""])
    }
    return change_config(config, changes, f"cell {name}")


def name_size(target: float) -> str:
    """Return the part of a cell's name that tells its sparsity: 0 -> dense, 0.5 -> hp50."""
    return "dense" if target == 0 else snapshot_name(target)


def show_value(value: Any) -> str:
    """Return a value as YAML on one line, which `--vary` and `--set` read back."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]


def _make_cell(
    config: Config, target: float, method: str | None, varied: Mapping[str, Any], seed: int | None
) -> GridCell:
    shown = {**({} if method is None else {"method": method}), **{key: show_value(varied[key]) for key in varied}}
    of_dense = {key: text for key, text in shown.items() if key != "method" and "pruning" not in key.split(".")}
    values = shown if target else of_dense
    name, group, line = _name(target, values, seed)
    options = ["--sparsity", f"{target:.12g}"]
    for key, text in values.items():
        options += ["--method", text] if key == "method" else ["--vary", f"{key}={text}"]
    options += [] if seed is None else ["--seed", str(seed)]
    changes = pruning_to(target)
    changes |= {"pruning.method": method} if "method" in values else {}
    changes |= {key: varied[key] for key in values if key != "method"}
    changes |= {} if seed is None else {"seed": seed}
    dense = _name(0, of_dense, seed)[0]
    return GridCell(name, group, line, dense, target, values, tuple(options), set_values(config, changes, name))


def pruning_to(target: float) -> dict[str, Any]:
    """Return the settings of another sparsity, 0 for training without pruning."""
    return {"pruning.use_pruning_loss": target > 0, **({"pruning.target_sparsity": target} if target else {})}


def _name(target: float, values: Mapping[str, str], seed: int | None) -> tuple[str, str, str]:
    """Return the name of a cell, that of its group and that of its line."""
    method = [values["method"]] if "method" in values else []
    labels = [_label(key, text) for key, text in values.items() if key != "method"]
    group = "-".join([*method, name_size(target), *labels])
    return group if seed is None else f"{group}-s{seed}", group, "-".join([*method, *labels])


def _label(key: str, text: str) -> str:
    """Return a varied value as part of a folder's name: `pruning.constraint`, `macs` -> constraint-macs."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")
    if len(plain) > LONGEST:
        plain = f"{plain[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{key.rpartition('.')[2]}-{plain}"


def _refuse_copies(cells: Iterable[GridCell]) -> None:
    """Require that each cell is another training."""
    seen: dict[str, str] = {}
    for cell in cells:
        trainings = list(expand_stages(cell.config).values()) or [cell.config]
        first = seen.setdefault(json.dumps([one.model_dump(mode="json") for one in trainings]), cell.name)
        if first != cell.name:
            raise InputError(
                f"sweep: {first} and {cell.name} have the same recipe: all stages overrule what varies; give its key "
                "in a stage, such as --vary stages.NAME.training.lr=1e-3,2e-3"
            )


def _parse_varied(text: str) -> tuple[str, tuple[Any, ...]]:
    key, _, rest = text.partition("=")
    key = key.strip()
    try:
        values = parse_yaml(f"[{rest}]")
    except ValueError:
        values = []
    if not key or not values:
        raise InputError(f"--vary {text}: expected KEY=A,B, values in YAML, such as pruning.constraint=params,macs")
    if key in OWN:
        raise InputError(f"--vary {key}: has an option of its own, {OWN[key]}")
    _refuse_repeated(f"--vary {key}", list(map(show_value, values)))
    return key, tuple(values)


def _parse_list(
    option: str, values: str | Sequence[Any], parse: Callable[[str], Value], wanted: str
) -> tuple[Value, ...]:
    """Return the values of a text with commas, or of a sequence."""
    words = [word.strip() for word in values.split(",")] if isinstance(values, str) else list(map(str, values))
    found = []
    for word in words:
        try:
            found.append(parse(word))
        except ValueError as error:
            raise InputError(f"{option}: '{word}', expected {wanted}") from error
    _refuse_repeated(option, found)
    return tuple(found)


def _refuse_repeated(option: str, values: Sequence[Any]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"{option}: {value} stands twice; give each value once")


def _fraction(word: str) -> float:
    value = float(word)
    if not 0 <= value < 1:
        raise ValueError
    return value


def _word(word: str) -> str:
    if not word:
        raise ValueError
    return word
