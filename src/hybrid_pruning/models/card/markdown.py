"""Text from outside -> text of a Markdown page that is read as it was meant, whatever it holds."""

import json
import re
import shlex

from hybrid_pruning.console import printable

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
