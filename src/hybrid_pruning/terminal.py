"""The door to the terminal: text, rows, tables and progress bars, in which no foreign text is markup or a command."""

import re
from collections.abc import Iterable, Sequence
from unicodedata import category

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

Span = str | tuple[str, str]
"""A text, or a text and its style."""
Cell = Span | list[Span]
BOXES = {"full": HEAVY_HEAD, "rule": SIMPLE_HEAD, "none": None}
ENDLESS = 1_000_000
"""Columns of a pipe: a table in it is as wide as its cells."""
JOINERS = "\u200c\u200d"
"""Format characters that words of some scripts are written with."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """End as a program that SIGPIPE ends: its reader, such as `head`, has all it wants."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(128 + 13) from None


console = _Console(highlight=False)
_errors = _Console(highlight=False, stderr=True)


def visible(text: object) -> str:
    """Return text with control, format and unassigned characters, lone surrogates too, as escapes such as `\\x1b`.

    Among them are line breaks, terminal codes and bidirectional overrides. Blanks of any width stay.
    """
    text = str(text)
    if text.isprintable():
        return text
    shown = (c.isprintable() or category(c) == "Zs" or c in JOINERS for c in text)
    return "".join(c if plain else c.encode("unicode_escape").decode() for c, plain in zip(text, shown, strict=True))


def printable(text: str) -> str:
    """Return a message as one line: blanks where it had line breaks, other such characters as escapes."""
    return visible(re.sub(r"\s*[\r\n]\s*", " ", text.strip()))


def say(*parts: Span, style: str = "", error: bool = False) -> None:
    """Print a line, above a progress bar where there is one.

    Args:
        parts: texts, or texts with a style of their own; nothing in them is markup.
        style: of all, such as `bold` or `yellow`.
        error: print to standard error.
    """
    target = _errors if error and not (console.is_terminal and _errors.is_terminal) else console
    target.print(_text([*parts], style, target.encoding), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning as a line on standard error."""
    say(f"warning: {message}", error=True)


def say_row(cells: Iterable[object]) -> None:
    """Print a row of a table for programs: cells with tabs between them."""
    line = _encodable("\t".join(map(visible, cells)), console.encoding)
    console.print(Segments([Segment(f"{line}\n")]), soft_wrap=True)


def say_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    left: int = 1,
    title: str = "",
    note: str = "",
    box: str = "full",
) -> None:
    """Print a table for people. A terminal folds what is too long for it, a pipe gets each row on a line.

    Args:
        headings: of the columns; all empty for none.
        rows: their cells, which may be fewer than the headings.
        left: how many columns are aligned to the left; the others are to the right.
        title: above it.
        note: below it.
        box: `full`, `rule` (below the headings alone) or `none`.
    """
    table = Table(
        title=_text(title, "bold" if box == "none" else "") if title else None,
        title_justify="left" if box == "none" or note else "center",
        caption=_text(note) if note else None,
        caption_justify="left",
        show_header=any(headings),
        box=BOXES[box],
        padding=(0, 3, 0, 0) if box == "none" else (0, 1),
        header_style="bold",
        pad_edge=box != "rule",
        show_edge=box != "rule",
        collapse_padding=box == "rule",
    )
    for index, heading in enumerate(headings):
        table.add_column(_text(heading), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    if not console.is_terminal:
        table.width = console.measure(table, options=console.options.update(width=ENDLESS)).maximum
    console.print(table, crop=False)


def say_rule(title: str) -> None:
    """Print a line across the terminal with a title at its left."""
    console.rule(_text(title, "bold"), align="left")


def takes_blocks() -> bool:
    """Whether the terminal's encoding has block characters."""
    return console.encoding.startswith("utf")


class _Field(TextColumn):
    def render(self, task: Task) -> Text:
        return _text(self.text_format.format(task=task))


def progress_bar(*columns: str) -> Progress:
    """Return a progress bar for long work; `columns` are further text fields, e.g. ``"{task.fields[loss]}"``.

    It lives on the one console, so that lines printed meanwhile stay above it and a bar within a bar below it.
    """
    return Progress(
        _Field("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *(_Field(column) for column in columns),
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )


def _text(cell: Cell, style: str = "", encoding: str = "") -> Text:
    text = Text(style=style)
    for part in cell if isinstance(cell, list) else [cell]:
        plain, own = part if isinstance(part, tuple) else (part, "")
        text.append(_encodable(visible(plain), encoding or console.encoding), own)
    return text


def _encodable(text: str, encoding: str) -> str:
    """Return text with escapes for what an encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
