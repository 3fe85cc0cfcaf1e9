"""Verbs for single recordings: detect, verify."""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, app, finite
from hybrid_pruning.cli.score import Device, Window, Workers
from hybrid_pruning.console import console, printable, say, say_row, takes_blocks
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.errors import InputError


@app.command()
def detect(
    files: Annotated[list[str], Argument(metavar="FILE", help="audio, folders, or - for a list on stdin")],
    model: Annotated[str, Option(envvar="HYBRID_PRUNING_MODEL", help=f"exported: a folder, .onnx file or {HUB_ID}")],
    threshold: Annotated[float, Option(callback=finite, help="LLR from which a file counts as bona fide")] = 0.0,
    as_json: Annotated[bool, Option("--json", help="one JSON object per line")] = False,
    fail_on_spoof: Annotated[bool, Option("--fail-on-spoof", help="exit with 3 where a file is spoofed")] = False,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
) -> None:
    """Detect spoofed speech, file by file.

    LLR is the natural logarithm of how much likelier the audio is as bona fide speech than as a spoof. The threshold 0
    takes the likelier of the two. Where a share p of all files is spoofed, and a false acceptance costs c times as
    much as a false rejection, it is ln(c p / (1 - p)): -0.64 at the operating point of ASVspoof 5 (p = 0.05, c = 10).
    Both mean this for a calibrated model.

    Folders are searched for audio, subfolders too; hidden files are left out. A pipe gets one line a file: verdict,
    LLR, seconds, windows, path, separated by tabs. A file that cannot be read is one line on standard error; the
    others are scored all the same. Recordings longer than --window-seconds are cut into windows, as in score.

    Exit codes: 0 all scored; 2 something could not be read; 3 all scored, one at least is spoofed, and --fail-on-spoof
    was given.
    """
    from hybrid_pruning.audio import NO_SPEECH
    from hybrid_pruning.data.manifest import hidden_line
    from hybrid_pruning.scoring.engine import load_embedder
    from hybrid_pruning.scoring.verdicts import Unreadable
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
                say(json.dumps(one.record(threshold, calibrated)))
            elif console.is_terminal:
                say(*one.text(threshold, takes_blocks()))
            else:
                say_row(one.row(threshold))
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


@app.command()
def verify(
    test: Annotated[Path, Argument(help="a recording")],
    enrol: Annotated[list[Path], Argument(help="one recording or more of the speaker it may be of")],
    model: Annotated[str, Option(envvar="HYBRID_PRUNING_MODEL", help=f"exported model: a folder or a {HUB_ID}")],
    threshold: Annotated[
        float | None,
        Option(callback=finite, help="score from which it is the same speaker; 0 where the model is calibrated"),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="one JSON object")] = False,
    fail_on_different: Annotated[bool, Option("--fail-on-different", help="exit with 3 where speakers differ")] = False,
    workers: Workers = 0,
    window_seconds: Window = 30.0,
    device: Device = "auto",
) -> None:
    """Compare a recording with those of a speaker, as score --trials does it.

    A calibrated model gives an LLR, the natural logarithm of how much likelier the recordings are of one speaker than
    of two. The threshold 0 takes the likelier of the two. Where a share p of all comparisons is of one speaker, and a
    false acceptance costs c times as much as a false rejection, it is ln(c (1 - p) / p).

    A model that is not calibrated gives a cosine or an AS-norm score, whose threshold differs from model to model:
    there is no verdict without --threshold (see calibrate).

    A pipe gets one line: verdict or -, score, its kind, TEST, ENROL..., with tabs between them.

    Exit codes: 0 compared; 2 something could not be read; 3 the speakers differ, and --fail-on-different was given.
    """
    from hybrid_pruning.scoring.engine import load_embedder

    keep_freed_memory()
    loaded = load_embedder(model, device)
    if threshold is None and loaded.calibration is not None:
        threshold = 0.0
    if threshold is None and fail_on_different:
        raise InputError(f"{model}: is not calibrated, and without --threshold there is no verdict to fail on")
    found = hp.verify(loaded, test, enrol, workers, window_seconds)
    if as_json:
        say(json.dumps(found.record(threshold)))
    elif console.is_terminal:
        say(*found.text(threshold, takes_blocks()))
    else:
        say_row(found.row(threshold))
    if threshold is None and not as_json:
        _complain(f"{model} is not calibrated: no verdict without --threshold (see calibrate)")
    raise typer.Exit(3 if fail_on_different and found.verdict(threshold) == "different" else 0)
