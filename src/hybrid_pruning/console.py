"""Text, rows, tables and progress bars on the terminal, in which no foreign text is markup or a command."""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO
from unicodedata import category

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment, Segments
from rich.table import Table as Grid
from rich.text import Text

from hybrid_pruning.errors import InputError

Span = str | tuple[str, str]
"""A text, or a text and its style."""
Spans = Span | list[Span]
BOXES = {"full": HEAVY_HEAD, "rule": SIMPLE_HEAD, "none": None}
ENDLESS = 1_000_000
"""Columns of a pipe: a table in it is as wide as its cells."""
JOINERS = "\u200c\u200d"
"""Format characters that words of some scripts are written with."""


class Cell(NamedTuple):
    """A text of a table with small print below it, such as an interval and a difference; in Markdown behind it."""

    text: Spans
    below: Span = ""
    further: Span = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table to show: `say_table` prints it, `markdown.to_markdown` writes it, the report's template sets it in HTML.

    Headings may all be empty, rows shorter than they; the first `left` columns are aligned to the left.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Spans | Cell]]
    title: str = ""
    note: str = ""
    left: int = 1


console = Console(highlight=False)
_errors = Console(highlight=False, stderr=True)
_format_warning = warnings.formatwarning


def open_streams() -> None:
    """Make the standard streams, and the warnings and log records of libraries, safe for text of any kind."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would take its place, and what is printed
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or io.StringIO()
    sys.stderr = _safe(sys.stderr or io.StringIO(), "standard error")
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file, or to /dev/null")
    sys.stdout = _safe(sys.stdout, "standard output")
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = lambda *args, **more: _visible_lines(_format_warning(*args, **more))


def _safe(stream: TextIO, name: str) -> TextIO:
    """Return a stream of the system's that escapes characters its encoding lacks and names the error of its disk."""
    if stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    raw = _Output(stream.fileno(), "w", closefd=False)
    raw.name = name
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # nothing more is tried, at the exit neither
            raise InputError(f"{self.name}: cannot be written ({error.strerror})") from error


class _Record(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802  logging's own name
        return _visible_lines(super().getMessage())


def visible(text: object) -> str:
    """Return text with control, format and unassigned characters, lone surrogates too, as escapes such as `\\x1b`.

    Among them are line breaks, terminal codes and bidirectional overrides. Blanks of any width stay.
    """
    text = str(text)
    if text.isprintable():
        return text
    shown = (c.isprintable() or category(c) == "Zs" or c in JOINERS for c in text)
    return "".join(c if plain else c.encode("unicode_escape").decode() for c, plain in zip(text, shown, strict=True))


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def printable(text: str) -> str:
    """Return a message as one line: blanks where it had line breaks, other such characters as escapes."""
    return visible(re.sub(r"\s*[\r\n]\s*", " ", text.strip()))


def say(*parts: Span, style: str = "", error: bool = False) -> None:
    """Print texts, with a style of their own or one for all, as a line, above a progress bar; nothing is markup."""
    target = _errors if error and (console.quiet or not (console.is_terminal and _errors.is_terminal)) else console
    target.print(_text([*parts], style, target.encoding), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning as a line on standard error."""
    say(f"warning: {message}", error=True)


def say_row(cells: Iterable[object]) -> None:
    """Print a row of a table for programs: cells with tabs between them."""
    line = _encodable("\t".join(map(visible, cells)), console.encoding)
    console.print(Segments([Segment(f"{line}\n")]), soft_wrap=True)


def say_table(table: Table, box: str = "full") -> None:
    """Print a table in a `full` box, with a `rule` below its headings, or `none`; small print gets lines of its own.

    A terminal folds what is too long for it, a pipe gets each row on a line.
    """
    grid = Grid(
        title=_text(table.title, "bold" if box == "none" else "") if table.title else None,
        title_justify="left" if box == "none" or table.note else "center",
        caption=_text(table.note) if table.note else None,
        caption_justify="left",
        show_header=any(table.headings),
        box=BOXES[box],
        padding=(0, 3, 0, 0) if box == "none" else (0, 1),
        header_style="bold",
        pad_edge=box != "rule",
        show_edge=box != "rule",
        collapse_padding=box == "rule",
    )
    for index, heading in enumerate(table.headings):
        grid.add_column(_text(heading), justify="left" if index < table.left else "right", overflow="fold")
    for row in table.rows:
        texts, *small = zip(*map(parts, row), strict=True)
        for line in (texts, *filter(any, small)):
            grid.add_row(*map(_text, line))
    if not console.is_terminal:
        grid.width = console.measure(grid, options=console.options.update(width=ENDLESS)).maximum
    console.print(grid, crop=False)


def parts(cell: Spans | Cell) -> Cell:
    """Return a cell of a table with its small print, which may be empty."""
    return cell if isinstance(cell, Cell) else Cell(cell)


def spans(text: Spans) -> list[tuple[str, str]]:
    """Return the parts of a text, each with its style."""
    return [part if isinstance(part, tuple) else (part, "") for part in (text if isinstance(text, list) else [text])]


def say_rule(title: str) -> None:
    """Print a line across the terminal with a title at its left."""
    console.rule(_text(title, "bold"), align="left")


def takes_blocks() -> bool:
    """Return whether the terminal's encoding has block characters."""
    return console.encoding.startswith("utf")


class _Field(TextColumn):
    def render(self, task: Task) -> Text:
        return _text(self.text_format.format(task=task))


def progress_bar(*columns: str) -> Progress:
    """Return a progress bar for long work; `columns` are further text fields, e.g. ``"{task.fields[loss]}"``.

    It is on the one console, so that lines printed meanwhile stay above it and a bar within a bar below it.
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


def _text(cell: Spans, style: str = "", encoding: str = "") -> Text:
    text = Text(style=style)
    for plain, own in spans(cell):
        text.append(_encodable(visible(plain), encoding or console.encoding), own)
    return text


def _encodable(text: str, encoding: str) -> str:
    """Return text with escapes for what an encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
