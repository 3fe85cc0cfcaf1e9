"""Tables of text: one reader and one writer for manifests, protocols, lists, scores and keys.

Between tabs nothing is quoted, so that whatever holds no control character comes back as it was written. Files are
taken apart column by column where they have hundreds of thousands of lines.
"""

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, has_control_characters, read_text

TAB, COMMA = "\t", ","
SEPARATORS = (TAB, COMMA, None)  # what may stand between columns, in the order of trying; None for white space
NAMES = {TAB: "tabs", COMMA: "commas", None: "white space"}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # what no line of a table holds
BLOCK_LINES = 1000  # lines taken apart at a time; few enough for their cells to stay in the processor's cache

Columns = tuple[str, ...]
Fault = tuple[int, str]  # the row of a table, from 0, and what is wrong with it


@dataclass(frozen=True, slots=True)
class Text:
    """The lines of a file that are not blank, and their numbers, from 1."""

    path: Path
    lines: list[str]
    numbers: Sequence[int]

    def where(self, row: int) -> str:
        """Return file and line number, for a message."""
        return f"{self.path}:{self.numbers[row]}"

    def below(self) -> "Text":
        """Return what stands below the header."""
        return Text(self.path, self.lines[1:], self.numbers[1:])

    def candidates(self) -> list[tuple[str | None, list[str]]]:
        """Return the cells of the first line by each of `SEPARATORS`."""
        first = self.lines[0] if self.lines else ""
        return [(separator, _split(first, separator)) for separator in SEPARATORS]

    def require(self, header: Sequence[str], required: Sequence[str], separator: str | None = TAB) -> None:
        """Require that a header has the columns, each once."""
        where = f"{self.path}:{self.numbers[0] if self.numbers else 1}"
        for column in (column for column in required if column not in header):
            raise InputError(
                f"{where}: column '{column}' is missing; the header needs {', '.join(required)}, separated by "
                f"{NAMES[separator]}, and has: {', '.join(header) or 'nothing'}"
            )
        for column in (column for column in required if header.count(column) > 1):
            raise InputError(f"{where}: column '{column}' stands twice in the header; leave one")

    def take(self, header: Sequence[str], wanted: Sequence[str], separator: str | None) -> dict[str, list[str]]:
        """Return the wanted ones of the columns that `header` names, of lines below it."""
        columns: dict[str, list[str]] = {name: [] for name in wanted}
        places = [(cells, header.index(name)) for name, cells in columns.items()]
        for start in range(0, len(self.lines), BLOCK_LINES):
            block = self.lines[start : start + BLOCK_LINES]
            flat = _flatten(block, len(header), separator)
            if flat is None:
                widths = [len(_split(line, separator)) for line in block]
                odd = next(row for row, width in enumerate(widths) if width != len(header))
                raise InputError(
                    f"{self.where(start + odd)}: {widths[odd]} columns, expected {len(header)}: {' '.join(header)}"
                )
            for cells, place in places:
                cells.extend(flat[place :: len(header)])
        return columns

    def refuse(self, faults: Iterable[Fault]) -> None:
        """Refuse a table with faults: the first in full, and how many more there are."""
        if ordered := sorted(faults):
            row, message = ordered[0]
            more = f" (and {len(ordered) - 1} more faulty lines)" if len(ordered) > 1 else ""
            raise InputError(f"{self.where(row)}: {message}{more}")


def read_lines(path: str | Path) -> Text:
    """Read the lines of a table, in which the only control characters are tabs."""
    content = read_text(path)
    lines = content.split("\n")
    if CONTROL.search(content):
        number, line = next((number, line) for number, line in enumerate(lines, start=1) if CONTROL.search(line))
        cell = next(cell for cell in line.split(TAB) if CONTROL.search(cell))
        raise InputError(f"{path}:{number}: holds control characters: {cell[:80]!r}; rename it, or is this no table?")
    numbers: Sequence[int] = [number for number, line in enumerate(lines, start=1) if line and not line.isspace()]
    if len(numbers) < len(lines):
        lines = [lines[number - 1] for number in numbers]
    return Text(Path(path), lines, numbers)


def read_rows(path: Path, required: Columns, separator: str = TAB) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a table whose header holds the required columns; commas allow quotation marks."""
    text = read_lines(path)
    rows = enumerate(line.split(TAB) for line in text.lines) if separator == TAB else _parse(text)
    header = next(rows, (0, list[str]()))[1]
    text.require(header, required, separator)
    for row, cells in rows:
        if len(cells) == len(header):
            yield text.numbers[row], dict(zip(header, cells, strict=True))
        elif any(cells):
            raise InputError(
                f"{text.where(row)}: {len(cells)} columns, expected {len(header)} as in the header, separated by "
                f"{NAMES[separator]}"
            )


def _parse(text: Text) -> Iterator[tuple[int, list[str]]]:
    """Yield (row of its last line, cells) of records separated by commas; a quoted cell may have several lines."""
    reader = csv.reader((f"{line}\n" for line in text.lines), strict=True)
    try:
        for cells in reader:
            yield reader.line_num - 1, cells
    except csv.Error as error:
        raise InputError(f"{text.where(reader.line_num - 1)}: is no line of a table with commas ({error})") from error


def read_columns(path: Path, *layouts: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by name) of a file separated by white space; layouts differ in their widths."""
    by_width = {len(layout): layout for layout in layouts}
    text = read_lines(path)
    for line, cells in zip(text.numbers, map(str.split, text.lines), strict=True):
        names = by_width.get(len(cells))
        if names is None:
            expected = " or ".join(f"{len(layout)} ({' '.join(layout)})" for layout in layouts)
            raise InputError(f"{path}:{line}: {len(cells)} columns, expected {expected}")
        yield line, dict(zip(names, cells, strict=True))


def _split(line: str, separator: str | None) -> list[str]:
    """Return the cells of a line; none where its quotation marks do not match."""
    if separator != COMMA or '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return []


def _flatten(lines: Sequence[str], width: int, separator: str | None) -> list[str] | None:
    """Return all cells of lines that have `width` each, line after line, or None where one has not.

    One list for many lines: a list for every line would keep Python's garbage collector busy for most of the time.
    """
    if separator != COMMA or not any('"' in line for line in lines):
        flat = (separator or " ").join(lines).split(separator)
        if len(flat) == width * len(lines) and {line.count(separator or " ") for line in lines} == {width - 1}:
            return flat
    rows = [_split(line, separator) for line in lines]  # more white space than one blank is well, too
    return [cell for row in rows for cell in row] if {len(row) for row in rows} == {width} else None


@contextmanager
def open_table(path: str | Path, columns: Sequence[str]) -> Iterator[Callable[[Collection[object]], None]]:
    """Yield a function that adds a row to a new table, which is there once the block has ended well."""
    with atomic_write(path) as handle:

        def write(cells: Collection[object]) -> None:
            row = [*map(str, cells)]
            line = TAB.join(row)
            if line.count(TAB) >= len(columns) or "\n" in line or CONTROL.search(line):
                pairs = zip(columns, row, strict=True)
                column, cell = next(pair for pair in pairs if has_control_characters(pair[1]))
                raise InputError(
                    f"{path}: column '{column}' of '{row[0]}' holds control characters: {cell!r}; rename it"
                )
            handle.write(f"{line}\n")

        write(columns)
        yield write


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Collection[object]]) -> None:
    """Write a table, atomically."""
    with open_table(path, columns) as write:
        for row in rows:
            write(row)
