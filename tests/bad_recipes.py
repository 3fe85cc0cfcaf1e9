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
    "widths of a multiple of 0": Case(given("pruning.align", 0), TRAIN, at("pruning.align: .*1.*0")),
    "widths that nothing fits": Case(
        nothing, set_("pruning.align=1000 --set pruning.units=[conv]"), "the maximum is 0.0.*smaller multiple"
    ),
    "a snapshot of nothing": Case(given("pruning.export_at", [0.0, 0.2]), TRAIN, at("pruning.export_at .0.0, 0.2.: e")),
    "a snapshot beyond the target": Case(
        given("pruning.export_at", [0.2, 0.5]), TRAIN, at("pruning.export_at .*up to")
    ),
    "snapshots that fall": Case(given("pruning.export_at", [0.3, 0.2]), TRAIN, at("pruning.export_at .*rising")),
    "a snapshot twice": Case(given("pruning.export_at", [0.2, 0.2]), TRAIN, at("pruning.export_at .*rising")),
    "a number for snapshots": Case(given("pruning.export_at", 0.2), TRAIN, at("pruning.export_at: .*0.2")),
    "a snapshot in percent": Case(given("pruning.export_at", [30]), TRAIN, at("pruning.export_at.*30")),
    "a hold at nothing": Case(
        given("pruning.export_hold_epochs", 1), TRAIN, at("pruning.export_hold_epochs 1: .*noth")
    ),
    "a hold below 0": Case(given("pruning.export_hold_epochs", -1), TRAIN, at("pruning.export_hold_epochs: .*-1")),
    "a hold beyond the training": Case(
        nothing, set_("pruning.export_at=[0.1] --set pruning.export_hold_epochs=9"), "export_at 0.1: .*shorten"
    ),
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
    "crops of a year": Case(given("data.crop_seconds", 3e7), TRAIN, at("data.crop_seconds: .*equal to 600, found 3")),
    "MACs of a century": Case(given("pruning.macs_seconds", 1e9), TRAIN, at("pruning.macs_seconds: .*equal to 3600")),
    "an embedding of gigabytes": Case(given("head.embedding", 10**9), TRAIN, at("head.embedding: .*equal to 16384")),
    "a head of gigabytes": Case(
        given("head", {"heads": 1024, "compression": 8192, "embedding": 256}), TRAIN, at("head: .* 2147483648 weights")
    ),
    "a batch of a week": Case(
        given("training", {"batch_size": 60000}),
        TRAIN + " --set data.crop_seconds=10",
        at("training.batch_size 60000 .* is 600000 seconds a batch"),
    ),
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
    "a margin for anti-spoofing": Case(
        given("objective.kind", "aam"), TRAIN, "objective.kind aam is for task: speaker"
    ),
    "a margin out of range": Case(of_speakers("objective.margin", 3), TRAIN, at("objective.margin: .*1.*found 3")),
    "a kind of objective that there is not": Case(of_speakers("objective.kind", "amm"), TRAIN, at("objective.*'amm'")),
    "rivals that softmax does not know": Case(
        partial(speakers, {"objective": {"kind": "softmax", "inter_top_k": 1}}),
        TRAIN,
        "inter_top_k goes with .*am or aam",
    ),
    "more rivals than there are speakers": Case(
        of_speakers("objective.inter_top_k", 2), TRAIN, "objective.inter_top_k 2: .*manifest.tsv has 2 speakers"
    ),
    "no trials to validate on": Case(of_speakers("data.trials", {}), TRAIN, at("data.trials.dev is missing")),
    "trials that are not there": Case(
        of_speakers("data.trials", {"dev": "nowhere.trials"}), TRAIN, "nowhere.trials: cannot be read"
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
    "pruning of a frozen backbone": Case(
        given("backbone.frozen", True), TRAIN, "backbone.frozen and pruning.use_pruning_loss are both on"
    ),
    "an optimiser that there is not": Case(
        given("training.optimizer", "adam"), TRAIN, at("training.optimizer: .*'adam'")
    ),
    "a typo in a stage": Case(
        given("stages", {"joint": {"training": {"epochz": 1}}}),
        TRAIN,
        at("stages.joint.training.epochz' is unknown; did you mean 'epochs'"),
    ),
    "a value out of range in a stage": Case(
        given("stages", {"joint": {"training": {"lr": -1}}}), TRAIN, at("stages.joint.training.lr: .*greater than 0")
    ),
    "values of a stage that do not go together": Case(
        given("stages", {"head": {"backbone": {"frozen": True}}}), TRAIN, "stages.head: backbone.frozen and pruning"
    ),
    "another task in a stage": Case(
        given("stages", {"joint": {"task": "anti-spoofing"}}), TRAIN, "'stages.joint.task': all stages have the same"
    ),
    "another head in a stage": Case(
        given("stages", {"one": {}, "two": {"head": {"heads": 2}}}), TRAIN, "stages.two.head differs from the first"
    ),
    "pruning twice": Case(
        given("stages", {"one": {}, "two": {}}), TRAIN, "stages.two.pruning.use_pruning_loss .*'one' has"
    ),
    "a stage with a path for a name": Case(given("stages", {"../up": {}}), TRAIN, at("stages.*match pattern")),
    "a stage with the name of a run's folder": Case(
        given("stages", {"evaluation": {}}), TRAIN, "'evaluation' is a folder"
    ),
    "a list for stages": Case(given("stages", [1]), TRAIN, at("stages: .*dictionary")),
    "--set for a stage that there is not": Case(
        nothing, set_("stages.joint.training.epochs=1"), "there is no stage 'joint'; the recipe's stages: none"
    ),
}
