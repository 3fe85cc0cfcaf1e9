"""What a person sees while waiting: one console and one progress bar, quiet when not a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False)


def progress_bar(*columns: str) -> Progress:
    """Return a progress bar for long work; `columns` are further text fields, e.g. ``"{task.fields[loss]}"``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *(TextColumn(column) for column in columns),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
        transient=True,
    )
