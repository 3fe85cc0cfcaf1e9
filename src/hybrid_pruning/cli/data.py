"""Verbs that make and check manifests: prepare, audit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app
from hybrid_pruning.errors import InputError

SHOWN = 10
"""Faults that are printed; the table has them all."""


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="asvspoof5")],
    root: Annotated[Path, typer.Option(help="the folder the corpus was unpacked in")],
    out: Annotated[Path, typer.Option(help="folder for the manifests")],
    check: Annotated[bool, typer.Option("--check", help="also decode every file, as `audit` does")] = False,
    workers: Annotated[int, typer.Option(min=0, help="processes that decode audio")] = 2,
) -> None:
    """Turn a corpus's own protocol files into manifests, one per part."""
    from hybrid_pruning.corpora import PREPARE

    if corpus not in PREPARE:
        raise InputError(f"prepare: corpus '{corpus}' is unknown; known are {', '.join(PREPARE)}")
    manifests = PREPARE[corpus](root, out)
    for part, manifest in manifests.items():
        typer.echo(f"{part}: {manifest}")
    if check:
        audit_manifests(list(manifests.values()), workers)


@app.command()
def audit(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="TSV with utt_id, path and label")],
    workers: Annotated[int, typer.Option(min=0, help="processes that decode audio")] = 2,
) -> None:
    """Decode every file of manifests once and list the faulty ones in MANIFEST.faults.tsv beside each.

    Missing, corrupt and cut files, values that are not finite, and durations other than the column seconds has.
    """
    audit_manifests(manifests, workers)


def audit_manifests(manifests: Sequence[Path], workers: int) -> None:
    """Audit manifests one by one; show the first faults and end as after any other mistake in the input."""
    from hybrid_pruning.audit import audit_manifest, faults_beside

    faulty, shown = [], SHOWN
    for manifest in manifests:
        faults = audit_manifest(manifest, workers=workers)
        typer.echo(f"{manifest}: {len(faults)} faulty files" if faults else f"{manifest}: every file is sound")
        for fault in faults[:shown]:
            typer.echo(f"  {fault.message}", err=True)
        shown -= len(faults[:shown])
        if faults:
            faulty.append(f"{len(faults)} in {faults_beside(manifest)}")
    if faulty:
        raise InputError(f"faulty files: {', '.join(faulty)}; mend them, or remove their rows from the manifest")
