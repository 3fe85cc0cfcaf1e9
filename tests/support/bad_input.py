"""Damage to a world, and the command whose one line of refusal it leads to.

The cases stand in bad_input.tsv. Their damages are functions of this file and their arguments, joined by ` + `.
"""

import csv
import io
import json
import os
import shlex
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
import yaml
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from corpus import settings
from damage import Bomb, changed, cut, described, folder, removed
from foreign_files import write_encoder, write_whole
from hybrid_pruning.models.artifact import digest_of
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.models.onnx.runtime import DIGEST
from speakers import EMBEDDING

WEIGHTS, CONFIG, CHECKPOINT = "model/model.safetensors", "model/config.json", "run/checkpoints/epoch-0001.pt"
ENCODER = "foreign/pytorch_model.bin"
Tensors = dict[str, torch.Tensor]


class Case(NamedTuple):
    """Damage to a copy of the world, a command, and the pattern of the one line that follows."""

    damage: Callable[[Path], object]
    command: str
    expected: str


def unescaped(text: str) -> str:
    """Return a text with its backslashes read as escapes."""
    return text.encode().decode("unicode_escape")


def link(name: str, target: str, world: Path) -> None:
    (world / name).unlink(missing_ok=True)
    (world / name).symlink_to(target)


def copy(source: str, name: str, world: Path) -> None:
    shutil.copy(world / source, world / name)


def written(name: str, text: str, world: Path) -> None:
    (world / name).write_bytes(unescaped(text).encode("latin-1"))


def filled(name: str, before: str, text: str, times: str, after: str, world: Path) -> None:
    written(name, before + text * int(times) + after, world)


def replace(name: str, old: str, new: str, world: Path, count: int = 1) -> None:
    changed(name, lambda text: text.replace(unescaped(old), unescaped(new), count), world)


def without_last_line(name: str, world: Path) -> None:
    changed(name, lambda text: "".join(text.splitlines(keepends=True)[:-1]), world)


def without_class(name: str, label: str, world: Path) -> None:
    changed(name, lambda text: "".join(x for x in text.splitlines(keepends=True) if f"\t{label}\t" not in x), world)


def line(text: str, world: Path) -> None:
    """Put a line before the recipe's others."""
    changed("recipe.yaml", lambda recipe: f"{unescaped(text)}\n{recipe}", world)


def setting(key: str, value: str, world: Path) -> None:
    change_recipe({key: yaml.safe_load(value)}, world)


def change_recipe(changes: dict[str, Any], world: Path) -> None:
    changed("recipe.yaml", lambda text: yaml.safe_dump(settings(yaml.safe_load(text), changes)), world)


def yaml_bomb(world: Path) -> None:
    """Nine levels of nine aliases each: four hundred million values from four hundred bytes."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    line("\n".join([*levels, "seed: *a8"]), world)


def speakers(*arguments: Any) -> None:
    """Make it a recipe of verification, with the labels as speakers' names, and set a key."""
    *change, world = arguments
    for name in ("train", "dev"):
        path = world / name / "manifest.tsv"
        header, *rows = [row.split("\t") for row in path.read_text().splitlines()]
        place = header.index("speaker")
        cells = [[*row[:place], row[header.index("label")], *row[place + 1 :]] for row in rows]
        path.write_text("".join("\t".join(row) + "\n" for row in [header, *cells]))
    ids = [row[0] for row in rows]
    (world / "dev.trials").write_text("".join(f"{int(a[0] == b[0])} {a} {b}\n" for a in ids for b in ids if a < b))
    changes = {"task": "speaker-verification", "data.trials": {"dev": "dev.trials"}, "objective.kind": "aam"}
    change_recipe(changes | ({change[0]: yaml.safe_load(change[1])} if change else {}), world)


def assign(name: str, key: str, value: str, world: Path) -> None:
    """Set a key of a JSON file, whose parents stand before it with slashes between."""
    *parents, last = key.split("/")

    def change(tree: dict[str, Any]) -> None:
        for parent in parents:
            tree = tree[parent]
        tree[last] = yaml.safe_load(value)

    described(change, world, name)


def drop(name: str, key: str, world: Path) -> None:
    described(lambda about: about.pop(key), world, name)


def first(tensors: Tensors) -> str:
    return next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() > 1)


def change_weights(change: Callable[[Tensors], Any], world: Path) -> None:
    described(dict, world)
    tensors = load_file(world / WEIGHTS)
    change(tensors)
    save_file(tensors, world / WEIGHTS)


def change_checkpoint(change: Callable[[Tensors], Any], world: Path) -> None:
    state = torch.load(world / CHECKPOINT, weights_only=True)
    change(state["objective"])
    torch.save(state, world / CHECKPOINT)


def resize(tensors: Tensors) -> None:
    tensors[first(tensors)] = torch.zeros(2, 2)


def spoil(value: str, world: Path) -> None:
    """Make one weight nan or infinite."""
    change_weights(lambda tensors: tensors[first(tensors)].view(-1)[:1].fill_(float(value)), world)


def bomb(world: Path) -> None:
    torch.save({"objective": Bomb(), "epoch": 1, "step": 3}, world / CHECKPOINT)


def encoder_bomb(world: Path) -> None:
    (world / "wavlm" / "model.safetensors").unlink()
    torch.save({"weights": Bomb()}, world / "wavlm" / "pytorch_model.bin")


def foreign_bomb(world: Path) -> None:
    (world / "foreign").mkdir()
    torch.save({"state_dict": {}, "config": {"encoder_num_layers": Bomb()}}, world / ENCODER)


def foreign(world: Path) -> None:
    write_encoder(world / "foreign")


def reconfigured(world: Path) -> None:
    """Make a foreign config contradict a layer's tensors."""
    content = torch.load(world / ENCODER, weights_only=True)
    content["config"]["encoder_ff_interm_features"][1] = 40
    torch.save(content, world / ENCODER)


def foreign_model_beside_another_recipe(world: Path) -> None:
    write_whole(world / "foreign")
    (world / "foreign" / "config.yaml").write_text("model_args: {nb_layer: 13}\ndataset_args: {}\n")


def zip_of_nothing(world: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../exploded", "x")
    (world / CHECKPOINT).write_bytes(buffer.getvalue())


def onnx_file(*arguments: Any, metadata: dict[str, str] | None = None) -> None:
    """Write an .onnx file of no use, of format 1 or another, with the metadata that ours have, and its description."""
    *version, world = arguments
    about = {"format": "hybrid-pruning onnx", "format_version": int(*version or [1]), "task": "anti-spoofing"}
    about |= {"provenance": {}, "minimum_samples": 400, "embedding_width": 4, "sample_rate_hz": 16_000}
    wave, embedding = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in ("wave", "embedding")
    )
    node = onnx.helper.make_node("Identity", ["wave"], ["embedding"])
    graph = onnx.helper.make_graph([node], "graph", [wave], [embedding])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata or {DIGEST: digest_of(about)})
    onnx.save(model, world / "small.onnx")
    (world / "small.json").write_text(json.dumps(about))


def job_of_another(world: Path) -> None:
    """Write a job whose training was another one."""
    (world / "job" / "run").mkdir(parents=True)
    (world / "job" / "evaluation").mkdir()
    recipe = (world / "run" / "config.yaml").read_text()
    (world / "job" / "run" / "config.yaml").write_text(recipe.replace("seed: 42", "seed: 43"))
    (world / "job" / "evaluation" / "dev.json").write_text('{"eer": 0.1}')


def oddly_named(world: Path) -> None:
    """Make a folder whose name would command the terminal, and one whose name is no text."""
    (world / "model\x1b[2J").mkdir()
    Path(os.fsdecode(os.fsencode(world) + b"/\xff")).mkdir()


def cohort(*arguments: Any) -> None:
    """Give the verifier a cohort of three speakers, or one of numbers that are not finite."""
    *value, world = arguments
    found = Cohort(np.zeros(EMBEDDING, np.float32), np.eye(3, EMBEDDING, dtype=np.float32), 2, "train.tsv")
    found.write(world / "verifier")
    described(lambda about: about.update(cohort=found.to_json()), world, "verifier/config.json")
    if value:
        numbers = np.full((3, EMBEDDING), float(value[0]), dtype=np.float32)
        save_arrays({"mean": numbers[0], "speakers": numbers}, world / "verifier/cohort.safetensors")


def weighing(quality: str, world: Path) -> None:
    calibration = Calibration((Fit(1.0, 0.0, 0.5, "s", "k", "", 1, 1, {quality: 1.0}),)).to_json()
    described(lambda about: about.update(calibration=calibration), world, "verifier/config.json")


def scored(*arguments: Any) -> None:
    """Write scores of the trials, inverted, short of one or beside qualities, and one of a countermeasure."""
    *how, world = arguments
    lines = ["enrol\ttest\tscore" + "\timpostor-mean-min" * ("qualities" in how)]
    for place, trial in enumerate(
        (world / "speakers/trials").read_text().splitlines()[: -1 if "short" in how else None]
    ):
        label, enrol, test = trial.split()
        score = (0.5 - int(label) if "inverted" in how else int(label)) + 0.01 * (place % 15)
        lines.append(f"{enrol}\t{test}\t{score}" + f"\t{place % 3}.5" * ("qualities" in how))
    (world / "sv.tsv").write_text("".join(f"{line}\n" for line in lines))
    (world / "cm.tsv").write_text("filename\tcm-score\nid00000/00\t1\n")


def renamed(new: str, world: Path) -> None:
    """Have a speaker called otherwise in the manifest, beside scores."""
    scored(world)
    replace("speakers/manifest.tsv", r"\tid00001\t", rf"\t{new}\t", world, -1)


def other_embeddings(world: Path) -> None:
    vectors = {"vectors": np.ones((1, EMBEDDING), dtype=np.float32), "seconds": np.ones(1)}
    about = {"format": "hybrid-pruning embeddings", "model": "another", "ids": ["x"], "paths": ["x"]}
    save_arrays(vectors, world / "e", {"about": json.dumps(about)})


DAMAGES = {
    **{damaging.__name__: damaging for damaging in (cut, folder, removed)},
    **{name: found for name, found in globals().items() if callable(found)},
    "set": assign,
    "replace_all": partial(replace, count=-1),
    "onnx_file_of_another_program": partial(onnx_file, metadata={"author": "x"}),
    "weight_missing": partial(change_weights, dict.popitem),
    "weight_too_many": partial(change_weights, lambda tensors: tensors.update(more=torch.zeros(1))),
    "weight_of_another_size": partial(change_weights, resize),
    "checkpoint_of_another_model": partial(change_checkpoint, lambda objective: objective.popitem()),
    "checkpoint_of_another_size": partial(change_checkpoint, resize),
}


def read_damage(text: str) -> Callable[[Path], None]:
    """Return the damage that a cell of the table describes."""
    steps = [shlex.split(step.replace("\\", "\\\\")) for step in text.split(" + ")] if text else []

    def inflict(world: Path) -> None:
        for name, *arguments in steps:
            DAMAGES[name](*arguments, world)

    return inflict


def read_cases() -> dict[str, Case]:
    """Return the cases of the table beside this file."""
    with Path(__file__).with_suffix(".tsv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    cases = {row["case"]: Case(read_damage(row["damage"]), unescaped(row["command"]), row["message"]) for row in rows}
    assert len(cases) == len(rows), "a case stands twice"
    return cases
