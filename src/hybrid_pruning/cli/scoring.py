"""Verbs that use a model: score."""

from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="exported model: a folder or a hub id")],
    manifest: Annotated[Path, typer.Argument(help="TSV with utt_id, path and label")],
    out: Annotated[Path, typer.Option(help="score file to write")],
    batch_size: Annotated[int, typer.Option(min=1, help="utterances per batch at most")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="processes that decode audio")] = 2,
) -> None:
    """Score every utterance: log-likelihood ratios, higher is more bona fide."""
    from hybrid_pruning import SpeechModel
    from hybrid_pruning.scoring import score_file

    scores = score_file(SpeechModel.from_pretrained(model), manifest, out, batch_size, workers)
    typer.echo(f"{out}: {len(scores)} scores; next: hybrid-pruning evaluate {out} {manifest} --track1")
