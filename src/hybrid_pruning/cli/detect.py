"""Verbs for single recordings: detect, verify."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, app, finite
from hybrid_pruning.cli.score import Device, Window, Workers
from hybrid_pruning.console import Span, console, printable, say, say_row, takes_blocks
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.errors import InputError, first_line

if TYPE_CHECKING:
    import numpy.typing as npt

    from hybrid_pruning.scoring.streams import Stream, StreamVerdict


@app.command()
def detect(
    model: Annotated[
        str, Option(envvar="HYBRID_PRUNING_MODEL", help=f"exported: a folder, .onnx or .xml file, or {HUB_ID}")
    ],
    files: Annotated[
        list[str] | None, Argument(metavar="FILE", help="audio, folders, or - for a list on stdin", show_default=False)
    ] = None,
    threshold: Annotated[float, Option(callback=finite, help="LLR from which a file counts as bona fide")] = 0.0,
    as_json: Annotated[bool, Option("--json", help="one JSON object per line")] = False,
    fail_on_spoof: Annotated[bool, Option("--fail-on-spoof", help="exit with 3 where a file is spoofed")] = False,
    workers: Workers = 2,
    window_seconds: Annotated[
        float | None, Option(min=1.0, max=3600.0, help="longer audio is scored in windows up to this: 30, a stream 4")
    ] = None,
    device: Device = "auto",
    stream: Annotated[bool, Option("--stream", help="FILE is -: raw samples on stdin, judged as they come")] = False,
    microphone: Annotated[bool, Option("--microphone", help="listen to the microphone, without FILE")] = False,
    rate: Annotated[int, Option(help="of the samples of --stream, in Hz")] = 16_000,
    samples: Annotated[str, Option(help="of --stream, little-endian, one channel: s16 or f32")] = "s16",
    hop_seconds: Annotated[float, Option(callback=finite, help="of a stream: between verdicts")] = 1.0,
    false_alarms: Annotated[float, Option(callback=finite, help="of a stream: an hour, at most")] = 1.0,
) -> None:
    """Detect spoofed speech, file by file, or in a stream as it comes.

    LLR is the natural logarithm of how much likelier the audio is as bona fide speech than as a spoof. The threshold 0
    takes the likelier of the two. Where a share p of all files is spoofed, and a false acceptance costs c times as
    much as a false rejection, it is ln(c p / (1 - p)): -0.64 at the operating point of ASVspoof 5 (p = 0.05, c = 10).
    Both mean this for a calibrated model.

    Folders are searched for audio, subfolders too; hidden files are left out. A pipe gets one line a file: verdict,
    LLR, seconds, windows, path, separated by tabs. A file that cannot be read is one line on standard error; the
    others are scored all the same. Recordings longer than --window-seconds are cut into windows, as in score.

    A stream gets a line every --hop-seconds: seconds, verdict or undecided, LLR of all so far, LLR of the last window,
    alarm or -. At every multiple of --window-seconds the LLR is that of the audio so far as a file. The alarm is raised
    by a last window so unlikely of bona fide speech that --false-alarms an hour are the most to be expected, as far as
    the model is calibrated for such windows.

    Exit codes: 0 all scored; 2 something could not be read; 3 all scored, one at least is spoofed, and --fail-on-spoof
    was given.
    """
    if stream or microphone or not files:
        if stream == microphone or (files or []) != ["-"] * stream:
            raise InputError(
                "detect: give a file, a folder, - for a list on stdin; or --stream -, or --microphone alone"
            )
        listener = hp.stream(model, rate, window_seconds or 4.0, hop_seconds, threshold, false_alarms, device)
        spoofed = _listen(listener, _stdin(listener, samples) if stream else _microphone(listener), as_json)
        raise typer.Exit(3 if fail_on_spoof and spoofed else 0)
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
    with closing(hp.detect(detector, paths, workers, window_seconds or 30.0)) as found:
        for one in found:
            if isinstance(one, Unreadable):
                _complain(one.reason)
                problems += 1
                continue
            counts[one.verdict(threshold)] += 1
            if one.silent:
                _complain(f"warning: {one.path}: {NO_SPEECH}; its score says nothing")
            _show(as_json, one.record(threshold, calibrated), one.text(threshold, takes_blocks()), one.row(threshold))
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


def _listen(listener: "Stream", blocks: Iterator["npt.NDArray[Any]"], as_json: bool) -> bool:
    """Print the verdicts on a stream until it ends, or Ctrl-C, and return whether the last one is a spoof."""
    from hybrid_pruning.tasks import Label

    if listener.alarm_llr is None and not as_json:
        _complain("the model is not calibrated: its LLRs are rough, and there is no alarm (see calibrate)")
    last = None

    def show(verdict: "StreamVerdict") -> None:
        _show(as_json, verdict.record(), verdict.text(takes_blocks()), verdict.row())
        sys.stdout.flush()

    with suppress(KeyboardInterrupt):
        for block in blocks:
            for last in listener.feed(block):
                show(last)
    end = listener.finish()
    if end is None:
        raise InputError("the stream holds no samples")
    if last is None or end.seconds > last.seconds:
        show(end)
    return end.verdict == Label.SPOOF


def _stdin(listener: "Stream", form: str) -> Iterator["npt.NDArray[Any]"]:
    """Yield the samples on standard input, some at a time."""
    from hybrid_pruning.scoring.streams import SAMPLES, from_bytes

    if form not in SAMPLES:
        raise InputError(f"--samples {form}: expected {' or '.join(SAMPLES)}")
    size = max(1, listener.rate // 10) * int(SAMPLES[form][-1])
    while data := sys.stdin.buffer.read(size):
        yield from_bytes(data, form)


def _microphone(listener: "Stream") -> Iterator["npt.NDArray[Any]"]:
    """Yield samples of the microphone, without end."""
    try:
        import sounddevice
    except OSError as error:  # sounddevice is there, PortAudio is not
        raise InputError(f"--microphone: {error}; on Debian: apt install libportaudio2") from error
    try:
        with sounddevice.InputStream(listener.rate, channels=1, dtype="float32") as source:
            while True:
                block, _ = source.read(listener.rate // 10)
                yield block[:, 0]
    except sounddevice.PortAudioError as error:
        raise InputError(f"--microphone: cannot be opened ({first_line(error)}); is one plugged in?") from error


def _show(as_json: bool, record: dict[str, Any], text: list[Span], row: tuple[object, ...]) -> None:
    """Print a verdict as JSON, for a terminal, or for a pipe."""
    if as_json:
        say(json.dumps(record))
    elif console.is_terminal:
        say(*text)
    else:
        say_row(row)


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
    _show(as_json, found.record(threshold), found.text(threshold, takes_blocks()), found.row(threshold))
    if threshold is None and not as_json:
        _complain(f"{model} is not calibrated: no verdict without --threshold (see calibrate)")
    raise typer.Exit(3 if fail_on_different and found.verdict(threshold) == "different" else 0)
