"""Tables of text, column by column: hundreds of thousands of lines in about a second."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_pruning.errors import InputError

BLOCK_LINES = 1000
"""Lines taken apart at a time; few enough for their cells to stay in the processor's cache."""

Fault = tuple[int, str]
"""The row of a table, from 0, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Text:
    """The lines of a file that are not blank.

    Args:
        path: the file.
        lines: [N] their text.
        numbers: [N] where they stand, from 1.
    """

    path: Path
    lines: list[str]
    numbers: Sequence[int]

    def where(self, row: int) -> str:
        """Return file and line number, for a message."""
        return f"{self.path}:{self.numbers[row]}"

    def below(self) -> "Text":
        """Return what stands below the header."""
        return Text(self.path, self.lines[1:], self.numbers[1:])


def read_text(path: Path) -> Text:
    """Read a file's lines.

    Raises:
        InputError: it is missing, a folder, or not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # Windows line ends and marks go
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; is this a table?") from error
    numbers = [number for number, line in enumerate(lines, start=1) if line and not line.isspace()]
    if len(numbers) < len(lines):
        lines = [lines[number - 1] for number in numbers]
    return Text(path, lines, numbers)


def take_columns(
    text: Text, header: Sequence[str], wanted: Sequence[str], separator: str | None
) -> dict[str, list[str]]:
    """Return the wanted columns.

    Args:
        text: the rows, without the header.
        header: the names of all columns.
        wanted: those to return.
        separator: what stands between the columns; None for white space.

    Raises:
        InputError: a row has another number of columns.
    """
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    places = [(cells, header.index(name)) for name, cells in columns.items()]
    for start in range(0, len(text.lines), BLOCK_LINES):
        block = text.lines[start : start + BLOCK_LINES]
        flat = _flatten(block, len(header), separator)
        if flat is None:
            odd = next(row for row, line in enumerate(block) if len(line.split(separator)) != len(header))
            raise InputError(
                f"{text.where(start + odd)}: {len(block[odd].split(separator))} columns, expected {len(header)}: "
                f"{' '.join(header)}"
            )
        for cells, place in places:
            cells.extend(flat[place :: len(header)])
    return columns


def _flatten(lines: Sequence[str], width: int, separator: str | None) -> list[str] | None:
    """Return all cells of lines that have `width` each, line after line, or None where one has not.

    One list for many lines: a list for every line, hundreds of thousands at a time, keeps Python's garbage collector
    busy for longer than all else here takes.
    """
    flat = (separator or " ").join(lines).split(separator)
    if len(flat) == width * len(lines) and {line.count(separator or " ") for line in lines} == {width - 1}:
        return flat
    widths = {len(line.split(separator)) for line in lines}  # more white space than one blank is well, too
    return flat if widths == {width} else None


def require_columns(text: Text, header: Sequence[str], required: Sequence[str], separator: str = "tabs") -> None:
    """Require that a header has the columns.

    Raises:
        InputError: one is missing.
    """
    missing = [column for column in required if column not in header]
    if missing:
        raise InputError(
            f"{text.path}:{text.numbers[0] if text.numbers else 1}: column '{missing[0]}' is missing; the header needs "
            f"{', '.join(required)}, separated by {separator}, and has: {', '.join(header) or 'nothing'}"
        )


def raise_first(text: Text, faults: Iterable[Fault]) -> None:
    """Tell the first fault in full, and how many more there are.

    Raises:
        InputError: there is a fault.
    """
    ordered = sorted(faults)
    if ordered:
        row, message = ordered[0]
        more = f" (and {len(ordered) - 1} more faulty lines)" if len(ordered) > 1 else ""
        raise InputError(f"{text.where(row)}: {message}{more}")
