"""The verb that hands a model on: card."""

from pathlib import Path
from typing import Annotated

import typer

import hybrid_pruning as hp
from hybrid_pruning.cli.app import app


@app.command()
def card(
    model: Annotated[str, typer.Argument(help="exported model: a folder, or a hub id with --out")],
    out: Annotated[Path | None, typer.Option(help="file to write; README.md of MODEL by default")] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FILE", help="file of `evaluate --json`; repeatable")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="the job of `run` that made MODEL: all its evaluations")] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="of the model in the card; that of --push, or MODEL's folder"),
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="of the weights, as the hub names it: apache-2.0, cc-by-4.0")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="hub id of a data set it was trained on; repeatable")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a card that somebody edited")] = False,
    push: Annotated[str | None, typer.Option(metavar="USER/NAME", help="publish model and card there")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="of a new repository; else as your settings are")
    ] = None,
    message: Annotated[str | None, typer.Option(help="of the commit")] = None,
) -> None:
    """Write a model card, and with --push publish the model on the Hugging Face hub.

    The card holds the facts that the model records, and the results it is
    given; nothing is invented. Read it and add to it: a card that you edited
    is never written over without --force. A card that is there is published
    as it stands, unless you give more for it.

    --push sends config.json, weights, ONNX files and the card in one commit,
    and lists them before. config.json holds the recipe, its paths relative or
    names alone. The token is the one of `hf auth login`, or HF_TOKEN.

    In two steps:  card MODEL --run JOB --name USER/NAME, then card MODEL --push USER/NAME
    """
    hp.card(model, out, evaluation or (), run, name, license_, dataset or (), force, push, private, message)
