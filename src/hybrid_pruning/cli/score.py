"""Verbs that use a model on lists of recordings: score, cohort."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_pruning.cli.app import MOST_WORKERS, app
from hybrid_pruning.console import say, warn
from hybrid_pruning.errors import InputError

if TYPE_CHECKING:
    from hybrid_pruning.scoring.batching import Throughput
    from hybrid_pruning.scoring.embedder import Embedder
    from hybrid_pruning.scoring.inference import Options

MOST_SPEAKERS = 1_000_000

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes cuda where there is one, else cpu")]
Window = Annotated[float, typer.Option(min=1.0, max=3600.0, help="longer audio is scored in windows up to this")]
Workers = Annotated[int, typer.Option(min=0, max=MOST_WORKERS, help="threads that decode audio")]
BatchSize = Annotated[int, typer.Option(min=1, max=4096, help="windows per batch at most, fewer where they are long")]
Cache = Annotated[
    Path | None, typer.Option("--embeddings", help="keep embeddings in this file, and take those that are in it")
]
TopN = Annotated[int, typer.Option(min=2, max=MOST_SPEAKERS, help="closest speakers of the cohort that AS-norm takes")]


@dataclass(frozen=True)
class _Comparing:
    """What speaker verification adds to a scoring, as it was typed."""

    trials: Path | None
    enrol: Path | None
    cohort: Path | None
    top_n: int | None
    no_norm: bool
    qualities: bool
    cache: Path | None

    def check(self) -> None:
        """Require what goes together."""
        given = {
            "--enrol": self.enrol,
            "--cohort": self.cohort,
            "--no-norm": self.no_norm,
            "--qualities": self.qualities,
            "--embeddings": self.cache,
        }
        if self.top_n is not None and self.cohort is None:
            raise InputError("score: --top-n goes with --cohort; that of a model's own cohort is in the model")
        alone = [name for name, value in given.items() if value]
        if alone and self.trials is None:
            raise InputError(f"score: {alone[0]} goes with --trials, for a model for speaker verification")


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="exported model: a folder, a hub id or an .onnx file")],
    manifest: Annotated[Path, typer.Argument(help="TSV with utt_id, path and label")],
    out: Annotated[Path, typer.Option(help="score file to write")],
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out audio that cannot be used")] = False,
    trials: Annotated[
        Path | None, typer.Option(help="speaker verification: what to compare; keys or labels in it are not looked at")
    ] = None,
    enrol: Annotated[
        Path | None, typer.Option(help="speakers enrolled with several recordings: SPEAKER f1,f2; spk2utt; a manifest")
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="training manifest to centre with and normalise against, for this once")
    ] = None,
    top_n: Annotated[
        int | None, typer.Option(min=2, max=MOST_SPEAKERS, help="with --cohort: closest speakers taken; 300")
    ] = None,
    no_norm: Annotated[bool, typer.Option("--no-norm", help="centre with the cohort's mean, but no AS-norm")] = False,
    qualities: Annotated[
        bool, typer.Option("--qualities", help="add columns of quality measures, for calibrate to weigh")
    ] = False,
    cache: Cache = None,
) -> None:
    """Score every utterance, or with --trials every pair: higher is more bona fide, or more the same speaker.

    The scores stand in the manifest's order, or the list's. Cut off, a scoring
    goes on when called again with the same arguments: what is done is kept in
    OUT.partial. Audio that cannot be used stops nothing: all else is done and
    kept, OUT.failed.tsv lists it, and the exit code is 2. Mend it (and leave
    the manifest as it is) and call again, or leave it out with --skip-bad.

    An utterance longer than --window-seconds is cut into the fewest windows of
    equal length up to that, and taken as the mean of their embeddings; a
    shorter one is taken whole. A batch holds 120 s of audio at most, so memory
    does not grow with the length of the recordings.

    Trials: `label enrol test` (VoxCeleb), `enrol test label`, ASVspoof's, `enrol
    test`, or a TSV with a header; names may have .wav or .flac where the
    manifest has not. A score is the cosine of the embeddings, less the mean of
    the cohort, then AS-norm with its closest speakers, then calibration: as far
    as the model has them (see cohort, calibrate). With --cohort or --no-norm,
    which replace the model's, its calibration is left out.

    On several GPUs, or machines that share a disk:
    torchrun --nproc_per_node N -m hybrid_pruning.cli score ...
    """
    from hybrid_pruning import distributed as processes
    from hybrid_pruning.distributed import keep_freed_memory
    from hybrid_pruning.scoring.batching import Throughput
    from hybrid_pruning.scoring.embedder import load_embedder
    from hybrid_pruning.scoring.inference import Options

    comparing = _Comparing(trials, enrol, cohort, top_n, no_norm, qualities, cache)
    comparing.check()
    processes.start()
    keep_freed_memory()
    loaded = load_embedder(model, device)
    if loaded.task == "speaker-verification" and trials is None:
        raise InputError(f"{model}: is for speaker verification; say with --trials which recordings to compare")
    options, throughput = Options(batch_size, workers, window_seconds, skip_bad), Throughput()
    if trials is None:
        lines = _score_manifest(loaded, manifest, out, options, throughput)
    else:
        lines = _score_trials(loaded, manifest, out, options, throughput, comparing)
    together = throughput.of_all_processes()
    if processes.is_main():
        _warn(loaded, manifest)
        say(str(together))
        say(lines)


@app.command()
def cohort(
    model: Annotated[str, typer.Argument(help="model for speaker verification: a folder, or a hub id with --out")],
    manifest: Annotated[Path, typer.Argument(help="training manifest; none of its speakers should be in the trials")],
    out: Annotated[Path | None, typer.Option(help="write the model here and leave MODEL as it is")] = None,
    top_n: TopN = 300,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out audio that cannot be used")] = False,
    cache: Cache = None,
) -> None:
    """Give a verification model its cohort: what it centres embeddings with and normalises scores against.

    Kept in the model: the mean of the manifest's embeddings, and each of its
    speakers' (the mean of his centred embeddings of unit length). `score
    --trials` and `verify` then use them. A calibration that the model has is
    dropped, as it was fitted on other scores. Cut off, it goes on when called
    again: what is done is kept in MODEL.cohort.partial.
    """
    from hybrid_pruning import distributed as processes
    from hybrid_pruning.distributed import keep_freed_memory
    from hybrid_pruning.files import new_folder, require_new_folder
    from hybrid_pruning.models.speech_model import SpeechModel
    from hybrid_pruning.scoring.embedder import choose_device
    from hybrid_pruning.scoring.inference import Options
    from hybrid_pruning.scoring.verification.trial_scores import make_cohort

    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the model with its cohort goes")
    processes.start()
    keep_freed_memory()
    target = Path(model) if out is None else require_new_folder(out)
    loaded = SpeechModel.from_pretrained(model).to(choose_device(device))
    options = Options(batch_size, workers, window_seconds, skip_bad)
    beside = target.resolve().with_name(f"{target.resolve().name}.cohort")
    loaded.cohort = make_cohort(loaded, manifest, beside, top_n, cache, options)
    dropped, loaded.calibration = loaded.calibration is not None, None
    if not processes.is_main():
        return
    with nullcontext(target) if out is None else new_folder(out) as place:
        loaded.save_pretrained(place)
    if dropped:
        warn("the model's calibration is dropped: it was of scores without this cohort")
    count = len(loaded.cohort.speakers)
    say(
        f"{target}: cohort of {count:,} speakers, the closest {top_n} count; next: hybrid-pruning score {target} "
        "MANIFEST --trials TRIALS --qualities --out SCORES, then calibrate"
    )


def _score_manifest(model: "Embedder", manifest: Path, out: Path, options: "Options", throughput: "Throughput") -> str:
    """Score utterances; warn of those left out, and return what to tell."""
    from hybrid_pruning.scoring.scores import score_file

    arguments = (options.batch_size, options.workers, options.window_seconds, options.skip_bad)
    scores = score_file(model, manifest, out, *arguments, throughput)
    left_out = sum(map(math.isnan, scores.tolist()))
    _tell_left_out(out, left_out, len(scores), "utterances")
    return f"{out}: {len(scores) - left_out} scores; next: hybrid-pruning evaluate {out} {manifest} --track1"


def _score_trials(
    model: "Embedder",
    manifest: Path,
    out: Path,
    options: "Options",
    throughput: "Throughput",
    comparing: _Comparing,
) -> str:
    """Score trials; warn of those left out, and return what to tell."""
    from hybrid_pruning.models.cohort import TOP_N
    from hybrid_pruning.scoring.verification.backend import Backend
    from hybrid_pruning.scoring.verification.trial_scores import Request, make_cohort, require_verifier, score_trials

    require_verifier(model)
    assert comparing.trials is not None
    request = Request(manifest, comparing.trials, comparing.enrol, comparing.cache, comparing.qualities)
    if comparing.cohort is None:
        backend = Backend.of(model)
    else:
        beside = out.with_name(f"{out.name}.cohort")
        backend = Backend(
            make_cohort(model, comparing.cohort, beside, comparing.top_n or TOP_N, comparing.cache, options)
        )
    if comparing.no_norm:
        if backend.cohort is None:
            raise InputError("score: --no-norm, but there is no AS-norm to leave out: the model has no cohort")
        backend = Backend(backend.cohort, normalise=False)
    found = score_trials(model, request, out, backend, options, throughput)
    _tell_left_out(out, found.left_out, found.left_out + len(found.scores), "trials")
    return (
        f"{out}: {len(found.scores):,} scores of {found.recordings:,} recordings ({backend}); "
        f"next: hybrid-pruning evaluate {out} {comparing.trials} --sv"
    )


def _tell_left_out(out: Path, left_out: int, count: int, what: str) -> None:
    from hybrid_pruning import distributed as processes
    from hybrid_pruning.scoring.inference import failures_of

    if left_out and processes.is_main():
        warn(f"{left_out} of {count} {what} are left out, see {failures_of(out)}")


def _warn(model: "Embedder", manifest: Path) -> None:
    from hybrid_pruning.data.overlap import check_scored

    for warning in check_scored(model.provenance, manifest):
        warn(warning)
