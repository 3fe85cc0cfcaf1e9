"""The verb for two recordings: verify."""

import json
from pathlib import Path
from typing import Annotated

import typer

import hybrid_pruning as hp
from hybrid_pruning.cli.app import app, finite
from hybrid_pruning.cli.score import Device, Window, Workers
from hybrid_pruning.console import console, say, say_row, takes_blocks


@app.command()
def verify(
    test: Annotated[Path, typer.Argument(help="a recording")],
    enrol: Annotated[list[Path], typer.Argument(help="one recording or more of the speaker it may be of")],
    model: Annotated[str, typer.Option(envvar="HYBRID_PRUNING_MODEL", help="exported model: a folder or a hub id")],
    threshold: Annotated[
        float | None,
        typer.Option(callback=finite, help="score from which it is the same speaker; 0 where the model is calibrated"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    fail_on_different: Annotated[
        bool, typer.Option("--fail-on-different", help="exit with 3 where the speakers differ")
    ] = False,
    workers: Workers = 0,
    window_seconds: Window = 30.0,
    device: Device = "auto",
) -> None:
    """Compare a recording with those of a speaker, as score --trials does it.

    A calibrated model gives an LLR, the natural logarithm of how much likelier
    the recordings are of one speaker than of two. The threshold 0 takes the
    likelier of the two. Where a share p of all comparisons is of one speaker,
    and a false acceptance costs c times as much as a false rejection, it is
    ln(c (1 - p) / p).

    A model that is not calibrated gives a cosine or an AS-norm score, whose
    threshold differs from model to model: there is no verdict without
    --threshold (see calibrate).

    A pipe gets one line: verdict or -, score, its kind, TEST, ENROL..., with
    tabs between them.

    Exit codes: 0 compared; 2 something could not be read; 3 the speakers
    differ, and --fail-on-different was given.
    """
    from hybrid_pruning.distributed import keep_freed_memory
    from hybrid_pruning.scoring.engine import load_embedder
    from hybrid_pruning.scoring.verdicts import match_record, match_row, match_text

    keep_freed_memory()
    loaded = load_embedder(model, device)
    if threshold is None and loaded.calibration is not None:
        threshold = 0.0
    if threshold is None and fail_on_different:
        raise hp.InputError(f"{model}: is not calibrated, and without --threshold there is no verdict to fail on")
    found = hp.verify(loaded, test, enrol, workers, window_seconds)
    if as_json:
        say(json.dumps(match_record(found, threshold)))
    elif console.is_terminal:
        say(*match_text(found, threshold, takes_blocks()))
    else:
        say_row(match_row(found, threshold))
    if threshold is None and not as_json:
        say(f"hybrid-pruning: {model} is not calibrated: no verdict without --threshold (see calibrate)", error=True)
    raise typer.Exit(3 if fail_on_different and found.verdict(threshold) == "different" else 0)
