"""Verbs that train: whole jobs (quickstart, run, sweep), and their parts train and export."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, app, finite
from hybrid_pruning.console import say, say_table
from hybrid_pruning.distributed import is_main, keep_freed_memory, start
from hybrid_pruning.errors import InputError
from hybrid_pruning.trees import read_json

Overrides = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="overrule the recipe, repeatable")]
Share = Annotated[
    float | None,
    Option(callback=finite, help="train on this share of the data, drawn by the seed: data.fraction, 0 to 1"),
]
SIZES = ("params", "dense_params", "sparsity", "macs", "dense_macs", "macs_sparsity")
JobOut = Annotated[Path, Option(help="folder of the job, or of the jobs; called again, it goes on there")]


def changes(overrides: list[str] | None, fraction: float | None) -> list[str]:
    """Return the changes to a recipe, as `--set` takes them."""
    return [*(overrides or []), *([] if fraction is None else [f"data.fraction={fraction}"])]


@app.command()
def quickstart(
    files: Annotated[list[str] | None, Argument(metavar="FILE", help="audio or folders for a verdict")] = None,
    out: Annotated[Path, Option(help="folder for runs, models and scores")] = Path("quickstart"),
    bonafide: Annotated[Path | None, Option(help="a folder of recordings to use instead of Debian's packages")] = None,
    backbone: Annotated[
        str | None, Option(help=f"a pretrained encoder instead of Whisper tiny's: a folder or a {HUB_ID}")
    ] = None,
    from_scratch: Annotated[bool, Option("--from-scratch", help="a small encoder with random weights")] = False,
) -> dict[str, Any]:
    """Train a dense and two pruned detectors on real human speech, print them side by side, and judge files.

    Fetches free recordings from Debian's packages (as an ordinary user, nothing is installed) and makes spoofs of them
    by copy-synthesis. Whisper tiny's encoder, which comes along, is fine-tuned, pruned to 50% and to 70% with that
    network as its teacher, and healed; all three are calibrated, scored and timed. Each FILE then gets a verdict by the
    smallest, as `detect` gives it; without one a held-out clip and its fake do.

    Example: hybrid-pruning quickstart clip.wav
    """
    keep_freed_memory()
    return hp.quickstart(out, bonafide, backbone, files=files or (), from_scratch=from_scratch)


@app.command()
def run(
    recipe: Annotated[Path, Argument(help="YAML recipe with `corpus` and `data.eval`, see recipes/")],
    out: JobOut,
    set_: Overrides = None,
    fraction: Share = None,
) -> dict[str, Any]:
    """From a raw corpus to its table and report: prepare, train, export, score, calibrate, evaluate, report.

    A step whose result is there, made from the same inputs and settings, is skipped; a training that was cut off
    goes on where it was. A finished training is never done over: another recipe needs another --out.

    Over several sets of `data.eval` the mean EER and that of all scores together are printed too.

    For speaker verification a set of `data.eval` needs its list in `data.trials`. The model is given its cohort of
    training speakers (AS-norm with the closest 300, or all where they are fewer), a manifest under several names is
    embedded once, and scale and offset are fitted on the dev trials. Quality measures are not weighed, so that EER and
    minDCF are those of cosine and AS-norm: for that see `calibrate`, with the job's scores/dev.uncalibrated.tsv.

    Example: hybrid-pruning run recipes/asvspoof5/hp50.yaml --out jobs/hp50 --set corpus.root=/data/ASVspoof5
    """
    keep_freed_memory()
    report = hp.run(recipe, out, changes(set_, fraction))
    if not is_main():
        return {}
    say(f"{report}: finished; the model to ship is {out / 'model'}")
    figures = {path.stem: read_json(path) for path in sorted((out / "evaluation").glob("*.json"))}
    return {"report": str(report), "model": str(out / "model"), "evaluation": figures}


@app.command()
def sweep(
    recipe: Annotated[Path, Argument(help="YAML recipe as `run` takes it, see recipes/")],
    sparsity: Annotated[str, Option(help="fractions removed, 0 for the dense model: 0,0.5,0.7")],
    out: JobOut,
    method: Annotated[
        str | None, Option(metavar="A,B", help="ways to prune, of pruning.method; by default the recipe's")
    ] = None,
    seed: Annotated[str | None, Option(metavar="1,2,3", help="trainings of each, for means and intervals")] = None,
    vary: Annotated[
        list[str] | None, Option(metavar="KEY=A,B", help="a key of the recipe, its values as in --set, repeatable")
    ] = None,
    only: Annotated[
        str | None, Option(metavar="NAME,...", help="run these cells alone, * for any letters: '*-s1'")
    ] = None,
    list_: Annotated[bool, Option("--list", help="print the cells and how far each is, and run nothing")] = False,
    set_: Overrides = None,
    fraction: Share = None,
) -> dict[str, Any]:
    """Run a recipe's whole job over a grid, sparsities x methods x seeds x any key: one table, one plot.

    Each cell is a job of its own, in OUT/dense, OUT/taylor-hp70-s2 and so on, as `run` does it. Finished and current
    steps are skipped, and the manifests are prepared once. Of a recipe with stages, values of `pruning` count where a
    stage prunes; at sparsity 0 no stage does. A stage that begins several cells in the same way is trained once.

    Split it with --only, over processes with the same OUT or over machines whose OUT are then joined. Each call ends
    with a table of all cells that are finished.

    OUT then has sweep.tsv (each cell's figures, with its command), sweep.md (means over seeds, 95% intervals over seeds
    and speakers, differences from the dense model of the same seed), sweep.svg and sweep.png (errors over parameters
    and multiply-accumulates, the paper's own points in grey where it has the evaluation set) and, of a sweep over
    sparsities alone, sweep.html, the report of all runs.

    Example:
    hybrid-pruning sweep recipe.yaml --sparsity 0,0.5,0.7 --method joint,taylor --seed 1,2,3 --out sweeps/methods
    """
    keep_freed_memory()
    methods, seeds, names = (() if given is None else given for given in (method, seed, only))
    overrides = changes(set_, fraction)
    if list_:
        from hybrid_pruning.config import load_config
        from hybrid_pruning.jobs.grid import choose, lay_out, parse_axes
        from hybrid_pruning.jobs.sweep import list_cells

        axes = parse_axes(sparsity, methods, seeds, vary or ())
        cells = list_cells(choose(lay_out(load_config(recipe, overrides), axes), names), out)
        say_table(replace(cells, note=""), box="none")
        say(cells.note)
        return {"cells": {str(cell): str(state) for cell, state in cells.rows}}
    table = hp.sweep(recipe, sparsity, out, overrides, methods, seeds, vary or (), names)
    if not is_main():
        return {}
    from hybrid_pruning.data.tables import read_rows

    say(f"{table}: finished; the plot is {table.with_suffix('.png')}")
    return {"table": str(table), "rows": [row for _, row in read_rows(out / "sweep.tsv", ())]}


@app.command()
def train(
    recipe: Annotated[Path, Argument(help="YAML recipe, see recipes/ and examples/")],
    out: Annotated[Path, Option(help="new folder for configuration, log and checkpoints")],
    set_: Overrides = None,
    fraction: Share = None,
    resume: Annotated[bool, Option("--resume", help="continue from the run's last checkpoint")] = False,
) -> dict[str, Any]:
    """Fine-tune and prune a model at the same time, as a recipe says.

    Example: hybrid-pruning train recipes/asvspoof5/base.yaml --out runs/hp70 --set pruning.target_sparsity=0.7
    """
    start()
    keep_freed_memory()
    hp.train(recipe, out, changes(set_, fraction), resume)
    if not is_main():
        return {}
    from hybrid_pruning.reporting.run_files import read_runs

    say(f"{out}: finished; next: hybrid-pruning export {out} --out MODEL")
    (found,) = read_runs([out])
    return {"run": str(out), "epochs": found.epochs[0], **found.log.validations[-1]}


@app.command()
def export(
    run: Annotated[Path, Argument(help="folder of a training run; for a graph also of an exported model")],
    out: Annotated[Path, Option(help="new folder for the model")],
    average: Annotated[
        int | None,
        Option(min=1, max=1000, help="last checkpoints to average, by default the recipe's training.average"),
    ] = None,
    at: Annotated[
        float | None,
        Option(callback=finite, metavar="SPARSITY", help="the snapshot of that sparsity, of pruning.export_at"),
    ] = None,
    family: Annotated[bool, Option("--family", help="all snapshots and the last model, as OUT/hp30, OUT/hp50")] = False,
    onnx: Annotated[bool, Option("--onnx", help="write model.onnx and model.json instead")] = False,
    int8: Annotated[bool, Option("--int8", help="with --onnx: linear layers in 8 bits")] = False,
    openvino: Annotated[
        bool, Option("--openvino", help="write openvino.xml, openvino.bin and openvino.json instead")
    ] = False,
    precision: Annotated[
        str | None, Option(metavar="f32|bf16|int8", help="with --openvino: of products, f32 by default")
    ] = None,
    calibrate: Annotated[
        Path | None,
        Option(metavar="MANIFEST", help="with --precision int8: real speech, by default what was trained on"),
    ] = None,
) -> dict[str, Any]:
    """Cut the model down for real and write it: config.json and model.safetensors.

    With --onnx it becomes one graph with all its weights, model.onnx, and its description, model.json: `detect` and
    `score` run it without torch, and so does any other program that has ONNX Runtime. Inputs: wave [B, S] float32 at
    16 kHz, lengths [B] int64; outputs: embedding [B, E] and llr [B]. Calibrate before: the calibration becomes part of
    the graph. --out may be the model's own folder: both are then published together.

    With --openvino that graph is written for OpenVINO, which computes it in bfloat16 (bf16) where the processor has it.
    Linear layers in 8 bits (int8) take the ranges of their inputs from 64 recordings of a manifest.

    Example: hybrid-pruning export runs/hp70 --family --out models
    """
    if int8 and not onnx:
        raise InputError("export: --int8 goes with --onnx")
    if onnx and openvino:
        raise InputError("export: --onnx and --openvino write two graphs; call it once for each")
    if precision is not None and not openvino:
        raise InputError("export: --precision goes with --openvino")
    if calibrate is not None and precision != "int8":
        raise InputError("export: --calibrate goes with --openvino --precision int8")
    if family and (onnx or openvino or at is not None):
        raise InputError(
            "export: --family writes all snapshots, --at one of them, --onnx and --openvino another form; give one of "
            "them"
        )
    if onnx or openvino:
        from hybrid_pruning.models.onnx.runtime import files_of

        hp.export(run, out, average, at, onnx, int8, openvino, precision or "f32", calibrate)
        file = out / ("openvino.xml" if openvino else "model.onnx")
        size = sum(path.stat().st_size for path in files_of(file))
        say(f"{file}: {size / 1e6:.1f} MB; next: hybrid-pruning score {file} MANIFEST.tsv ...")
        return {"file": str(file), "bytes": size}
    models = hp.export_snapshots(run, out, average) if family else {out: hp.export(run, out, average, at)}
    from hybrid_pruning.models.size import count_kept
    from hybrid_pruning.reporting.inspection import describe_size

    sizes = {}
    for folder, model in models.items():
        say(f"{folder}: {describe_size(model)}; next: hybrid-pruning score {folder} MANIFEST.tsv ...")
        found = count_kept(model.backbone).budget
        sizes[str(folder)] = {name: float(getattr(found, name)) for name in SIZES}
    return sizes
