"""Verbs that make and check manifests, and a first recipe for them: prepare, audit, init."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, JSON, LARGEST_SEED, MOST_WORKERS, app, finite
from hybrid_pruning.console import say, warn
from hybrid_pruning.data.corpora import CORPORA, Prepared
from hybrid_pruning.data.manifest import hidden_line
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import write_json

HELP = "\n\n".join(
    [
        "Turn a corpus's own protocol files into manifests, one per part.",
        "Required contents of the root:",
        *(f"[bold]{name}[/bold]  {corpus.contents}" for name, corpus in CORPORA.items()),
        "Nothing is written where a line is malformed or audio is missing. `train` and `dev` are for training; every "
        "other manifest is an evaluation set. Of corpora for speaker verification the trials are written too, as "
        "`evaluate --sv` reads them.",
        "Example: hybrid-pruning prepare asvspoof5 --root /data/ASVspoof5 --out manifests/asvspoof5",
    ]
)
SPLIT = ", ".join(name for name, corpus in CORPORA.items() if corpus.splits)
SHOWN = 10
"""Faults that are printed; the table has them all."""


@app.command(help=HELP)
def prepare(
    corpus: Annotated[str, Argument(help=", ".join(CORPORA))],
    root: Annotated[Path, Option(help="the folder the corpus was unpacked in")],
    out: Annotated[Path, Option(help="folder for the manifests")],
    allow_missing: Annotated[bool, Option("--allow-missing", help="leave out utterances without their audio")] = False,
    durations: Annotated[bool, Option(help="read every file's duration; a second time only of changed files")] = True,
    check: Annotated[bool, Option("--check", help="also decode every file, as `audit` does")] = False,
    workers: Annotated[int, Option(min=1, max=MOST_WORKERS, help="files that are read at the same time")] = 4,
    dev_share: Annotated[float, Option(callback=finite, help=f"{SPLIT}: share for dev, by speaker where known")] = 0.0,
    seed: Annotated[int, Option(min=0, max=LARGEST_SEED, help="of that split, and of the trials drawn for dev")] = 0,
) -> dict[str, Any]:
    """Turn a corpus's own protocol files into manifests, one per part."""
    options: dict[str, Any] = {"allow_missing": allow_missing, "dev_share": dev_share, "seed": seed}
    prepared = hp.prepare(corpus, root, out, durations=durations, workers=workers, **options)
    for part, manifest in prepared.manifests.items():
        bonafide, spoof = prepared.counts[part]
        contents = f"{bonafide:,} bona fide, {spoof:,} spoofed"
        if part in prepared.speakers:
            contents = f"{len(prepared.speakers[part]):,} speakers, {bonafide:,} utterances"
        say(f"{part}: {manifest} ({contents})")
    for part, trials in prepared.trials.items():
        enrolment = f", enrolment in {prepared.enrolments[part]}" if part in prepared.enrolments else ""
        say(f"{part}, {'track 2' if enrolment else 'trials'}: {trials}{enrolment}")
    for note in (*prepared.notes, *hidden_line(prepared.hidden)):
        say(note)
    for warning in prepared.warnings:
        warn(warning)
    if check:
        _audit_all([*prepared.manifests.values(), *prepared.enrolments.values()], workers)
    say(f"next: hybrid-pruning {_next_verb(prepared)}")
    parts = {part: (str(path), *prepared.counts[part]) for part, path in prepared.manifests.items()}
    return {
        "manifests": {part: dict(zip(("path", "bonafide", "spoof"), its, strict=True)) for part, its in parts.items()},
        "trials": {part: str(path) for part, path in prepared.trials.items()},
        "warnings": [*prepared.warnings],
    }


@app.command()
def init(
    manifests: Annotated[Path, Argument(help="folder that `prepare` has filled: train.tsv, dev.tsv and others")],
    out: Annotated[Path, Option(help="recipe to write")] = Path("recipe.yaml"),
    backbone: Annotated[str, Option(help=f"pretrained encoder: a folder or a {HUB_ID}")] = "microsoft/wavlm-base",
) -> None:
    """Write a commented recipe for the manifests at hand: dense, pruned to 50%, healed.

    Lengths, epochs and the balance of classes follow from what the manifests hold; detection or, where all is bona
    fide speech of several speakers, verification.
    """
    hp.init(manifests, out, backbone)
    say(f"{out}: read it, then: hybrid-pruning run {out} --out JOB")


@app.command()
def audit(
    manifests: Annotated[list[Path], Argument(metavar="MANIFEST...", help="TSV with utt_id, path and label")],
    workers: Annotated[int, Option(min=0, max=MOST_WORKERS, help="processes that decode audio")] = 2,
    json_: JSON = None,
) -> None:
    """Decode every file of manifests once and list the faulty ones in MANIFEST.faults.tsv beside each.

    Missing, corrupt and cut files, values that are not finite, and durations other than the column seconds has.
    """
    _audit_all(manifests, workers, json_)


def _audit_all(manifests: Sequence[Path], workers: int, json_: Path | None = None) -> None:
    """Audit manifests one by one; show the first faults and end as after any other mistake in the input."""
    faulty, shown, counts = [], SHOWN, {}
    for manifest in manifests:
        found = hp.audit(manifest, workers=workers)
        table = manifest.with_suffix(".faults.tsv")
        silent = [fault.message for fault in found if fault.harmless]
        faults = [fault for fault in found if not fault.harmless]
        if silent:
            warn(f"{silent[0]}; {len(silent):,} files of {manifest} are like this, see {table}")
        say(f"{manifest}: {len(faults)} faulty files" if faults else f"{manifest}: every file is sound")
        for fault in faults[:shown]:
            say(f"  {fault.message}", error=True)
        shown -= len(faults[:shown])
        counts[str(manifest)] = {"faulty": len(faults), "silent": len(silent)}
        if faults:
            faulty.append(f"{len(faults)} in {table}")
    if json_ is not None:
        write_json(json_, counts)
    if faulty:
        raise InputError(f"faulty files: {', '.join(faulty)}; mend them, or remove their rows from the manifest")


def _next_verb(prepared: Prepared) -> str:
    manifests = prepared.manifests
    if {"train", "dev"} <= manifests.keys():
        trials = f" --set data.trials.dev={prepared.trials['dev']}" if "dev" in prepared.speakers else ""
        return f"train RECIPE --out RUN --set data.train={manifests['train']} --set data.dev={manifests['dev']}{trials}"
    return f"score MODEL {list(manifests.values())[-1]} --out scores.tsv"
