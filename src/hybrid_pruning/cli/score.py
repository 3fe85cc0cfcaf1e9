"""Verbs that use a model on lists of recordings: score, cohort, embed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, MOST_WORKERS, app
from hybrid_pruning.console import say, warn

MOST_SPEAKERS = 1_000_000

Device = Annotated[str, Option(help="cpu, cuda, cuda:1, mps; auto takes cuda where there is one, else cpu")]
Window = Annotated[float, Option(min=1.0, max=3600.0, help="longer audio is scored in windows up to this")]
Workers = Annotated[int, Option(min=0, max=MOST_WORKERS, help="threads that decode audio")]
BatchSize = Annotated[int, Option(min=1, max=4096, help="windows per batch at most, fewer where they are long")]
SkipBad = Annotated[bool, Option("--skip-bad", help="leave out audio that cannot be used")]
Cache = Annotated[
    Path | None, Option("--embeddings", help="keep embeddings in this file, and take those that are in it")
]


@app.command()
def score(
    model: Annotated[str, Argument(help=f"exported: a folder, .onnx or .xml file, or {HUB_ID}")],
    manifest: Annotated[Path, Argument(help="TSV with utt_id, path and label")],
    out: Annotated[Path, Option(help="score file to write")],
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    trials: Annotated[Path | None, Option(help="speaker verification: list of trials, labels in it ignored")] = None,
    enrol: Annotated[Path | None, Option(help="speakers of several files: SPEAKER f1,f2; spk2utt; manifest")] = None,
    cohort: Annotated[Path | None, Option(help="training manifest to centre and normalise with, this once")] = None,
    top_n: Annotated[int | None, Option(min=2, max=MOST_SPEAKERS, help="with --cohort: closest speakers; 300")] = None,
    no_norm: Annotated[bool, Option("--no-norm", help="centre with the cohort's mean, but no AS-norm")] = False,
    qualities: Annotated[bool, Option("--qualities", help="add quality measures, for calibrate to weigh")] = False,
    cache: Cache = None,
) -> dict[str, Any]:
    """Score every utterance, or with --trials every pair: higher is more bona fide, or more the same speaker.

    The scores stand in the manifest's order, or the list's. Cut off, a scoring goes on when called again with the same
    arguments: results so far are in OUT.partial. Audio that cannot be used stops nothing: all else is done and kept,
    OUT.failed.tsv lists it, and the exit code is 2. Mend it (and leave the manifest as it is) and call again, or leave
    it out with --skip-bad.

    An utterance longer than --window-seconds is cut into the fewest windows of equal length up to that, and taken as
    the mean of their embeddings; a shorter one is taken whole. A batch holds 120 s of audio at most, so memory does
    not grow with the length of the recordings.

    Trials: `label enrol test` (VoxCeleb), `enrol test label`, ASVspoof's, `enrol test`, or a TSV with a header; names
    may have .wav or .flac where the manifest has not. A score is the cosine of the embeddings, less the mean of the
    cohort, then AS-norm with its closest speakers, then calibration: as far as the model has them (see cohort,
    calibrate). With --cohort or --no-norm, which replace the model's, its calibration is left out.

    On several GPUs, or machines that share a disk:
    torchrun --nproc_per_node N -m hybrid_pruning.cli score ...
    """
    from hybrid_pruning import distributed as processes
    from hybrid_pruning.data.checks import check_scored
    from hybrid_pruning.scoring.resume import failures_of

    processes.start()
    processes.keep_freed_memory()
    options: dict[str, Any] = {"trials": trials, "enrol": enrol, "cohort": cohort, "top_n": top_n}
    options |= {"normalise": not no_norm, "qualities": qualities, "embeddings": cache}
    found = hp.score(model, manifest, out, batch_size, workers, window_seconds, device, skip_bad, **options)
    throughput = found.engine.throughput.of_all_processes()
    result = {"scores": str(out), "written": found.written, "left_out": found.left_out, **asdict(throughput)}
    if not processes.is_main():
        return result
    if found.left_out:
        scored = "utterances" if trials is None else "trials"
        warn(f"{found.left_out} of {found.left_out + found.written} {scored} are left out, see {failures_of(out)}")
    for warning in check_scored(found.engine.model.provenance, manifest):
        warn(warning)
    say(str(throughput))
    if trials is None:
        say(f"{out}: {found.written} scores; next: hybrid-pruning evaluate {out} {manifest} --track1")
    else:
        say(
            f"{out}: {found.written:,} scores of {found.recordings:,} recordings ({found.backend}); "
            f"next: hybrid-pruning evaluate {out} {trials} --sv"
        )
    return result


@app.command()
def cohort(
    model: Annotated[str, Argument(help=f"model for speaker verification: a folder, or with --out a {HUB_ID}")],
    manifest: Annotated[Path, Argument(help="training manifest; none of its speakers should be in the trials")],
    out: Annotated[Path | None, Option(help="write the model here and leave MODEL as it is")] = None,
    top_n: Annotated[int, Option(min=2, max=MOST_SPEAKERS, help="closest speakers that AS-norm takes")] = 300,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    cache: Cache = None,
    crop_seconds: Annotated[
        float | None, Option(min=0.01, max=600, help="embed one random crop of each recording, not all of it")
    ] = None,
    raw: Annotated[
        bool, Option("--raw", help="average a speaker's embeddings as they are, not at unit length")
    ] = False,
) -> dict[str, Any]:
    """Give a verification model its cohort, which centres embeddings and normalises scores.

    Kept in the model: the mean of the manifest's embeddings, and each of its speakers' (the mean of its centred
    embeddings of unit length; the public code's cohort is --crop-seconds 3 --raw). `score --trials` and `verify` then
    use them. A calibration that the model has is dropped, as it was fitted on other scores. Cut off, it goes on when
    called again: results so far are in MODEL.cohort.partial.
    """
    from hybrid_pruning import distributed as processes

    processes.start()
    processes.keep_freed_memory()
    options: dict[str, Any] = {"embeddings": cache, "crop_seconds": crop_seconds, "unit_length": not raw}
    found = hp.add_cohort(model, manifest, out, top_n, batch_size, workers, window_seconds, device, skip_bad, **options)
    target = model if out is None else out
    say(
        f"{target}: cohort of {len(found.speakers):,} speakers, the closest {top_n} count; next: hybrid-pruning score "
        f"{target} MANIFEST --trials TRIALS --qualities --out SCORES, then calibrate"
    )
    return {"model": str(target), "speakers": len(found.speakers), "top_n": top_n}


@app.command()
def embed(
    model: Annotated[str, Argument(help=f"exported: a folder, .onnx or .xml file, or {HUB_ID}")],
    manifest: Annotated[Path, Argument(help="TSV with utt_id, path and label")],
    out: Annotated[Path, Option(help="file to write: .npz (numpy), .ark (Kaldi, with .scp); any other: ours")],
    picture: Annotated[Path | None, Option(help="also draw them: .png, .svg or .pdf")] = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    skip_bad: SkipBad = False,
) -> dict[str, Any]:
    """Embed every utterance of a manifest, with a detector or a verifier: one vector each, as the model gives it.

    numpy: arrays `ids`, `embeddings` [N, E] and `seconds`. Kaldi: binary float vectors. Ours is the file that
    `score --embeddings` takes, and to which only what it lacks is added. Long utterances, audio that cannot be used,
    and an embedding that was cut off are as in `score`.

    --picture has the two principal components of the embeddings, coloured by bona fide and spoof, by attack or
    speaker where they are few.
    """
    from hybrid_pruning import distributed as processes
    from hybrid_pruning.data.manifest import read_manifest
    from hybrid_pruning.reporting.plots import format_of, save_figure
    from hybrid_pruning.reporting.scatter import draw_embeddings
    from hybrid_pruning.scoring.resume import failures_of

    processes.start()
    processes.keep_freed_memory()
    if picture is not None:
        format_of(picture)  # before the work
    found = hp.embed(model, manifest, out, batch_size, workers, window_seconds, device, skip_bad)
    utterances = read_manifest(manifest)
    left_out, width = len(utterances) - len(found.ids), found.vectors.shape[1]
    result = {"embeddings": str(out), "written": len(found.ids), "width": width, "left_out": left_out}
    if not processes.is_main():
        return result
    if left_out:
        warn(f"{left_out} of {len(utterances)} utterances are left out, see {failures_of(out)}")
    beside = f" and {out.with_suffix('.scp')}" if out.suffix == ".ark" else ""
    say(f"{out}{beside}: {len(found.ids):,} embeddings of width {width}")
    if picture is not None and found.ids:
        known = {utterance.utt_id: utterance for utterance in utterances}
        save_figure(draw_embeddings(found.vectors, [known[name] for name in found.ids]), picture)
        say(f"{picture}: their two principal components")
    return result
