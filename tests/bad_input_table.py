"""Every bad input with the line it ends in, as a table to read: python tests/bad_input_table.py [TABLE.md]."""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from test_bad_input import CASES
from world import Case, copy_world, make_world, run_main


def main() -> None:
    """Run all cases in copies of one world and write the table, to standard output where no file is named."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        (Path(folder) / "pristine").mkdir()
        pristine = make_world(Path(folder) / "pristine")
        rows = list(write_rows(pristine, Path(folder) / "copy"))
    table = "".join(f"{row}\n" for row in ("| case | command | exit code | message |", "|---|---|---|---|", *rows))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(table, encoding="utf-8")
    else:
        sys.stdout.write(table)


def write_rows(pristine: Path, folder: Path) -> Iterator[str]:
    """Yield a row for each case."""
    for name, case in CASES.items():
        if case.needs and shutil.which(case.needs) is None:
            continue
        copy_world(pristine, folder)
        code, message = run(case, folder)
        cells = (name, case.command, str(code), message.strip().replace(f"{folder}/", ""))
        yield "| " + " | ".join(shorten(cell) for cell in cells) + " |"
        shutil.rmtree(folder)


def run(case: Case, folder: Path) -> tuple[int, str]:
    """Damage a world, run the command there, and return its exit code and what it wrote to standard error."""
    case.damage(folder)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        code = run_main(case.command.split(), folder)
    return code, printed.getvalue()


def shorten(cell: str) -> str:
    """Return a cell of printable text, its middle left out where it is long."""
    text = cell if len(cell) <= 400 else f"{cell[:200]} ... {cell[-150:]}"
    return text.encode("ascii", "backslashreplace").decode().replace("|", "\\|").replace("\x1b", "\\x1b")


if __name__ == "__main__":
    main()
