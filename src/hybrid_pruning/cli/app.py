"""The program itself: one line and exit code 2 for a user's mistake, whatever verb and process it happened in."""

import math
import os
import sys
import time
from contextlib import suppress

import typer

from hybrid_pruning import distributed as processes
from hybrid_pruning.console import console, open_streams, printable, say
from hybrid_pruning.errors import InputError
from hybrid_pruning.extras import explain

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


def order_verbs(*names: str) -> None:
    """Make `--help` list the verbs in the order of their use."""

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
    except (
        SystemExit
    ) as end:  # of completion; or where a reader such as `head` has all it wants, as SIGPIPE ends programs
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
