"""The verb that hands a model on: card."""

from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app
from hybrid_pruning.console import say, warn
from hybrid_pruning.errors import InputError


@app.command()
def card(
    model: Annotated[str, typer.Argument(help="exported model: a folder, or a hub id with --out")],
    out: Annotated[Path | None, typer.Option(help="file to write; README.md of MODEL by default")] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FILE", help="what `evaluate --json` wrote; repeatable")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="the job of `run` that made MODEL: all its evaluations")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="what the card calls it; that of --push, or MODEL's folder")
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

    The card says what the model knows of itself, and the figures it is given;
    what is not known is left out. Read it, and write into it what only you
    know: a card that you edited is never written over without --force. A card
    that is there is published as it stands, unless you give more for it.

    --push sends config.json, weights, ONNX files and the card in one commit,
    and lists them before. config.json holds the recipe, its paths relative or
    names alone. The token is the one of `hf auth login`, or HF_TOKEN.

    In two steps:  card MODEL --run JOB --name USER/NAME, then card MODEL --push USER/NAME
    """
    from hybrid_pruning.models import artifact, hub
    from hybrid_pruning.models.card import Request, find_results, read_results, render_card, write_card
    from hybrid_pruning.models.speech_model import SpeechModel
    from hybrid_pruning.trees import portable

    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the card goes")
    if push is None and (private is not None or message is not None):
        raise InputError("card: --private, --public and --message go with --push")
    if push is not None:
        hub.check_repo_id(push)
    folder = artifact.locate(model)
    target = folder / hub.CARD if out is None else out
    found = SpeechModel.from_pretrained(folder)
    results = read_results(evaluation or [], [] if run is None else find_results(run, found.provenance))
    more = force or results or license_ or dataset or name
    if more or push is None or not target.is_file():
        title = name or push or (folder.resolve().name if folder == Path(model) else model)
        write_card(render_card(found, Request(title, results, license_, dataset or ())), target, force)
        say(f"{target}: written" + ("" if push else f"; next: hybrid-pruning card {model} --push USER/NAME"))
    if push is not None:
        _warn_of_another_name(target, push)
        if portable(found.provenance) != found.provenance:
            warn(f"{folder / artifact.CONFIG} names places of the machine that trained it")
        files = hub.published(folder, target)
        sizes = ", ".join(f"{name} ({path.stat().st_size:,} bytes)" for name, path in files.items())
        say(f"publishing to {push}: {sizes}")
        say(hub.upload(folder, push, target, private, message or hub.MESSAGE))


def _warn_of_another_name(card: Path, repo_id: str) -> None:
    """Say so where the lines that readers will copy from a card name another model."""
    if repo_id.encode() not in card.read_bytes():
        warn(f"{card} does not name {repo_id}: what readers copy from it may not work")
