"""Tables of figures: for a terminal, or in Markdown for README and dev/LOG.md."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from hybrid_pruning.terminal import console


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
        lines = [section.header, ("---",) * len(section.header), *section.rows]
        rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        console.print(f"### {section.title}\n\n{rows}\n\n{section.note}\n", markup=False, soft_wrap=True)
        return
    table = Table(title=section.title, title_justify="left", caption=section.note, caption_justify="left")
    for index, name in enumerate(section.header):
        table.add_column(name, justify="right" if index else "left")
    for row in section.rows:
        table.add_row(*row)
    console.print(table)
