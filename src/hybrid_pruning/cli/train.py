"""Verbs that make models: train, export."""

from pathlib import Path
from typing import Annotated

import typer

import hybrid_pruning as hp
from hybrid_pruning import distributed as processes
from hybrid_pruning.cli.app import Overrides, Share, app, changes, finite
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, see recipes/ and examples/")],
    out: Annotated[Path, typer.Option(help="new folder for configuration, log and checkpoints")],
    set_: Overrides = None,
    fraction: Share = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the run's last checkpoint")] = False,
) -> None:
    """Fine-tune and prune a model at the same time, as a recipe says.

    Example: hybrid-pruning train recipes/asvspoof5/base.yaml --out runs/hp70 --set pruning.target_sparsity=0.7
    """
    processes.start()
    processes.keep_freed_memory()
    hp.train(recipe, out, changes(set_, fraction), resume)
    if processes.is_main():
        say(f"{out}: finished; next: hybrid-pruning export {out} --out MODEL")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a training run; with --onnx also of an exported model")],
    out: Annotated[Path, typer.Option(help="new folder for the model")],
    average: Annotated[int, typer.Option(min=1, max=1000, help="checkpoints to average, counted from the last")] = 2,
    at: Annotated[
        float | None,
        typer.Option(callback=finite, metavar="SPARSITY", help="the snapshot of that sparsity, of pruning.export_at"),
    ] = None,
    family: Annotated[
        bool, typer.Option("--family", help="all snapshots and the last model, below --out as hp30, hp50, ...")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="write model.onnx and model.json instead")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="with --onnx: linear layers in 8 bits")] = False,
) -> None:
    """Cut the model down for real and write it: config.json and model.safetensors.

    With --onnx it becomes one graph with all its weights, model.onnx, and its
    description, model.json: `detect` and `score` run it without torch, and so
    does any other program that has ONNX Runtime. Inputs: wave [B, S] float32
    at 16 kHz, lengths [B] int64; outputs: embedding [B, E] and llr [B]. Calibrate
    before: the calibration becomes part of the graph. --out may be the model's
    own folder: both are then published together.

    Example: hybrid-pruning export runs/hp70 --family --out models
    """
    if int8 and not onnx:
        raise InputError("export: --int8 goes with --onnx")
    if family and (onnx or at is not None):
        raise InputError(
            "export: --family writes all snapshots, --at one of them, --onnx another form; give one of them"
        )
    if onnx:
        hp.export(run, out, average, at, onnx, int8)
        file = out / "model.onnx"
        say(f"{file}: {file.stat().st_size / 1e6:.1f} MB; next: hybrid-pruning score {file} MANIFEST.tsv ...")
        return
    models = hp.export_snapshots(run, out, average) if family else {out: hp.export(run, out, average, at)}
    from hybrid_pruning.reporting.inspection import describe_size

    for folder, model in models.items():
        say(f"{folder}: {describe_size(model)}; next: hybrid-pruning score {folder} MANIFEST.tsv ...")
