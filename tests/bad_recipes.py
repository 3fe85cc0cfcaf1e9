"""Recipes with every mistake: what `train` says of each."""

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from corpus import settings
from world import Case

TRAIN = "train recipe.yaml --out new"


def nothing(world: Path) -> None:
    """Leave the world as it is: the command line itself is wrong."""


def setting(key: str, value: Any, world: Path) -> None:
    path = world / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(yaml.safe_load(path.read_text()), {key: value})))


def line(text: str, world: Path) -> None:
    """Put a line before the recipe's others."""
    path = world / "recipe.yaml"
    path.write_text(f"{text}\n{path.read_text()}")


def content(data: str | bytes, world: Path) -> None:
    (world / "recipe.yaml").write_bytes(data.encode() if isinstance(data, str) else data)


def bomb(world: Path) -> None:
    """Nine levels of nine aliases each: four hundred million values from four hundred bytes."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    line("\n".join([*levels, "seed: *a8"]), world)


def circle(world: Path) -> None:
    (world / "other.yaml").write_text("base: recipe.yaml\n")
    line("base: other.yaml", world)


def given(key: str, value: Any) -> Any:
    return partial(setting, key, value)


def at(key: str) -> str:
    return rf"recipe.yaml: (key ')?{key}"


def set_(text: str) -> str:
    return f"{TRAIN} --set {text}"


RECIPES: dict[str, Case] = {
    "no recipe": Case(nothing, "train nowhere.yaml --out new", "nowhere.yaml: cannot be read"),
    "a folder for a recipe": Case(nothing, "train model --out new", "model: cannot be read"),
    "an empty recipe": Case(partial(content, ""), TRAIN, "recipe.yaml: expected keys and values"),
    "a list for a recipe": Case(partial(content, "- a\n"), TRAIN, "recipe.yaml: expected keys and values, found list"),
    "bytes that are no text in a recipe": Case(
        partial(content, b"\xff\xfe\0"), TRAIN, "recipe.yaml: is not valid YAML"
    ),
    "broken YAML": Case(partial(line, "seed: [1"), TRAIN, "recipe.yaml: is not valid YAML.*line"),
    "a tab in YAML": Case(partial(line, "\tseed: 1"), TRAIN, "recipe.yaml: is not valid YAML"),
    "YAML that makes an object": Case(
        partial(line, "seed: !!python/object/apply:os.system ['touch new']"), TRAIN, "recipe.yaml: is not valid YAML"
    ),
    "YAML that expands without end": Case(bomb, TRAIN, "recipe.yaml: .*more than 10000 values; aliases"),
    "YAML within itself": Case(partial(line, "seed: &a [*a]"), TRAIN, "recipe.yaml: .*within itself"),
    "a mapping within itself": Case(partial(line, "seed: &a {b: *a}"), TRAIN, "recipe.yaml: .*within itself"),
    "YAML nested without end": Case(partial(line, "seed: " + "[" * 5000), TRAIN, "recipe.yaml: .*nested too deeply"),
    "a date that is none": Case(partial(line, "seed: 2020-13-45"), TRAIN, "recipe.yaml: is not valid YAML"),
    "a number of 5000 digits": Case(partial(line, "seed: " + "9" * 5000), TRAIN, "recipe.yaml: is not valid YAML"),
    "a key twice": Case(partial(line, "seed: 1\nseed: 2"), TRAIN, "recipe.yaml: .*'seed' stands twice"),
    "a typo at the top": Case(given("trainin", {}), TRAIN, at("trainin' is unknown; did you mean 'training'")),
    "a typo below": Case(given("pruning.target_sparsty", 0.5), TRAIN, at("pruning.target_sparsty.*'target_sparsity'")),
    "a hyphen": Case(given("pruning.target-sparsity", 0.5), TRAIN, at("pruning.target-sparsity.*'target_sparsity'")),
    "no data": Case(partial(content, "backbone: {source: wavlm}\n"), TRAIN, at("data' is missing")),
    "a word for a number": Case(given("training.epochs", "many"), TRAIN, at("training.epochs: .*integer.*'many'")),
    "half an epoch": Case(given("training.epochs", 2.5), TRAIN, at("training.epochs: .*integer.*2.5")),
    "no epoch": Case(given("training.epochs", 0), TRAIN, at("training.epochs: .*greater than or equal to 1.*0")),
    "a rate that is not a number": Case(given("training.lr", float("nan")), TRAIN, at("training.lr: .*nan")),
    "a rate without end": Case(given("training.lr", float("inf")), TRAIN, at("training.lr: .*finite.*inf")),
    "a rate below 0": Case(given("training.lr", -1e-3), TRAIN, at("training.lr: .*greater than 0")),
    "a sparsity above 1": Case(given("pruning.target_sparsity", 1.5), TRAIN, at("pruning.target_sparsity: .*1.5")),
    "a sparsity that cannot be reached": Case(given("pruning.target_sparsity", 0.99), TRAIN, "the maximum is 0.8"),
    "a sparsity below where it starts": Case(given("pruning.min_sparsity", 0.9), TRAIN, at("pruning.min_sparsity 0.9")),
    "a schedule that there is not": Case(given("pruning.sparsity_schedule", "cosin"), TRAIN, at("pruning.*'cosin'")),
    "a unit that there is not": Case(given("pruning.units", ["heads"]), TRAIN, at("pruning.units.*'heads'")),
    "no unit": Case(given("pruning.units", []), TRAIN, "units"),
    "a list for a section": Case(given("training", [1]), TRAIN, at("training: .*found .1.")),
    "nothing for a section": Case(given("head", None), TRAIN, at("head: .*None")),
    "a batch that does not divide": Case(
        given("training.accumulate", 3), TRAIN, at("training.batch_size 8 is no mult")
    ),
    "no training data": Case(given("data.fraction", 0), TRAIN, at("data.fraction: .*greater than 0.*0")),
    "more than all of the data": Case(given("data.fraction", 2), TRAIN, at("data.fraction: .*less than or equal to 1")),
    "a fraction of speakers that are not known": Case(
        nothing, f"{TRAIN} --set data.fraction=0.5 --set data.fraction_of=speakers", "its speaker is not known"
    ),
    "speakers to sample for anti-spoofing": Case(
        given("data.sampling", "speakers"), TRAIN, at("data.sampling is for task: speaker-verification")
    ),
    "speeds as speakers for anti-spoofing": Case(
        given("data.speed_speakers", [0.9]), TRAIN, at("data.speed_speakers is for task: speaker-verification")
    ),
    "a speed that is none": Case(given("data.speed_speakers", [1.0]), TRAIN, at("data.speed_speakers: .*from 1")),
    "a speed twice": Case(given("data.speed_speakers", [0.9, 0.9]), TRAIN, at("data.speed_speakers: speeds are diff")),
    "a speed of 0": Case(given("data.speed_speakers", [0]), TRAIN, at("data.speed_speakers.0: .*0.5")),
    "a corpus that is all dev": Case(
        given("corpus", {"name": "folder", "root": "x", "dev_share": 1}), TRAIN, at("corpus.dev_share: .*less than 1")
    ),
    "crops of nothing": Case(given("data.crop_seconds", 1e-9), TRAIN, "data.crop_seconds"),
    "crops too short for a frame": Case(given("data.crop_seconds", 0.001), TRAIN, "data.crop_seconds"),
    "crops of a year": Case(given("data.crop_seconds", 3e7), TRAIN, "data.crop_seconds 3e.07: expected"),
    "a batch of nothing": Case(given("training.batch_size", 0), TRAIN, at("training.batch_size: .*0")),
    "more heads than there is width": Case(given("head.heads", -1), TRAIN, at("head.heads: .*-1")),
    "a seed beyond 32 bits": Case(given("seed", 2**40), TRAIN, at("seed: .*1099511627776")),
    "a base that is not there": Case(partial(line, "base: nowhere.yaml"), TRAIN, "nowhere.yaml: cannot be read"),
    "a base that is a folder": Case(partial(line, "base: model"), TRAIN, "model: cannot be read"),
    "a base that is a list": Case(partial(line, "base: [a]"), TRAIN, "recipe.yaml: base .*name of a file"),
    "a base with a null byte": Case(partial(line, 'base: "a\\0b"'), TRAIN, "recipe.yaml: base .*name of a file"),
    "bases in a circle": Case(circle, TRAIN, "leads back to itself"),
    "its own base": Case(partial(line, "base: recipe.yaml"), TRAIN, "leads back to itself"),
    "a typo in --set": Case(nothing, set_("heads.kind=mhfa"), "'heads' is unknown.*'head'"),
    "--set without =": Case(nothing, set_("seed"), "--set seed: expected key=value"),
    "--set without a key": Case(nothing, set_("=1"), "--set =1: expected key=value"),
    "--set out of range": Case(nothing, set_("pruning.target_sparsity=1.5"), "target_sparsity.*1.5"),
    "--set with broken YAML": Case(nothing, set_("seed=[1"), "--set seed=.1: the value is not valid YAML"),
    "--set with a date that is none": Case(nothing, set_("seed=2020-13-45"), "--set seed=.* is not valid YAML"),
    "--set with an object": Case(nothing, set_("seed=!!python/name:os.system"), "--set seed=.* is not valid YAML"),
    "--set below a value": Case(nothing, set_("seed.a=1"), "seed: .*integer"),
    "--set with an empty part": Case(nothing, set_("training..epochs=1"), "key 'training.' is unknown"),
}
