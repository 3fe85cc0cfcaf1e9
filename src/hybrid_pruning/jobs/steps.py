"""The steps of a job: each is done once, and again only when its inputs have changed."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_pruning import distributed as processes
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file, write_json
from hybrid_pruning.trees import read_json

FOLDER = "stages"
"""Of the steps' records in a job, as it has been called since the first version."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job, of a unique name.

    Args:
        settings: plain values that decide the result.
        inputs: files from outside the job that decide the result; their content counts, not their date.
        needs: steps whose results it is made from.
        shared: done by all processes of the job together; otherwise by the main one alone.
    """

    name: str
    action: Callable[[], object]
    outputs: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    needs: tuple["Step", ...] = ()
    shared: bool = False

    def fingerprint(self) -> str:
        """Return a digest of all that the result depends on: settings, inputs, and the steps it needs."""
        parts = [json.dumps(dict(self.settings), sort_keys=True), *map(digest_file, self.inputs)]
        parts += [step.fingerprint() for step in self.needs]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def last_fingerprint(self, out: Path) -> str | None:
        """Return the fingerprint of the last result in a job's folder; None where there is no intact record."""
        try:
            return str(read_json(self.record(out))["fingerprint"])
        except (InputError, KeyError):
            return None

    def record(self, out: Path) -> Path:
        """Return the file that keeps the fingerprint of the last result."""
        return out / FOLDER / f"{self.name.replace(' ', '-')}.json"


def bring_up_to_date(steps: Sequence[Step], out: Path) -> None:
    """Do the steps of the job `out` that are missing or stale, in order; those before a failure stay done."""
    for step in steps:
        processes.wait()  # nobody looks at a result that the main process is still writing
        fingerprint = step.fingerprint()
        current = step.last_fingerprint(out) == fingerprint and all(path.exists() for path in step.outputs)
        processes.wait()  # nobody changes a result that another has not looked at yet
        if processes.is_main():
            say(f"{step.name}: {'up to date' if current else 'working'}", style="dim" if current else "bold")
        if current:
            continue
        if step.shared or processes.is_main():
            step.action()
        if processes.is_main():
            write_json(step.record(out), {"fingerprint": fingerprint})
    processes.wait()
