"""Tables of figures: for a terminal, or in Markdown for README and dev/LOG.md."""

from collections.abc import Sequence
from dataclasses import dataclass

from hybrid_pruning.console import say, say_table


@dataclass(frozen=True, slots=True)
class Section:
    """One table: its header, its rows and what to know when reading it."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def print_section(section: Section, markdown: bool) -> None:
    """Print a table."""
    if markdown:
        rows = [section.header, ("---",) * len(section.header), *section.rows]
        table = [f"| {' | '.join(cells)} |" for cells in rows]
        for line in (f"### {section.title}", "", *table, "", section.note, ""):
            say(line)
        return
    say_table(section.header, section.rows, title=section.title, note=section.note)
