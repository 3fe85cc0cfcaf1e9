"""Verbs that exchange models with others: card, convert."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, app
from hybrid_pruning.console import say


class Target(StrEnum):
    """Forms that a model can be converted to."""

    ARTIFACT = "artifact"
    TRANSFORMERS = "transformers"


@app.command()
def card(
    model: Annotated[str, Argument(help=f"exported model: a folder, or with --out a {HUB_ID}")],
    out: Annotated[Path | None, Option(help="file to write; README.md of MODEL by default")] = None,
    evaluation: Annotated[
        list[str] | None, Option(metavar="[NAME=]FILE", help="file of `evaluate --json`, repeatable")
    ] = None,
    run: Annotated[Path | None, Option(help="the job of `run` that made MODEL: all its evaluations")] = None,
    name: Annotated[
        str | None,
        Option(metavar="USER/NAME", help="in the card; else of --push, or MODEL's folder"),
    ] = None,
    license_: Annotated[str | None, Option("--license", help="of the weights, as the hub names it: apache-2.0")] = None,
    dataset: Annotated[
        list[str] | None, Option(metavar="ID[=LICENCE]", help="hub's data set it was trained on; repeatable")
    ] = None,
    base_license: Annotated[str | None, Option(help="of the encoder it started from; else as the hub says")] = None,
    benchmark: Annotated[
        list[str] | None, Option(metavar="NAME=ID[:TASK]", help="hub's benchmark of an evaluation; repeatable")
    ] = None,
    force: Annotated[bool, Option("--force", help="replace a card that was edited by hand")] = False,
    push: Annotated[str | None, Option(metavar="USER/NAME", help="publish model and card there")] = None,
    private: Annotated[
        bool | None, Option("--private/--public", help="of a new repository; else your settings")
    ] = None,
    message: Annotated[str | None, Option(help="of the commit")] = None,
) -> None:
    """Write a model card, and with --push publish the model on the Hugging Face hub.

    The card holds the facts that the model records, and the results it is given; nothing is invented. Read it and add
    to it: a card that you edited is never written over without --force. A card that is there is published as it
    stands, unless you give more for it.

    --push sends config.json, weights, ONNX files and the card in one commit, and lists them before. config.json holds
    the recipe, its paths relative or names alone. The token is the one of `hf auth login`, or HF_TOKEN.

    Licences of the encoder and of data sets are asked of the hub where they are not given; the card, and a warning, say
    which are unclear or not for commercial use. With --benchmark the result also goes into .eval_results/NAME.yaml,
    from which the hub fills the benchmark's leaderboard.

    In two steps:  card MODEL --run JOB --name USER/NAME, then card MODEL --push USER/NAME
    """
    hub = {"force": force, "push": push, "private": private, "message": message}
    sources = {"datasets": dataset or (), "base_licence": base_license, "benchmarks": benchmark or ()}
    hp.card(model, out, evaluation or (), run, name, license_, **sources, **hub)  # type: ignore[arg-type]


@app.command()
def convert(
    source: Annotated[str, Argument(help=f"WeDefense, DPHuBERT or DiariZen file, folder or {HUB_ID}; exported model")],
    out: Annotated[Path, Option(help="new folder for the converted model")],
    to: Annotated[Target, Option(help="ours, or a folder for transformers")] = Target.ARTIFACT,
    zero_pad: Annotated[
        bool, Option("--zero-pad", help="to transformers: the encoder alone, zeros where units were cut out, no code")
    ] = False,
    as_trained: Annotated[bool, Option("--as-trained", help="of gates still there: the gated model's outputs")] = False,
) -> None:
    """Read models of other programs, or write a folder that transformers loads without this package.

    A whole model of the public recipe becomes one that scores. An encoder alone becomes an artifact without a head,
    to train on: backbone.source=MODEL. Gates that are still there are cut out as the recipe's export does, which
    changes the outputs; --as-trained keeps them. Nothing in a file is executed.

    To transformers, a detector or a pruned encoder of any family keeps its own narrow shape: modeling_pruned.py goes
    into the folder, and transformers runs it with trust_remote_code=True: AutoModel for hidden states, of a detector
    also pipeline("audio-classification"), whose first logit is the LLR. A dense encoder needs no code, and with
    --zero-pad a pruned one neither, at the dense size and speed. The head of a verifier stays behind.

    Examples: hybrid-pruning convert JYP2024/Wedefense_ASV2025_WavLM_Base_Pruning --out models/published

              hybrid-pruning convert models/hp50 --to transformers --out hp50-transformers
    """
    found = hp.convert(source, out, to.value, zero_pad, as_trained)
    if to is Target.TRANSFORMERS:
        trust = " with trust_remote_code=True" if found["code"] else ""
        rest = "" if "Audio" in found["loader"] else f"; head and classifier, if any, stay in {source}"
        say(f"{out}: transformers' {found['loader']}.from_pretrained takes it{trust}{rest}")
        return
    say(f"{out}: {found['form']} of {found['parameters'] / 1e6:.2f}M encoder parameters, from {found['file']}")
    for line in found["assumed"]:
        say(f"assumed: {line}")
