"""The program itself: one line and exit code 2 for a user's mistake, whatever verb and process it happened in."""

import inspect
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from hybrid_pruning import distributed as processes
from hybrid_pruning.console import console, open_streams, printable, say
from hybrid_pruning.errors import InputError
from hybrid_pruning.extras import explain
from hybrid_pruning.files import write_json
from hybrid_pruning.trees import finite as finite_values

INTERRUPTED = 130
LARGEST_SEED = 2**63 - 1
MOST_WORKERS = 256
HUB_ID = "hub id (owner/name or owner/name@revision)"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Compress self-supervised speech models while they learn their task.

    From nothing to a table on real speech:  [bold]hybrid-pruning quickstart[/bold]
    With a corpus:  [bold]train[/bold] a recipe -> [bold]export[/bold] the small model -> [bold]score[/bold] a manifest
    -> [bold]evaluate[/bold] the scores.

    Exit codes: 0 done, 2 something in your input (one line names it), 1 internal error.""",
)


def finite(value: float | None) -> float | None:
    """Refuse a number that is none, or infinite, whatever the bounds of its option."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="print warnings and errors alone")]
JSON = Annotated[Path | None, typer.Option("--json", help="also write the result here, as JSON")]


def with_common_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb that takes --quiet and, where it returns its result as plain values, --json FILE."""
    own = inspect.signature(verb)
    common: dict[str, Any] = {"quiet": (QUIET, False)}
    if own.return_annotation not in (None, "None"):
        common["result_json"] = (JSON, None)

    @wraps(verb)
    def call(*arguments: Any, quiet: bool = False, result_json: Path | None = None, **options: Any) -> None:
        if result_json is not None and result_json.is_dir():  # before the work, and not after it
            raise InputError(f"{result_json}: is a folder; give the name of a file")
        before, console.quiet = console.quiet, console.quiet or quiet
        try:
            result = verb(*arguments, **options)
            if result_json is not None and processes.is_main():
                write_json(result_json, finite_values(result))
        finally:
            console.quiet = before

    kind = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(n, kind, default=value, annotation=hint) for n, (hint, value) in common.items()]
    call.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    call.__annotations__ = {**verb.__annotations__, **{name: hint for name, (hint, _) in common.items()}}
    return call


def order_verbs(*names: str) -> None:
    """Give the verbs their common options, and make `--help` list them in the order of their use."""
    for command in app.registered_commands:
        assert command.callback is not None
        command.callback = with_common_options(command.callback)

    def place(command: typer.models.CommandInfo) -> int:
        return names.index(command.name or getattr(command.callback, "__name__", ""))

    app.registered_commands.sort(key=place)


def main() -> None:
    """Run the command line; expected errors are one line on standard error."""
    try:
        open_streams()
        status = app(standalone_mode=False)  # None, or 130 after Ctrl-C
        sys.stdout.flush()
        if _several():
            processes.stop()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit as end:  # of completion; or of a reader such as `head` that has all it wants, as by SIGPIPE
        status = 128 + 13 if end.code else 0
    except Exception as error:
        status = _fail(error)
    if status == INTERRUPTED and not console.quiet:
        say("hybrid-pruning: interrupted", error=True)
    sys.exit(status)


def _fail(error: Exception) -> int:
    """Print an error as one line and return the exit code; of several processes only the first to fail prints."""
    error = explain(error) if isinstance(error, ImportError) else error
    name = type(error).__name__
    if name == "NoArgsIsHelpError":  # the help stands there already
        return 2
    # typer brings a click of its own, or takes the installed one: known by the methods of its errors
    message = printable(error.format_message() if hasattr(error, "format_message") else str(error))
    core = sys.modules.get("hybrid_pruning.pruning.plan")  # is loaded with torch alone
    if isinstance(error, (InputError, *([core.PlanError] if core else []))) or hasattr(error, "format_message"):
        line, code = message, 2
    elif os.environ.get("HYBRID_PRUNING_DEBUG"):
        raise error
    elif isinstance(error, OSError) and error.filename is not None:  # a name too long, a folder without permission
        line, code = f"{printable(str(error.filename))}: {error.strerror}; check this path", 2
    else:
        line, code = f"internal error: {name}: {message[:500]} (set HYBRID_PRUNING_DEBUG=1 to see where)", 1
    first = True
    if _several():
        if code == 1:
            time.sleep(0.5)  # a process that is killed loses its connections before it is gone
        if ranks := processes.lost():
            line, code = processes.describe_lost(ranks), 2
        first, code = processes.fail(code)
    if first:
        with suppress(OSError, InputError):  # standard error itself is full
            say(f"hybrid-pruning: {line}", error=True)
    return code


def _several() -> bool:
    """Return whether torchrun started this process beside others."""
    size = os.environ.get("WORLD_SIZE", "").strip()
    return size.isdecimal() and int(size) > 1
