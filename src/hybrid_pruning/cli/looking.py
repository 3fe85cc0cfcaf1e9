"""Verbs that only look: report, inspect, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.cli.app import app


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="folders of training runs, finished or not; the first is compared with")
    ],
    out: Annotated[Path, typer.Option(help="HTML page to write")] = Path("report.html"),
    scores: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="scores of a further evaluation set, repeatable: in the runs' order"),
    ] = None,
    keys: Annotated[
        list[Path] | None, typer.Option(help="their keys: one for each --scores, or one for all; names the set")
    ] = None,
    published: Annotated[
        str | None, typer.Option(help="corpus whose published systems stand beside the runs, e.g. asvspoof5")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="rounds of resampling for 95% intervals; 0 for none")] = 1000,
) -> None:
    """Make one page of one or more runs: figures, errors, what is left, how the training went.

    The page is one file that needs no network. Runs in progress are shown as far as they have come.

    Example: hybrid-pruning report runs/dense runs/hp50 --scores d.tsv --scores p.tsv --keys eval.tsv --out report.html
    """
    from hybrid_pruning.report import write_report

    write_report(runs, out, scores or [], keys or [], published, bootstrap)
    typer.echo(f"{out}: {len(runs)} run{'s' * (len(runs) > 1)}; open it in a browser")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="exported model: a folder or a hub id")],
    out: Annotated[Path | None, typer.Option(help="also draw it: a .svg, .png or .pdf file")] = None,
) -> None:
    """Show what survived, layer by layer, as a heat map; with --out also as a picture."""
    from hybrid_pruning import SpeechModel
    from hybrid_pruning.inspection import print_inspection
    from hybrid_pruning.survivors import count_survivors

    found = SpeechModel.from_pretrained(model)
    if out is not None:
        from hybrid_pruning.plots import save_figure
        from hybrid_pruning.report.picture import draw_survivors

        save_figure(draw_survivors(count_survivors(found.backbone)), out)
    print_inspection(found)
    if out is not None:
        typer.echo(f"picture {out}")


@app.command()
def doctor() -> None:
    """Print versions, devices, and which optional parts are present."""
    from hybrid_pruning.inspection import print_doctor

    print_doctor()
