"""Verbs that change nothing: report, inspect, probe, benchmark, doctor."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, MOST_WORKERS, app
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError

LARGEST = 3600
"""Seconds of an utterance, and utterances at a time."""


@app.command()
def report(
    runs: Annotated[list[Path], Argument(help="folders of training runs, finished or not; the first is compared with")],
    out: Annotated[Path, Option(help="HTML page to write")] = Path("report.html"),
    scores: Annotated[
        list[str] | None,
        Option(metavar="[NAME=]FILE", help="scores of a further evaluation set, repeatable: in the runs' order"),
    ] = None,
    keys: Annotated[list[Path] | None, Option(help="their keys, for each --scores or for all; names the set")] = None,
    published: Annotated[str | None, Option(help="corpus whose published systems are shown too: asvspoof5")] = None,
    bootstrap: Annotated[int, Option(min=0, help="rounds of resampling for 95% intervals; 0 for none")] = 1000,
) -> None:
    """Make one page of one or more runs: metrics, errors, kept units, the course of the training.

    The page is one file that needs no network. Runs in progress are shown as far as they have come.

    Example: hybrid-pruning report runs/dense runs/hp50 --scores d.tsv --scores p.tsv --keys eval.tsv --out report.html
    """
    hp.report(runs, out, scores or [], keys or [], published, bootstrap)
    say(f"{out}: {len(runs)} run{'s' * (len(runs) > 1)}; open it in a browser")


@app.command()
def inspect(
    model: Annotated[str, Argument(help=f"finished run, or exported model: a folder or a {HUB_ID}")],
    out: Annotated[Path | None, Option(help="also draw it: a .svg, .png or .pdf file")] = None,
) -> Any:
    """Show the kept units, layer by layer, and the head's weight of each hidden state; with --out also a picture."""
    from hybrid_pruning.reporting.inspection import print_inspection

    found = hp.inspect_model(model, out)
    print_inspection(found)
    if out is not None:
        say(f"picture {out}")
    return found.as_json()


@app.command()
def probe(
    model: Annotated[str, Argument(help=f"finished run, exported model or encoder: a folder or a {HUB_ID}")],
    train: Annotated[Path, Argument(help="manifest that a classifier of each hidden state is fitted on")],
    dev: Annotated[Path, Argument(help="manifest that its EER is of")],
    trials: Annotated[
        Path | None, Option(help="verification: trials over DEV, by the cosine of means less TRAIN's mean")
    ] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda, mps, or e.g. cuda:1")] = "auto",
) -> Any:
    """Show what each hidden state of an encoder knows by itself: the EER of a linear classifier on it.

    The encoder is not trained. The features are mean and standard deviation over time.

    Example: hybrid-pruning probe openai/whisper-tiny train.tsv dev.tsv
    """
    from hybrid_pruning.reporting.probe import print_probe

    found = hp.probe(model, train, dev, trials, device=device)
    print_probe(found)
    return found.as_json()


@app.command()
def benchmark(
    models: Annotated[
        list[str], Argument(metavar="MODEL...", help=f"exported models: folders, .onnx and .xml files, {HUB_ID}")
    ],
    against: Annotated[
        str | None,
        Option(
            metavar="FOLDER_OR_ID",
            help=f"dense transformers model, a folder or a {HUB_ID}; the first MODEL's dense shape by default",
        ),
    ] = None,
    engines: Annotated[
        str,
        Option(
            metavar="A,B",
            help="of torch, onnx and openvino, torch-bf16, openvino-bf16, onnx-int8, openvino-int8; all installed ones",
        ),
    ] = "",
    seconds: Annotated[str, Option(help="lengths of utterances, separated by commas")] = "1,2,4",
    batch: Annotated[str, Option(help="how many at a time, separated by commas")] = "1",
    rounds: Annotated[int, Option(min=1, max=10_000, help="times that each is measured")] = 10,
    threads: Annotated[int, Option(min=1, max=MOST_WORKERS, help="that each computes with")] = 2,
    markdown: Annotated[bool, Option("--markdown", help="tables as Markdown, for a README")] = False,
) -> Any:
    """Measure size, latency and memory beside the dense model in transformers, all in one run.

    Each model goes through every engine: torch in float32 and bfloat16, ONNX Runtime in float32 and with 8-bit matrix
    products, OpenVINO in all three (exported for the occasion, 8 bits fitted to noise there). All take turns, so that
    other load on the machine falls on each: trust the ratios, not the milliseconds. The machine's own rates are
    measured too, and each time is compared with the limit that they set.

    Example: hybrid-pruning benchmark models/hp50 models/hp70 --seconds 4 --batch 1
    """
    from hybrid_pruning.benchmarks.comparison import print_table

    lengths = _numbers("--seconds", seconds)
    sizes = [round(number) for number in _numbers("--batch", batch)]
    names = [name.strip() for name in engines.split(",") if engines]
    found = hp.benchmark(models, against, names, lengths, sizes, rounds, threads)
    for table in found.tables():
        print_table(table, markdown)
    say(found.machine())
    return found.as_json()


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number <= LARGEST for number in numbers):
        raise InputError(f"{option} {text}: expected numbers above 0, up to {LARGEST}, separated by commas")
    return numbers


@app.command()
def doctor() -> None:
    """Print versions, devices, what is fast on them, and which optional parts are present."""
    from hybrid_pruning.reporting.doctor import print_doctor

    print_doctor()
