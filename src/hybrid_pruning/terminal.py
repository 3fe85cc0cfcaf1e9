"""What a person sees while waiting: one console and progress bars on it, quiet when not a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False)


def printable(text: str) -> str:
    """Return a message as one line: file names may hold line breaks, and codes that would command the terminal."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return "".join(escaped)


def progress_bar(*columns: str) -> Progress:
    """Return a progress bar for long work; `columns` are further text fields, e.g. ``"{task.fields[loss]}"``.

    It lives on the one console, so that lines printed meanwhile stay above it and a bar within a bar below it.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *(TextColumn(column) for column in columns),
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )
