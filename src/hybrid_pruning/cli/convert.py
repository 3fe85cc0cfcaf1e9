"""Verb that exchanges models with other programs: convert."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import hybrid_pruning as hp
from hybrid_pruning.cli.app import app
from hybrid_pruning.console import say


class Target(StrEnum):
    """Forms that a model can be converted to."""

    ARTIFACT = "artifact"
    TRANSFORMERS = "transformers"


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="a WeDefense, DPHuBERT or DiariZen file, its folder or hub id; an exported model")
    ],
    out: Annotated[Path, typer.Option(help="new folder for the converted model")],
    to: Annotated[
        Target, typer.Option(help="ours, or the encoder alone as a plain transformers folder")
    ] = Target.ARTIFACT,
    zero_pad: Annotated[
        bool, typer.Option("--zero-pad", help="to transformers: zeros where units were cut out, at the dense size")
    ] = False,
    as_trained: Annotated[
        bool,
        typer.Option("--as-trained", help="with gates still there: keep the gated model's outputs, not the recipe's"),
    ] = False,
) -> None:
    """Read models of other programs, or write an encoder that transformers loads by itself.

    A whole model of the public recipe becomes one that scores. An encoder alone becomes an artifact without a head,
    to train on: backbone.source=MODEL. Gates that are still there are cut out as the recipe's export does, which
    changes the outputs; --as-trained keeps them. Nothing in a file is executed.

    Examples: hybrid-pruning convert JYP2024/Wedefense_ASV2025_WavLM_Base_Pruning --out models/published

              hybrid-pruning convert models/hp50 --to transformers --zero-pad --out hp50-padded
    """
    found = hp.convert(source, out, to.value, zero_pad, as_trained)
    if to is Target.TRANSFORMERS:
        say(f"{out}: transformers' {found['loader']}.from_pretrained takes it; head and classifier stay in {source}")
        return
    say(f"{out}: {found['form']} of {found['parameters'] / 1e6:.2f}M encoder parameters, from {found['file']}")
    for line in found["assumed"]:
        say(f"assumed: {line}")
