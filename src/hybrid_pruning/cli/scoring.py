"""Verbs that use a model and judge it: score, evaluate."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app
from hybrid_pruning.errors import InputError


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
    from hybrid_pruning.checks import check_scored
    from hybrid_pruning.scoring import score_file

    detector = SpeechModel.from_pretrained(model)
    scores = score_file(detector, manifest, out, batch_size, workers)
    for warning in check_scored(detector.provenance, manifest):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{out}: {len(scores)} scores; next: hybrid-pruning evaluate {out} {manifest} --track1")


@app.command()
def evaluate(
    scores: Annotated[Path, typer.Argument(help="score file")],
    keys: Annotated[Path, typer.Argument(help="key file, manifest, or the corpus's own protocol or trial list")],
    track1: Annotated[bool, typer.Option("--track1", help="anti-spoofing: EER, minDCF, actDCF, Cllr")] = False,
    track2: Annotated[bool, typer.Option("--track2", help="spoofing-robust verification: a-DCF, t-DCF, t-EER")] = False,
    sv: Annotated[bool, typer.Option("--sv", help="speaker verification: EER, minDCF at 0.01 and 0.05")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="also write the figures here, as fractions")] = None,
) -> None:
    """Compare scores with the truth: EER, minDCF and their kin, as the challenges define them."""
    from hybrid_pruning import evaluation
    from hybrid_pruning.files import atomic_write

    if track1 + track2 + sv != 1:
        raise InputError("evaluate: choose one of --track1, --track2, --sv")
    measure = evaluation.evaluate_track1 if track1 else evaluation.evaluate_track2 if track2 else evaluation.evaluate_sv
    result = measure(scores, keys)
    if json_ is not None:
        with atomic_write(json_) as handle:
            json.dump(result, handle, indent=1)
    evaluation.print_table(result)
    for warning in evaluation.find_warnings(result):
        typer.echo(f"warning: {warning}", err=True)
