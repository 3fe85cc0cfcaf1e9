"""The verbs that give models to others to try: serve, web."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, app
from hybrid_pruning.cli.score import Device, Window
from hybrid_pruning.console import say

LARGEST = 1_000_000


@app.command()
def serve(
    models: Annotated[
        list[str], Argument(metavar="MODEL...", help=f"exported: a folder, .onnx or .xml file, or {HUB_ID}")
    ],
    host: Annotated[str, Option(help="address to listen at; 0.0.0.0 for all of the machine's")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 for any that is free")] = 8000,
    token: Annotated[
        str | None, Option(envvar="HYBRID_PRUNING_TOKEN", help="that clients must send; better in the environment")
    ] = None,
    allow_host: Annotated[list[str] | None, Option(help="a name of this server, such as demo.example.org")] = None,
    allow_origin: Annotated[list[str] | None, Option(help="a site whose pages may ask, as https://example.org")] = None,
    keep: Annotated[Path | None, Option(help="folder to keep recordings and answers in; by default none are")] = None,
    window_seconds: Window = 30.0,
    device: Device = "auto",
    max_megabytes: Annotated[float, Option(min=0.01, max=2000, help="of a request")] = 50.0,
    max_seconds: Annotated[float, Option(min=1, max=3600, help="of a recording")] = 600.0,
    queue: Annotated[int, Option(min=1, max=LARGEST, help="requests in work at a time; more get 503")] = 128,
    timeout: Annotated[
        float, Option(min=1, max=3600, help="seconds for a request to arrive, and to be computed")
    ] = 60.0,
    rate: Annotated[int, Option(min=0, max=LARGEST, help="requests a minute from one address; 0: any number")] = 600,
    streams: Annotated[int, Option(min=0, max=LARGEST, help="open at a time")] = 16,
) -> None:
    """Serve models: a page to try them, REST under /v1, and a stream.

    The page at / judges a file or the microphone, and enrols and compares speakers; /docs describes the rest. Answers
    have the fields of detect --json and verify --json, errors the line that these would print. Nothing is stored
    without --keep. Of a folder that also has an up-to-date graph, that is run, without torch.
    """
    from hybrid_pruning.serving.limits import Limits

    limits = Limits(max_megabytes, max_seconds, queue, timeout=timeout, rate=rate, streams=streams)
    sites = {"allow_host": allow_host or [], "allow_origin": allow_origin or []}
    hp.serve(models, host, port, limits, token=token, keep=keep, window_seconds=window_seconds, device=device, **sites)


@app.command()
def web(
    model: Annotated[str, Argument(metavar="MODEL", help=f"exported: a folder, .onnx file or {HUB_ID}")],
    out: Annotated[Path, Option(help="folder for the site, new or empty")],
    int8: Annotated[bool, Option("--int8", help="weights in 8 bits, a quarter of the download")] = False,
    runtime: Annotated[
        Path | None, Option(metavar="DIR", help="with the files of onnxruntime-web; by default they are fetched")
    ] = None,
    window_seconds: Window = 30.0,
) -> None:
    """Write a site that judges or compares recordings in the browser: no server computes, nothing leaves the machine.

    The folder holds the page of serve, the model as ONNX and onnxruntime-web, from npm's registry (33 MB) or DIR.
    Any web server can host it: python -m http.server -d SITE.
    """
    say(f"wrote {hp.web(model, out, int8, runtime, window_seconds)}; try it: python -m http.server -d {out}")
