"""Verbs for whole jobs: quickstart, run, sweep."""

from pathlib import Path
from typing import Annotated

import typer

import hybrid_pruning as hp
from hybrid_pruning.cli.app import Overrides, Share, app, changes
from hybrid_pruning.console import say
from hybrid_pruning.distributed import is_main, keep_freed_memory


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="where runs, models and scores go")] = Path("quickstart"),
    bonafide: Annotated[
        Path | None, typer.Option(help="a folder of recordings to use instead of Debian's packages")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="hub id or folder of a pretrained encoder, instead of a small one from scratch")
    ] = None,
) -> None:
    """Train dense and pruned detectors on real human speech and print them side by side.

    Fetches free recordings from Debian's packages (as an ordinary user, nothing is installed), makes spoofs of them by
    copy-synthesis, trains a small WavLM-shaped model twice, dense and pruned to 50%, and prints the table.
    """
    keep_freed_memory()
    hp.quickstart(out, bonafide, backbone)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe with `corpus` and `data.eval`, see recipes/")],
    out: Annotated[Path, typer.Option(help="folder of the job; called again, the job goes on there")],
    set_: Overrides = None,
    fraction: Share = None,
) -> None:
    """From a raw corpus to its table and report: prepare, train, export, score, calibrate, evaluate, report.

    A step whose result is there, and made from what it would be made from now,
    is skipped; a training that was cut off goes on where it was. A finished
    training is never done over: another recipe needs another --out.

    For speaker verification a set of `data.eval` needs its list in `data.trials`.
    The model is given its cohort of training speakers (AS-norm with the closest
    300, or all where they are fewer), a manifest under several names is embedded
    once, and scale and offset are fitted on the dev trials. Quality measures are
    not weighed, so that EER and minDCF are those of cosine and AS-norm: for that
    see `calibrate`, with the job's scores/dev.uncalibrated.tsv.

    Example: hybrid-pruning run recipes/asvspoof5/hp50.yaml --out jobs/hp50 --set corpus.root=/data/ASVspoof5
    """
    keep_freed_memory()
    report = hp.run(recipe, out, changes(set_, fraction))
    if is_main():
        say(f"{report}: finished; the model to ship is {out / 'model'}")


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe as `run` takes it, see recipes/")],
    sparsity: Annotated[str, typer.Option(help="fractions removed, 0 for the dense model: 0,0.5,0.7")],
    out: Annotated[Path, typer.Option(help="folder of the jobs; called again, it goes on there")],
    set_: Overrides = None,
    fraction: Share = None,
) -> None:
    """Run a recipe's whole job at several sparsities: one table and one plot of errors over size.

    Each value is a training of its own, in OUT/dense, OUT/hp50 and so on, as
    `run` does it; what is finished and current is skipped, and the manifests are
    prepared once. In a recipe with stages the value counts where a stage prunes;
    at 0 no stage does.

    Then OUT has sweep.md and sweep.tsv (sizes, EER and minDCF with 95%
    intervals), sweep.svg and sweep.png (EER and minDCF over parameters and
    multiply-accumulates, the paper's own points in grey behind ours where it has
    the evaluation set), and sweep.html, the report of all runs.

    With little data:
    hybrid-pruning sweep recipes/voxceleb/base.yaml --sparsity 0,0.5,0.7 --out sweeps/tenth --fraction 0.1
    """
    keep_freed_memory()
    table = hp.sweep(recipe, sparsity, out, changes(set_, fraction))
    if is_main():
        say(f"{table}: finished; the plot is {table.with_suffix('.png')}, the page {table.with_suffix('.html')}")
