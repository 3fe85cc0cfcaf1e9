"""Runs, checkpoints, models and encoders with every damage, and the line with which a verb refuses each.

The cases stand in bad_artifacts.tsv. Their damages are functions of this file and their arguments, joined by ` + `.
"""

import io
import json
import os
import shlex
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from safetensors.torch import load_file, save_file

import damage
from foreign_files import write_encoder, write_whole
from hybrid_pruning.models.artifact import digest_of
from hybrid_pruning.models.onnx.runtime import DIGEST
from world import Case, read_cases

WEIGHTS, CONFIG, CHECKPOINT = "model/model.safetensors", "model/config.json", "run/checkpoints/epoch-0001.pt"
ENCODER = "foreign/pytorch_model.bin"
Tensors = dict[str, torch.Tensor]


def written(name: str, text: str, world: Path) -> None:
    """Write a file of that text, in which backslashes begin escapes."""
    damage.written(name, text.encode().decode("unicode_escape").encode("latin-1"), world)


def link(name: str, target: str, world: Path) -> None:
    (world / name).unlink(missing_ok=True)
    (world / name).symlink_to(target)


def copy(source: str, name: str, world: Path) -> None:
    shutil.copy(world / source, world / name)


def assign(name: str, key: str, value: str, world: Path) -> None:
    """Set a key of a JSON file, whose parents stand before it with slashes between."""
    *parents, last = key.split("/")

    def change(tree: dict[str, Any]) -> None:
        for parent in parents:
            tree = tree[parent]
        tree[last] = yaml.safe_load(value)

    damage.described(change, world, name)


def drop(name: str, key: str, world: Path) -> None:
    damage.described(lambda about: about.pop(key), world, name)


def nested(world: Path) -> None:
    damage.written(CONFIG, "[" * 10**5, world)


def first(tensors: Tensors) -> str:
    return next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() > 1)


def change_weights(change: Callable[[Tensors], Any], world: Path) -> None:
    damage.described(dict, world)
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
    torch.save({"objective": damage.Bomb(), "epoch": 1, "step": 3}, world / CHECKPOINT)


def encoder_bomb(world: Path) -> None:
    (world / "wavlm" / "model.safetensors").unlink()
    torch.save({"weights": damage.Bomb()}, world / "wavlm" / "pytorch_model.bin")


def foreign_bomb(world: Path) -> None:
    (world / "foreign").mkdir()
    torch.save({"state_dict": {}, "config": {"encoder_num_layers": damage.Bomb()}}, world / ENCODER)


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


def onnx_file_of_another_program(world: Path) -> None:
    onnx_file(world, metadata={"author": "x"})


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


DAMAGES: dict[str, Callable[..., None]] = {
    **{damaging.__name__: damaging for damaging in (damage.removed, damage.cut, damage.folder)},
    **{name: found for name, found in globals().items() if callable(found)},
    "set": assign,
    "weight_missing": partial(change_weights, dict.popitem),
    "weight_too_many": partial(change_weights, lambda tensors: tensors.update(more=torch.zeros(1))),
    "weight_of_another_size": partial(change_weights, resize),
    "checkpoint_of_another_model": partial(change_checkpoint, lambda objective: objective.popitem()),
    "checkpoint_of_another_size": partial(change_checkpoint, resize),
}


def read_damage(text: str) -> Callable[[Path], None]:
    """Return the damage that a cell of the table describes."""
    steps = [shlex.split(step.replace("\\", "\\\\")) for step in text.split(" + ")]

    def inflict(world: Path) -> None:
        for name, *arguments in steps:
            DAMAGES[name](*arguments, world)

    return inflict


ARTIFACTS: dict[str, Case] = {
    "a name that commands the terminal": Case(
        oddly_named, "inspect model\x1b[2J", r"model\\x1b\[2J/config.json: cannot be"
    ),
    "a name that is no text": Case(oddly_named, "inspect \udcff", r"\\udcff/config.json: cannot be read"),
} | {
    row["case"]: Case(read_damage(row["damage"]), row["command"], row["message"])
    for row in read_cases("bad_artifacts.tsv")
}
