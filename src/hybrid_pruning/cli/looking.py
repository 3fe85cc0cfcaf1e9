"""Verbs that only look: inspect, doctor."""

from typing import Annotated

import typer

from hybrid_pruning.cli.app import app


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="exported model: a folder or a hub id")],
) -> None:
    """Show what survived, layer by layer, as a heat map."""
    from hybrid_pruning import SpeechModel
    from hybrid_pruning.inspection import print_inspection

    print_inspection(SpeechModel.from_pretrained(model))


@app.command()
def doctor() -> None:
    """Print versions, devices, and which optional parts are present."""
    from hybrid_pruning.inspection import print_doctor

    print_doctor()
