"""Verbs that use a model: score."""

import math
from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes cuda where there is one, else cpu")]
Window = Annotated[float, typer.Option(min=1.0, help="longer audio is scored in windows up to this")]
Workers = Annotated[int, typer.Option(min=0, help="threads that decode audio")]


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="exported model: a folder, a hub id or an .onnx file")],
    manifest: Annotated[Path, typer.Argument(help="TSV with utt_id, path and label")],
    out: Annotated[Path, typer.Option(help="score file to write")],
    batch_size: Annotated[int, typer.Option(min=1, help="windows per batch at most, fewer where they are long")] = 16,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out audio that cannot be used")] = False,
) -> None:
    """Score every utterance: log-likelihood ratios, higher is more bona fide.

    The scores stand in the manifest's order. Cut off, a scoring goes on when
    called again with the same arguments: what is done is kept in OUT.partial.
    Audio that cannot be used stops nothing: all else is scored and kept,
    OUT.failed.tsv lists it, and the exit code is 2. Mend it (and leave the
    manifest as it is) and call again, or leave it out with --skip-bad.

    An utterance longer than --window-seconds is cut into the fewest windows of
    equal length up to that, and classified by the mean of their embeddings; a
    shorter one is scored whole. A batch holds 120 s of audio at most, so memory
    does not grow with the length of the recordings.

    On several GPUs, or machines that share a disk:
    torchrun --nproc_per_node N -m hybrid_pruning.cli score ...
    """
    from hybrid_pruning import processes
    from hybrid_pruning.embedder import load_embedder
    from hybrid_pruning.jobs import Throughput
    from hybrid_pruning.memory import keep_freed_memory
    from hybrid_pruning.overlap import check_scored
    from hybrid_pruning.scoring import failures_of, score_file

    processes.start()
    keep_freed_memory()
    detector = load_embedder(model, device)
    throughput = Throughput()
    scores = score_file(detector, manifest, out, batch_size, workers, window_seconds, skip_bad, throughput)
    together = throughput.of_all_processes()
    if not processes.is_main():
        return
    left_out = sum(map(math.isnan, scores.tolist()))
    if left_out:
        typer.echo(f"warning: {left_out} of {len(scores)} utterances are left out, see {failures_of(out)}", err=True)
    for warning in check_scored(detector.provenance, manifest):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{together}")
    typer.echo(f"{out}: {len(scores) - left_out} scores; next: hybrid-pruning evaluate {out} {manifest} --track1")
