"""Kills at every write: a command is killed before, in and after each, called again, and compared with one left alone.

Python reports to its audit hooks every file that is opened to be written, renamed or removed, and every folder that is
made or removed, whichever library does it. A child counts those below the working folder and ends, as by `kill -9`, at
a given one: "before" it, which is after the one before it, or with the file that was written last cut to half.
"""

import json
import os
import random
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import runs
from hybrid_pruning.files import LOCK, TEMPORARY, UNFINISHED
from hybrid_pruning.training.runs import read_checkpoint

KILLED = 137
CHANGES = frozenset(f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "truncate", "link", "symlink"))
OUTPUT = "output.txt"
HANGING = 900
"""Seconds after which a command counts as hanging; an ONNX export takes minutes beside other work."""
TIMED = ("tensorboard", "stages", ".durations.tsv", OUTPUT)
"""Files whose content depends on the time."""

Make = Callable[[Path], object]
"""Writes the inputs of a command into a folder."""
Points = Callable[[int], Sequence[tuple[int, bool]]]
"""Number of writes -> those to be killed at, and whether with the file that was written last cut to half."""


class KillAt:
    """An audit hook that ends the process at one of its writes.

    Args:
        folder: where writes count.
        point: the write at which it ends, from 1; 0 for none.
        half: cut the file that was opened last to half before.
    """

    def __init__(self, folder: Path, point: int, half: bool) -> None:
        self.folder, self.point, self.half = f"{folder}/", point, half
        self.count, self.last, self.pid, self.busy = 0, (Path(), 0), os.getpid(), False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy or os.getpid() != self.pid:
            return
        if event not in {"open", *CHANGES} or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = str(Path(arguments[0]).absolute())
        if not path.startswith(self.folder) or path.endswith(OUTPUT):
            return
        self.count += 1
        self.busy = True
        if self.count == self.point:
            last, before = self.last
            if self.half and last.is_file():
                os.truncate(last, (before + last.stat().st_size) // 2)
            os._exit(KILLED)
        if event == "open":
            self.last = Path(path), Path(path).stat().st_size if Path(path).is_file() else 0
        self.busy = False


def command(folder: str, point: int, half: bool, arguments: Sequence[str]) -> None:
    """Be the command line in a folder until the given write; print how many there were."""
    os.chdir(folder)
    hook = KillAt(Path(folder), point, half)
    sys.addaudithook(hook)
    try:
        runs.run_command(*arguments)
    finally:
        if not point:
            os.write(1, f"\nwrites: {hook.count}\n".encode())


def call(folder: Path, arguments: str, point: int = 0, half: bool = False) -> int:
    """Call the command line in a process of its own and return its exit code."""
    output = folder / OUTPUT
    output.unlink(missing_ok=True)
    [code] = runs.finish(
        runs.start(command, [str(folder), point, half, shlex.split(arguments)], output), seconds=HANGING
    )
    return code


def call_again(folder: Path, arguments: str, point: int = 0, half: bool = False) -> int:
    """Call a command as a user does after a kill: a training that has begun is resumed."""
    words = arguments.split()
    begun = words[0] == "train" and (folder / words[words.index("--out") + 1] / "config.yaml").exists()
    return call(folder, f"{arguments} --resume" if begun else arguments, point, half)


def kill_and_complete(make: Make, folder: Path, arguments: str, points: Points) -> int:
    """Kill a command at each of the points, call it again and compare; return the number of kills.

    The folder is always the same, and so is what is written there.
    """
    total, expected = call_alone(make, folder, arguments)
    for point, half in points(total):
        renew(make, folder)
        place = f"{arguments}: write {point} of {total}{', half' if half else ''}"
        assert_code(call(folder, arguments, point, half), KILLED, folder, place)
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if is_trace(path))
        assert_code(call_again(folder, arguments), 0, folder, f"{place}, leaving {left}")
        compare(folder, expected, place)
    return len(points(total))


def kill_until_complete(make: Make, folder: Path, arguments: str, chance: random.Random, steps: int) -> int:
    """Kill a command again and again, each time within so many writes, until it completes; return the number of kills.

    For jobs of many writes, which go on where they were.
    """
    _, expected = call_alone(make, folder, arguments)
    renew(make, folder)
    points = []
    while True:
        point, half = chance.randint(1, steps), chance.random() < 0.5
        code = call_again(folder, arguments, point, half)
        if code != KILLED:
            break
        points.append(f"{point}{' half' if half else ''}")
    place = f"{arguments}: killed at writes {', '.join(points)}"
    assert_code(code, 0, folder, place)
    compare(folder, expected, place)
    return len(points)


def renew(make: Make, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)


def call_alone(make: Make, folder: Path, arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the number of writes of a command that is not killed, and the content of the folder after it."""
    renew(make, folder)
    assert_code(call(folder, arguments), 0, folder, arguments)
    return int((folder / OUTPUT).read_text().rpartition("writes: ")[2]), contents(folder)


def assert_code(code: int, expected: int, folder: Path, place: str) -> None:
    assert code == expected, f"{place}: ended with {code}\n{(folder / OUTPUT).read_text()}"


def compare(folder: Path, expected: dict[str, Any], place: str) -> None:
    found = contents(folder)
    assert sorted(found) == sorted(expected), place
    for name, content in expected.items():
        runs.assert_same(found[name], content, f"{place}: {name}")


def is_trace(path: Path) -> bool:
    return path.name in (LOCK, UNFINISHED) or path.name.endswith((TEMPORARY, ".tmp", ".partial"))


def contents(folder: Path) -> dict[str, Any]:
    """Return the content of every file below a folder, but of those that depend on the time; traces count as files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if is_trace(path):
            found[str(name)] = "a trace"
        elif path.is_file() and not any(part in name.parts for part in TIMED):
            found[str(name)] = content(path)
    return found


def content(path: Path) -> Any:
    if path.suffix == ".pt":
        return read_checkpoint(path)
    if path.name == "log.jsonl":
        return runs.read_log(path.parent)
    if path.suffix == ".html":
        return len(path.read_bytes()) // 10_000  # shows how fast the training went
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()
