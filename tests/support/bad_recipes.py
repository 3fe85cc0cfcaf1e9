"""Recipes with every mistake: what `train` says of each."""

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from corpus import settings
from damage import written
from world import Case

TRAIN = "train recipe.yaml --out new"


def setting(key: str, value: Any, world: Path) -> None:
    path = world / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(yaml.safe_load(path.read_text()), {key: value})))


def line(text: str, world: Path) -> None:
    """Put a line before the recipe's others."""
    path = world / "recipe.yaml"
    path.write_text(f"{text}\n{path.read_text()}")


content = partial(written, "recipe.yaml")


def bomb(world: Path) -> None:
    """Nine levels of nine aliases each: four hundred million values from four hundred bytes."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    line("\n".join([*levels, "seed: *a8"]), world)


def circle(world: Path) -> None:
    (world / "other.yaml").write_text("base: recipe.yaml\n")
    line("base: other.yaml", world)


def speakers(changes: dict[str, Any], world: Path) -> None:
    """Make it a recipe of speaker verification, with the manifests' labels as speakers' names."""
    for name in ("train", "dev"):
        path = world / name / "manifest.tsv"
        header, *rows = [row.split("\t") for row in path.read_text().splitlines()]
        place = header.index("speaker")
        cells = [[*row[:place], row[header.index("label")], *row[place + 1 :]] for row in rows]
        path.write_text("".join("\t".join(row) + "\n" for row in [header, *cells]))
    ids = [row[0] for row in rows]
    (world / "dev.trials").write_text("".join(f"{int(a[0] == b[0])} {a} {b}\n" for a in ids for b in ids if a < b))
    path = world / "recipe.yaml"
    start = {"task": "speaker-verification", "data.trials": {"dev": "dev.trials"}, "objective.kind": "aam"}
    path.write_text(yaml.safe_dump(settings(yaml.safe_load(path.read_text()), {**start, **changes})))


def trials(text: str, world: Path) -> None:
    """Verification with these trials instead."""
    speakers({}, world)
    (world / "dev.trials").write_text(text)


def of_speakers(key: str, value: Any) -> Any:
    return partial(speakers, {key: value})


def given(key: str, value: Any) -> Any:
    return partial(setting, key, value)


def at(key: str) -> str:
    return rf"recipe.yaml: (key ')?{key}"


RECIPES: dict[str, Case] = {
    "an empty recipe": Case(partial(content, ""), TRAIN, "recipe.yaml: expected keys and values, found NoneType"),
    "a list for a recipe": Case(partial(content, "- a\n"), TRAIN, "recipe.yaml: expected keys and values, found list"),
    "bytes that are no text": Case(partial(content, b"\xff\xfe\0"), TRAIN, "recipe.yaml: is not valid YAML"),
    "a null byte in YAML": Case(partial(line, "a: \0"), TRAIN, "recipe.yaml: is not valid YAML"),
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
    "no data": Case(partial(content, "backbone: {source: wavlm}\n"), TRAIN, at("data' is missing")),
    "no dev set": Case(partial(content, "data: {train: a}\nbackbone: {source: a}"), TRAIN, at("data.dev' is missing")),
    "a sparsity that cannot be reached": Case(given("pruning.target_sparsity", 0.99), TRAIN, "the maximum is 0.8"),
    "no unit": Case(given("pruning.units", []), TRAIN, "units"),
    "crops of nothing": Case(given("data.crop_seconds", 1e-9), TRAIN, "data.crop_seconds"),
    "crops too short for a frame": Case(given("data.crop_seconds", 0.001), TRAIN, "data.crop_seconds"),
    "a batch of a week": Case(
        given("training", {"batch_size": 60000}),
        TRAIN + " --set data.crop_seconds=10",
        at("training.batch_size 60000 .* is 600000 seconds a batch"),
    ),
    "a base that is not there": Case(partial(line, "base: nowhere.yaml"), TRAIN, "nowhere.yaml: cannot be read"),
    "a base that is a folder": Case(partial(line, "base: model"), TRAIN, "model: cannot be read"),
    "a base that is a list": Case(partial(line, "base: [a]"), TRAIN, "recipe.yaml: base .*name of a file"),
    "a base with a null byte": Case(partial(line, 'base: "a\\0b"'), TRAIN, "recipe.yaml: base .*name of a file"),
    "bases in a circle": Case(circle, TRAIN, "leads back to itself"),
    "its own base": Case(partial(line, "base: recipe.yaml"), TRAIN, "leads back to itself"),
    "a margin out of range": Case(of_speakers("objective.margin", 3), TRAIN, at("objective.margin: .*1.*found 3")),
    "a kind of objective that there is not": Case(of_speakers("objective.kind", "amm"), TRAIN, at("objective.*'amm'")),
    "rivals that softmax lacks": Case(
        partial(speakers, {"objective": {"kind": "softmax", "inter_top_k": 1}}),
        TRAIN,
        "inter_top_k goes with .*am or aam",
    ),
    "more rivals than there are speakers": Case(
        of_speakers("objective.inter_top_k", 2), TRAIN, "objective.inter_top_k 2: .*manifest.tsv has 2 speakers"
    ),
    "no trials to validate on": Case(of_speakers("data.trials", {}), TRAIN, at("data.trials.dev is missing")),
    "trials that are not there": Case(
        of_speakers("data.trials", {"dev": "no.trials"}), TRAIN, "no.trials: cannot be read"
    ),
    "trials without a target": Case(
        partial(trials, "0 bonafide-00 spoof-01\n"), TRAIN, "dev.trials: no target among 1"
    ),
    "trials of another label": Case(
        partial(trials, "1 bonafide-00 bonafide-02\n2 bonafide-00 x\n"), TRAIN, "dev.trials:2: label '2', expected 1 or"
    ),
    "trials of another set": Case(
        partial(trials, "1 bonafide-00 bonafide-02\n0 bonafide-00 x\n"),
        TRAIN,
        "dev.trials: 'x' is no utt_id of dev/man",
    ),
}
