"""The verb for single files: detect."""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

import hybrid_pruning as hp
from hybrid_pruning.cli.app import app, finite
from hybrid_pruning.cli.score import Device, Window, Workers
from hybrid_pruning.console import printable, say, say_row, takes_blocks
from hybrid_pruning.errors import InputError


@app.command()
def detect(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="audio, folders, or - for a list on stdin")],
    model: Annotated[str, typer.Option(envvar="HYBRID_PRUNING_MODEL", help="a folder, a hub id or an .onnx file")],
    threshold: Annotated[float, typer.Option(callback=finite, help="LLR from which a file counts as bona fide")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
    fail_on_spoof: Annotated[bool, typer.Option("--fail-on-spoof", help="exit with 3 where a file is spoofed")] = False,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
) -> None:
    """Detect spoofed speech, file by file.

    LLR is the natural logarithm of how much likelier the audio is as bona fide
    speech than as a spoof. The threshold 0 takes the likelier of the two. Where
    a share p of all files is spoofed, and a false acceptance costs c times as
    much as a false rejection, it is ln(c p / (1 - p)): -0.64 at the operating
    point of ASVspoof 5 (p = 0.05, c = 10). Both mean this for a calibrated model.

    Folders are searched for audio, subfolders too; hidden files are left out. A
    pipe gets one line a file: verdict, LLR, seconds, windows, path, separated
    by tabs. A file that cannot be read is one line on standard error; the
    others are scored all the same.
    Recordings longer than --window-seconds are cut into windows, as in score.

    Exit codes: 0 all scored; 2 something could not be read; 3 all scored, one
    at least is spoofed, and --fail-on-spoof was given.
    """
    from hybrid_pruning.audio import NO_SPEECH
    from hybrid_pruning.console import console
    from hybrid_pruning.data.manifest import hidden_line
    from hybrid_pruning.distributed import keep_freed_memory
    from hybrid_pruning.scoring.engine import load_embedder
    from hybrid_pruning.scoring.verdicts import Unreadable, as_record, as_row, as_text
    from hybrid_pruning.tasks import Label

    keep_freed_memory()
    detector = load_embedder(model, device)
    if detector.task == "speaker-verification":
        raise InputError(f"{model}: is for speaker verification; it compares recordings, see verify")
    calibrated = detector.calibration is not None
    if not calibrated and not as_json:
        _complain(
            f"{model} is not calibrated: its LLRs rank files, their size and the threshold are rough (see calibrate)"
        )
    hidden: list[str] = []
    paths, problems = _find(files, hidden)
    for line in hidden_line(hidden):
        _complain(line)
    counts = dict.fromkeys(Label, 0)
    with closing(hp.detect(detector, paths, workers, window_seconds)) as found:
        for one in found:
            if isinstance(one, Unreadable):
                _complain(one.reason)
                problems += 1
                continue
            counts[one.verdict(threshold)] += 1
            if one.silent:
                _complain(f"warning: {one.path}: {NO_SPEECH}; its score says nothing")
            if as_json:
                say(json.dumps(as_record(one, threshold, calibrated)))
            elif console.is_terminal:
                say(*as_text(one, threshold, takes_blocks()))
            else:
                say_row(as_row(one, threshold))
    if console.is_terminal and not as_json and sum(counts.values()) > 1:
        unread = f", {problems} could not be read" if problems else ""
        say(f"{counts[Label.BONAFIDE]} bona fide, {counts[Label.SPOOF]} spoofed{unread}; threshold {threshold:g}")
    raise typer.Exit(2 if problems else 3 if fail_on_spoof and counts[Label.SPOOF] else 0)


def _find(names: Sequence[str], hidden: list[str]) -> tuple[list[Path], int]:
    """Return the audio files that the arguments stand for, and how many of these stood for none."""
    from hybrid_pruning.scoring.verdicts import find_audio

    paths: list[Path] = []
    problems = 0
    for argument in names:
        listed = argument == "-"
        for name in (line.rstrip("\r\n") for line in sys.stdin if line.strip()) if listed else (argument,):
            try:
                paths += find_audio(name, hidden)
            except InputError as error:
                _complain(str(error))
                problems += 1
    return paths, problems


def _complain(message: str) -> None:
    """Print a line on standard error."""
    say(f"hybrid-pruning: {printable(message)}", error=True)
