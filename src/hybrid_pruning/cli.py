"""The command line: each verb calls one function of the library; a user's mistake is one line and exit code 2."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hybrid_pruning.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Compress self-supervised speech models while they learn their task.

    From nothing to a table on real speech:  [bold]hybrid-pruning quickstart[/bold]
    With a corpus:  [bold]train[/bold] a recipe -> [bold]export[/bold] the small model -> [bold]score[/bold] a manifest
    -> [bold]evaluate[/bold] the scores.

    Exit codes: 0 done, 2 something in your input (one line says what), 1 a fault of ours.""",
)

# Imports stand inside the verbs: `--help` and mistakes in the command line then answer at once, without torch.


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="where runs, models and scores go")] = Path("quickstart"),
    bonafide: Annotated[
        Path | None, typer.Option(help="a folder of recordings to use instead of Debian's packages")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="hub id or folder of a pretrained encoder, instead of a small one from scratch")
    ] = None,
) -> None:
    """Train dense and pruned detectors on real human speech and print them side by side.

    Fetches free recordings from Debian's packages (as an ordinary user, nothing is installed), makes spoofs of them by
    copy-synthesis, trains a small WavLM-shaped model twice, dense and pruned to 50%, and prints the table.
    """
    from hybrid_pruning.memory import keep_freed_memory
    from hybrid_pruning.quickstart.job import run_quickstart

    keep_freed_memory()
    run_quickstart(out, bonafide, backbone)


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="asvspoof5")],
    root: Annotated[Path, typer.Option(help="the folder the corpus was unpacked in")],
    out: Annotated[Path, typer.Option(help="folder for the manifests")],
) -> None:
    """Turn a corpus's own protocol files into manifests, one per part."""
    from hybrid_pruning.corpora import PREPARE

    if corpus not in PREPARE:
        raise InputError(f"prepare: corpus '{corpus}' is unknown; known are {', '.join(PREPARE)}")
    for part, manifest in PREPARE[corpus](root, out).items():
        typer.echo(f"{part}: {manifest}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, see recipes/ and examples/")],
    out: Annotated[Path, typer.Option(help="new folder for configuration, log and checkpoints")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="overrule the recipe, repeatable")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the run's last checkpoint")] = False,
) -> None:
    """Fine-tune and prune a model at the same time, as a recipe says.

    Example: hybrid-pruning train recipes/asvspoof5/base.yaml --out runs/hp70 --set pruning.target_sparsity=0.7
    """
    from hybrid_pruning.config import load_config
    from hybrid_pruning.memory import keep_freed_memory
    from hybrid_pruning.trainer import train as run_training

    keep_freed_memory()
    run_training(load_config(recipe, set_ or []), out, resume)
    typer.echo(f"{out}: finished; next: hybrid-pruning export {out} --out MODEL")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a training run")],
    out: Annotated[Path, typer.Option(help="new folder for the model")],
    average: Annotated[int, typer.Option(min=1, help="checkpoints to average, counted from the last")] = 2,
) -> None:
    """Cut the model down for real and write it: config.json and model.safetensors."""
    from hybrid_pruning.export import export_run

    model = export_run(run, out, average)
    size = sum(parameter.numel() for parameter in model.backbone.parameters())
    typer.echo(f"{out}: backbone of {size / 1e6:.2f}M parameters; next: hybrid-pruning score {out} MANIFEST.tsv ...")


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="exported model: a folder or a hub id")],
    manifest: Annotated[Path, typer.Argument(help="TSV with utt_id, path and label")],
    out: Annotated[Path, typer.Option(help="score file to write")],
    batch_size: Annotated[int, typer.Option(min=1, help="utterances per batch at most")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="processes that decode audio")] = 2,
) -> None:
    """Score every utterance: log-likelihood ratios, higher is more bona fide."""
    from hybrid_pruning import SpeechModel
    from hybrid_pruning.scoring import score_file

    scores = score_file(SpeechModel.from_pretrained(model), manifest, out, batch_size, workers)
    typer.echo(f"{out}: {len(scores)} scores; next: hybrid-pruning evaluate {out} {manifest} --track1")


@app.command()
def evaluate(
    scores: Annotated[Path, typer.Argument(help="score file")],
    keys: Annotated[Path, typer.Argument(help="key file, manifest, or the corpus's own protocol or trial list")],
    track1: Annotated[bool, typer.Option("--track1", help="anti-spoofing: EER, minDCF, actDCF, Cllr")] = False,
    track2: Annotated[bool, typer.Option("--track2", help="spoofing-robust verification: a-DCF, t-DCF, t-EER")] = False,
    sv: Annotated[bool, typer.Option("--sv", help="speaker verification: EER, minDCF at 0.01 and 0.05")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="also write the figures here, as fractions")] = None,
) -> None:
    """Compare scores with the truth: EER, minDCF and their kin, as the challenges define them."""
    from hybrid_pruning import evaluation
    from hybrid_pruning.files import atomic_write

    if track1 + track2 + sv != 1:
        raise InputError("evaluate: choose one of --track1, --track2, --sv")
    measure = evaluation.evaluate_track1 if track1 else evaluation.evaluate_track2 if track2 else evaluation.evaluate_sv
    result = measure(scores, keys)
    if json_ is not None:
        with atomic_write(json_) as handle:
            json.dump(result, handle, indent=1)
    evaluation.print_table(result)
    for warning in evaluation.find_warnings(result):
        typer.echo(f"warning: {warning}", err=True)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="exported model: a folder or a hub id")],
) -> None:
    """Show what survived, layer by layer, as a heat map."""
    from hybrid_pruning import SpeechModel
    from hybrid_pruning.inspection import print_inspection

    print_inspection(SpeechModel.from_pretrained(model))


@app.command()
def doctor() -> None:
    """Print versions, devices, and which optional parts are present."""
    from hybrid_pruning.inspection import print_doctor

    print_doctor()


def main() -> None:
    """Run the command line; expected errors are one line on standard error."""
    try:
        status = app(standalone_mode=False)  # None, or 130 after Ctrl-C
    except Exception as error:
        status = _explain(error)
    sys.exit(status)


def _explain(error: Exception) -> int:
    """Print an error as one line and return the exit code."""
    name = type(error).__name__
    if name == "NoArgsIsHelpError":  # the help stands there already
        return 2
    # typer brings a click of its own, or takes the installed one: known by what its errors can do
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if isinstance(error, InputError) or name == "PlanError" or hasattr(error, "format_message"):
        typer.echo(f"hybrid-pruning: {' '.join(message.split())}", err=True)
        return 2
    if os.environ.get("HYBRID_PRUNING_DEBUG"):
        raise error
    typer.echo(
        f"hybrid-pruning: a fault of ours: {name}: {' '.join(message.split())[:500]} "
        "(set HYBRID_PRUNING_DEBUG=1 to see where)",
        err=True,
    )
    return 1


if __name__ == "__main__":
    main()
