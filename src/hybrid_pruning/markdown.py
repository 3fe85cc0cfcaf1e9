"""Text and tables as Markdown in which no foreign text is markup."""

import json
import re
import shlex

from hybrid_pruning.console import Table, parts, printable, spans

SPECIAL = re.compile(r"(^\d+(?=[.)](?!\S)))|[\\`*_{}\[\]<>#|~!&$@]|^[-+=](?!\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""Markup of Markdown as the hub renders it: lists, links without brackets and formulas too."""


class Markdown(str):
    """Text that is Markdown already and stays as it is."""

    __slots__ = ()


def escape(value: object) -> str:
    """Return a value as one line of plain text; Markdown is left alone."""
    if isinstance(value, Markdown):
        return value
    return SPECIAL.sub(lambda found: f"{found[0]}\\" if found[1] else f"\\{found[0]}", printable(str(value)))


def python(value: object) -> Markdown:
    """Return a text as a literal for a block of Python."""
    return Markdown(json.dumps(printable(str(value)), ensure_ascii=False))


def shell(value: object) -> Markdown:
    """Return a text as one word for a block of shell commands."""
    return Markdown(shlex.quote(printable(str(value))))


def to_markdown(table: Table) -> str:
    """Return a table with its title as a heading, its note as a paragraph, and small print in brackets."""
    rows = [[escape(heading) for heading in table.headings], ["---"] * len(table.headings)]
    for row in table.rows:
        cells = [["".join(plain for plain, _ in spans(text)) for text in parts(cell)] for cell in row]
        rows.append([escape(" ".join([first, *(f"({text})" for text in small if text)])) for first, *small in cells])
    title = f"### {escape(table.title)}\n\n" if table.title else ""
    note = f"\n{escape(table.note)}\n" if table.note else ""
    return title + "".join(f"| {' | '.join(row)} |\n" for row in rows) + note
