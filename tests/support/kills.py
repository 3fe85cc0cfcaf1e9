"""Deaths at every write: a command is killed before, in and after each, called again, and compared with one left alone.

Python tells its audit hooks of every file that is opened to be written, renamed or removed, and of every folder that is
made or removed, whichever library does it. A child counts those below the working folder and ends, as by `kill -9`, at
the one it is given: "before" it, which is after the one before it, or with what was written last cut to half.
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
MOODS = ("tensorboard", "stages", ".durations.tsv", "output.txt")
"""Files that say when they were written."""


Deadly = Callable[[int], Sequence[tuple[int, bool]]]


class Deaths:
    """An audit hook that ends the process at one of its writes.

    Args:
        folder: where writes count.
        point: the write at which it ends, from 1; 0 for none.
        half: cut what was opened last to half before.
    """

    def __init__(self, folder: Path, point: int, half: bool) -> None:
        self.folder, self.point, self.half = f"{folder}/", point, half
        self.count, self.last, self.pid, self.busy = 0, (Path(), 0), os.getpid(), False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy or os.getpid() != self.pid:
            return
        if event == "open":
            if not isinstance(arguments[0], str | os.PathLike) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in CHANGES or not isinstance(arguments[0], str | os.PathLike):
            return
        path = str(Path(arguments[0]).absolute())
        if not path.startswith(self.folder) or path.endswith(MOODS[-1]):
            return
        self.count += 1
        self.busy = True
        if self.count == self.point:
            self._die()
        if event == "open":
            self.last = Path(path), Path(path).stat().st_size if Path(path).is_file() else 0
        self.busy = False

    def _die(self) -> None:
        path, before = self.last
        if self.half and path.is_file():
            os.truncate(path, (before + path.stat().st_size) // 2)
        os._exit(KILLED)


def command(folder: str, point: int, half: bool, arguments: Sequence[str]) -> None:
    """Be the command line in a folder until the given write; print how many there were."""
    os.chdir(folder)
    hook = Deaths(Path(folder), point, half)
    sys.addaudithook(hook)
    try:
        runs.run_command(*arguments)
    finally:
        if not point:
            os.write(1, f"\nwrites: {hook.count}\n".encode())


def call(folder: Path, arguments: str, point: int = 0, half: bool = False) -> int:
    """Call the command line in a process of its own and return its exit code."""
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    process = runs.start(command, [str(folder), point, half, shlex.split(arguments)], output)
    [code] = runs.finish(process)
    assert code is not None
    return code


def again(folder: Path, arguments: str) -> str:
    """Return what a user types after a kill: a training that has begun is resumed."""
    words = arguments.split()
    begun = words[0] == "train" and (folder / words[words.index("--out") + 1] / "config.yaml").exists()
    return f"{arguments} --resume" if begun else arguments


def survives(make: Callable[[Path], object], folder: Path, arguments: str, deaths: Deadly) -> int:
    """Kill a command at each of its deaths, call it again and compare; return how many times it was killed.

    Args:
        make: writes what the command needs into a folder.
        folder: where, always the same, so that what it writes is.
        arguments: the command.
        deaths: number of writes -> those to die at, and whether with what was written last cut to half.
    """
    total, expected = alone(make, folder, arguments)
    for point, half in deaths(total):
        renew(make, folder)
        place = f"{arguments}: write {point} of {total}{', half' if half else ''}"
        code = call(folder, arguments, point, half)
        assert code == KILLED, f"{place}: ended with {code}\n{(folder / 'output.txt').read_text()}"
        complete(folder, arguments, expected, place)
    return len(deaths(total))


def outlives(make: Callable[[Path], object], folder: Path, arguments: str, chance: random.Random, steps: int) -> int:
    """Kill a command again and again, each time within so many writes, until it completes; return how often it died.

    For jobs of many writes, which go on where they were.
    """
    _, expected = alone(make, folder, arguments)
    renew(make, folder)
    deaths: list[str] = []
    while True:
        point, half = chance.randint(1, steps), chance.random() < 0.5
        code = call(folder, again(folder, arguments), point, half)
        if code != KILLED:
            break
        deaths.append(f"{point}{' half' if half else ''}")
    place = f"{arguments}: killed at writes {', '.join(deaths)}"
    assert code == 0, f"{place}: ended with {code}\n{(folder / 'output.txt').read_text()}"
    compare(folder, expected, place)
    return len(deaths)


def renew(make: Callable[[Path], object], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)


def alone(make: Callable[[Path], object], folder: Path, arguments: str) -> tuple[int, dict[str, Any]]:
    """Return how many writes a command takes that nobody kills, and what it leaves."""
    renew(make, folder)
    code = call(folder, arguments)
    output = (folder / "output.txt").read_text()
    assert code == 0, f"{arguments}: {output}"
    return int(output.rpartition("writes: ")[2]), contents(folder)


def complete(folder: Path, arguments: str, expected: dict[str, Any], place: str) -> None:
    """Call a command that was killed again, and compare."""
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if is_trace(path))
    code = call(folder, again(folder, arguments))
    assert code == 0, f"{place}, leaving {left}: ended with {code}\n{(folder / 'output.txt').read_text()}"
    compare(folder, expected, place)


def compare(folder: Path, expected: dict[str, Any], place: str) -> None:
    found = contents(folder)
    assert sorted(found) == sorted(expected), place
    for name, content in expected.items():
        runs.assert_same(found[name], content, f"{place}: {name}")


def is_trace(path: Path) -> bool:
    return path.name in (LOCK, UNFINISHED) or path.name.endswith((TEMPORARY, ".tmp", ".partial"))


def contents(folder: Path) -> dict[str, Any]:
    """Return what every file below a folder holds, without what depends on the time; traces count as files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if is_trace(path):
            found[str(name)] = "a trace"
        elif path.is_file() and not any(mood in name.parts for mood in MOODS):
            found[str(name)] = content(path)
    return found


def content(path: Path) -> Any:
    if path.suffix == ".pt":
        return read_checkpoint(path)
    if path.name == "log.jsonl":
        return runs.read_log(path.parent)
    if path.suffix == ".html":
        return len(path.read_bytes()) // 10_000  # shows how fast the training went
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return path.read_bytes()
