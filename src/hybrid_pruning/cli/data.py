"""Verbs that make manifests: prepare."""

from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app
from hybrid_pruning.errors import InputError


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="asvspoof5")],
    root: Annotated[Path, typer.Option(help="the folder the corpus was unpacked in")],
    out: Annotated[Path, typer.Option(help="folder for the manifests")],
) -> None:
    """Turn a corpus's own protocol files into manifests, one per part."""
    from hybrid_pruning.corpora import PREPARE

    if corpus not in PREPARE:
        raise InputError(f"prepare: corpus '{corpus}' is unknown; known are {', '.join(PREPARE)}")
    for part, manifest in PREPARE[corpus](root, out).items():
        typer.echo(f"{part}: {manifest}")
