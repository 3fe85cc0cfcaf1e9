"""Runs, checkpoints, models and encoders with every damage: what the verbs that read them say."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load_file, save_file

from damage import cut, described, folder, link, removed, written
from foreign_files import write_encoder, write_whole
from hybrid_pruning.models.artifact import digest_of
from hybrid_pruning.models.onnx.runtime import DIGEST
from world import Case

EXPORT, RESUME = "export run --out new", "train run/config.yaml --out run --resume"
SCORE, INSPECT = "score model dev/manifest.tsv --workers 0 --out new.tsv", "inspect model"
CONVERT, ENCODER = "convert foreign --out new", "foreign/pytorch_model.bin"
TRAIN = "train recipe.yaml --out new"
WEIGHTS, CONFIG, CHECKPOINT = "model/model.safetensors", "model/config.json", "run/checkpoints/epoch-0001.pt"
DAMAGED = "epoch-0001.pt: (cannot be read as a checkpoint|is no checkpoint)|checkpoints: all checkpoints are damaged"
JSON = "model/config.json: "
SCORE_ONNX = SCORE.replace("model", "small.onnx", 1)


class Bomb:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def weighted(change: Callable[[dict[str, torch.Tensor]], Any], world: Path) -> None:
    """Change the model's tensors."""
    described(dict, world)
    tensors = load_file(world / WEIGHTS)
    change(tensors)
    save_file(tensors, world / WEIGHTS)


def checkpointed(change: Callable[[dict[str, Any]], Any], world: Path) -> None:
    """Change what the run's checkpoint holds."""
    state = torch.load(world / CHECKPOINT, weights_only=True)
    change(state)
    torch.save(state, world / CHECKPOINT)


def bomb(world: Path) -> None:
    torch.save({"objective": Bomb(), "epoch": 1, "step": 3}, world / CHECKPOINT)


def encoder_bomb(world: Path) -> None:
    (world / "wavlm" / "model.safetensors").unlink()
    torch.save({"weights": Bomb()}, world / "wavlm" / "pytorch_model.bin")


def foreign_bomb(world: Path) -> None:
    (world / "foreign").mkdir()
    torch.save({"state_dict": {}, "config": {"encoder_num_layers": Bomb()}}, world / ENCODER)


def foreign(damage: Callable[[Path], Any], world: Path) -> None:
    """Write a foreign encoder and damage it."""
    write_encoder(world / "foreign")
    damage(world)


def reconfigured(world: Path) -> None:
    """Let a foreign config say of a layer what its tensors do not."""
    content = torch.load(world / ENCODER, weights_only=True)
    content["config"]["encoder_ff_interm_features"][1] = 40
    torch.save(content, world / ENCODER)


def headless(world: Path) -> None:
    """Make an artifact that is an encoder alone."""
    described(lambda about: about.update(task="none"), world)


def whole(world: Path) -> None:
    write_whole(world / "foreign")
    (world / "foreign" / "config.yaml").write_text("model_args: {nb_layer: 13}\ndataset_args: {}\n")


def zip_of_nothing(world: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../exploded", "x")
    (world / CHECKPOINT).write_bytes(buffer.getvalue())


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() > 1)


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors[first(tensors)].view(-1)[:1].fill_(value)


def kept(text: str) -> Callable[[dict[str, Any]], Any]:
    return lambda about: about["backbone"]["kept"].update({"interm.0": text})


def edit(**changes: Any) -> Callable[[Path], None]:
    return partial(described, lambda about: about.update(changes))


def onnx_file(world: Path, metadata: dict[str, str] | None = None, version: int = 1) -> None:
    """Write an .onnx file of no use, with the metadata that ours have, and its description."""
    about = {"format": "hybrid-pruning onnx", "format_version": version, "task": "anti-spoofing", "provenance": {}}
    about |= {"minimum_samples": 400, "embedding_width": 4, "sample_rate_hz": 16_000}
    value = onnx.helper.make_tensor_value_info("wave", onnx.TensorProto.FLOAT, [None])
    other = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, [None])
    node = onnx.helper.make_node("Identity", ["wave"], ["embedding"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "graph", [value], [other]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.helper.set_model_props(model, {DIGEST: digest_of(about)} if metadata is None else metadata)
    onnx.save(model, world / "small.onnx")
    (world / "small.json").write_text(json.dumps(about))


def onnx_damaged(damage: Callable[[Path], None], world: Path) -> None:
    onnx_file(world)
    damage(world)


ARTIFACTS: dict[str, Case] = {
    "no run": Case(
        partial(removed, "run/architecture.json"), "export nowhere --out new", "nowhere: is no training run"
    ),
    "a run without its architecture": Case(
        partial(removed, "run/architecture.json"), EXPORT, "run: is no training run"
    ),
    "a run with half its architecture": Case(partial(cut, "run/architecture.json"), EXPORT, "run: is no training run"),
    "a run whose architecture is a list": Case(
        partial(written, "run/architecture.json", "[]"), EXPORT, "run: is no training run"
    ),
    "a run of another architecture": Case(
        partial(described, lambda about: about["head"].update(embedding=17), name="run/architecture.json"),
        EXPORT,
        "run/checkpoints/epoch-0001.pt|run: .*architecture",
    ),
    "a run without its recipe": Case(partial(removed, "run/config.yaml"), EXPORT, "run/config.yaml: cannot be read"),
    "a run without checkpoints": Case(partial(removed, CHECKPOINT), EXPORT, "run: 0 of 1 epochs are done"),
    "a checkpoint cut in half": Case(partial(cut, CHECKPOINT), EXPORT, DAMAGED),
    "a checkpoint cut in half, resumed": Case(partial(cut, CHECKPOINT), RESUME, DAMAGED),
    "an empty checkpoint": Case(partial(written, CHECKPOINT, ""), EXPORT, DAMAGED),
    "text for a checkpoint": Case(partial(written, CHECKPOINT, "no checkpoint"), EXPORT, DAMAGED),
    "a checkpoint that would run a command": Case(bomb, EXPORT, DAMAGED),
    "a checkpoint that would run a command, resumed": Case(bomb, RESUME, DAMAGED),
    "an archive for a checkpoint": Case(zip_of_nothing, EXPORT, DAMAGED),
    "a folder for a checkpoint": Case(partial(folder, CHECKPOINT), EXPORT, "epoch-0001.pt: cannot be read"),
    "a link to nothing for a checkpoint": Case(
        partial(link, CHECKPOINT, "nowhere.pt"), EXPORT, "epoch-0001.pt: cannot be read|0 of 1 epochs"
    ),
    "a checkpoint of another model": Case(
        partial(checkpointed, lambda state: state["objective"].popitem()), EXPORT, "epoch-0001.pt|run: .*belong"
    ),
    "a checkpoint with tensors of another size": Case(
        partial(checkpointed, lambda state: state["objective"].update({first(state["objective"]): torch.zeros(2, 2)})),
        EXPORT,
        "epoch-0001.pt|run: .*belong",
    ),
    "no model": Case(partial(removed, CONFIG), SCORE.replace("model", "/no/where", 1), "/no/where: neither a folder"),
    "an encoder for a model": Case(
        partial(removed, CONFIG), SCORE.replace("model", "wavlm", 1), "no hybrid-pruning art"
    ),
    "a model without its description": Case(partial(removed, CONFIG), SCORE, JSON + "cannot be read"),
    "a model without its weights": Case(partial(removed, WEIGHTS), SCORE, "model.safetensors: cannot be read"),
    "half a description": Case(partial(cut, CONFIG), INSPECT, JSON + "is not valid JSON"),
    "an empty description": Case(partial(written, CONFIG, ""), INSPECT, JSON + "is not valid JSON"),
    "a description that is no text": Case(partial(written, CONFIG, b"\xff\0"), INSPECT, JSON + "is not valid JSON"),
    "a description nested without end": Case(
        partial(written, CONFIG, "[" * 10**5), INSPECT, JSON + "is not valid JSON"
    ),
    "a list for a description": Case(
        partial(written, CONFIG, "[]"), INSPECT, JSON + "expected names with values, found list"
    ),
    "a folder for a description": Case(partial(folder, CONFIG), INSPECT, JSON + "cannot be read"),
    "a newer format": Case(edit(format_version=99), INSPECT, JSON + "format version 99, this program reads 1"),
    "a format version of text": Case(edit(format_version="1; x"), INSPECT, JSON + "format version 1; x"),
    "no head": Case(partial(described, lambda about: about.pop("head")), INSPECT, JSON + "cannot be understood"),
    "a head of another kind": Case(edit(head={"kind": "x"}), INSPECT, JSON + "cannot be understood"),
    "labels of other words": Case(edit(labels=["cat", "dog"]), SCORE, JSON + "cannot be understood"),
    "training counts below 0": Case(edit(training_counts=[-1, 2]), SCORE, JSON + "cannot be understood"),
    "a count too many": Case(edit(training_counts=[1, 2, 3]), SCORE, JSON + "cannot be understood"),
    "a backbone of another family": Case(
        partial(described, lambda about: about["backbone"]["config"].update(model_type="bert")), INSPECT, "bert"
    ),
    "kept units that are none": Case(partial(described, kept("x")), INSPECT, JSON + "cannot be understood"),
    "kept units beyond the last": Case(partial(described, kept("0-999999")), INSPECT, "interm.0|cannot be understood"),
    "kept units without end": Case(partial(described, kept("0-99999999999")), INSPECT, "interm.0|cannot be understood"),
    "kept units below 0": Case(partial(described, kept("-5")), INSPECT, "interm.0|cannot be understood"),
    "a slot that there is not": Case(
        partial(described, lambda about: about["backbone"]["kept"].update({"interm.99": "0-3"})),
        INSPECT,
        "interm.99|cannot",
    ),
    "half the weights": Case(partial(cut, WEIGHTS), SCORE, "model.safetensors: is damaged"),
    "empty weights": Case(partial(written, WEIGHTS, ""), SCORE, "model.safetensors: is damaged"),
    "a folder for weights": Case(partial(folder, WEIGHTS), SCORE, "model.safetensors: cannot be read"),
    "half the weights, for a card": Case(partial(cut, WEIGHTS), "card model", "model.safetensors: is damaged"),
    "a newer format, for a card": Case(edit(format_version=99), "card model", JSON + "format version 99"),
    "weights with a header without end": Case(
        partial(written, WEIGHTS, b"\xff" * 8 + b"{}"), SCORE, "model.safetensors: is damaged"
    ),
    "a weight missing": Case(partial(weighted, dict.popitem), SCORE, "config.json and model.safetensors do not belong"),
    "a weight too many": Case(
        partial(weighted, lambda tensors: tensors.update(more=torch.zeros(1))), SCORE, "do not belong together.*more"
    ),
    "a weight of another size": Case(
        partial(weighted, lambda tensors: tensors.update({first(tensors): torch.zeros(2, 2)})), SCORE, "do not belong"
    ),
    "weights that are nan": Case(partial(weighted, spoil(float("nan"))), SCORE, "model.safetensors: .*not finite"),
    "weights that are infinite": Case(
        partial(weighted, spoil(float("inf"))), INSPECT, "model.safetensors: .*not finite"
    ),
    "another program's .onnx file": Case(
        partial(onnx_file, metadata={"author": "x"}), SCORE_ONNX, "small.onnx: is another program's ONNX file"
    ),
    "half an .onnx file": Case(
        partial(onnx_damaged, partial(cut, "small.onnx")), SCORE_ONNX, "small.onnx: (cannot be loaded|is another pro)"
    ),
    "text for an .onnx file": Case(
        partial(written, "small.onnx", "no model\n"), SCORE_ONNX, "small.onnx: cannot be loaded .*is it whole"
    ),
    "an empty .onnx file": Case(partial(written, "small.onnx", ""), SCORE_ONNX, "small.onnx: (cannot be l|is another)"),
    "an .onnx file without its description": Case(
        partial(onnx_damaged, partial(removed, "small.json")), SCORE_ONNX, "small.json: cannot be read .*copy the two"
    ),
    "an .onnx file with half its description": Case(
        partial(onnx_damaged, partial(cut, "small.json")), SCORE_ONNX, "small.json: is not valid JSON"
    ),
    "an .onnx file with an artifact's description": Case(
        partial(onnx_damaged, lambda world: shutil.copy(world / CONFIG, world / "small.json")),
        SCORE_ONNX,
        "small.json: describes no .onnx file of ours",
    ),
    "an .onnx file with another's description": Case(
        partial(onnx_damaged, partial(described, lambda about: about.update(labels=["x"]), name="small.json")),
        SCORE_ONNX,
        "small.json: describes another model than small.onnx, or is damaged; copy",
    ),
    "an .onnx file with a description that lacks a key": Case(
        partial(onnx_damaged, partial(described, lambda about: about.pop("task"), name="small.json")),
        SCORE_ONNX,
        "small.json: cannot be understood .'task'",
    ),
    "an .onnx file of a newer format": Case(
        partial(onnx_file, version=9), SCORE_ONNX, "small.json: format version 9, this program reads 1"
    ),
    "an .onnx file on a GPU": Case(onnx_file, f"{SCORE_ONNX} --device cuda", "small.onnx runs on the CPU"),
    "an .onnx file to inspect": Case(onnx_file, "inspect small.onnx", "small.onnx: is a file; give the folder"),
    "an encoder that would run a command": Case(encoder_bomb, TRAIN, "pytorch_model.bin: the weights cannot be loaded"),
    "an encoder with half its weights": Case(
        partial(cut, "wavlm/model.safetensors"), TRAIN, "wavlm/model.safetensors: the weights cannot"
    ),
    "an encoder without its description": Case(partial(removed, "wavlm/config.json"), TRAIN, "wavlm: no transformers"),
    "an encoder with a broken description": Case(
        partial(cut, "wavlm/config.json"), TRAIN, "wavlm/config.json: .*no transformers model there"
    ),
    "a foreign file that would run a command": Case(foreign_bomb, CONVERT, "pytorch_model.bin: .*never run"),
    "a foreign file that would run a command, trained on": Case(
        foreign_bomb, f"{TRAIN} --set backbone.source=foreign", "pytorch_model.bin: .*never run"
    ),
    "a foreign file cut in half": Case(
        partial(foreign, partial(cut, ENCODER)), CONVERT, "pytorch_model.bin: is damaged or cut short"
    ),
    "text for a foreign file": Case(
        partial(foreign, partial(written, ENCODER, "no weights")), CONVERT, "pytorch_model.bin: is damaged"
    ),
    "a foreign config that contradicts the weights": Case(
        partial(foreign, reconfigured),
        CONVERT,
        r"layers.1.feed_forward.* is \[48, 32\], encoder_ff_interm_features in the config asks for \[40, 32\]",
    ),
    "a foreign encoder for a model": Case(
        partial(foreign, lambda _: None), SCORE.replace("model", ENCODER, 1), "an encoder alone, without head"
    ),
    "a foreign model beside another's recipe": Case(whole, CONVERT, "says nb_layer 13, the weights are of 4"),
    "an encoder alone, to score with": Case(headless, SCORE, "model: is an encoder alone, without head"),
    "no encoder": Case(partial(removed, CONFIG), f"{TRAIN} --set backbone.source=/no/where", "/no/where: no trans"),
}
