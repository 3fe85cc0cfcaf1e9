"""Work in stages: each is done once, and again only when what it was made from has changed."""

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


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a job.

    Args:
        name: what the person reads, unique within the job.
        action: does it; called where the result is missing or stale.
        outputs: files and folders that are there once it is done.
        settings: plain values that decide the result.
        inputs: files from outside the job that decide the result; their content counts, not their date.
        needs: stages whose results it is made from.
        shared: whether all processes of the job do it together; otherwise the main one alone.
    """

    name: str
    action: Callable[[], object]
    outputs: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    needs: tuple["Stage", ...] = ()
    shared: bool = False

    def fingerprint(self) -> str:
        """Return what the result depends on, in short: settings, inputs, and all that it needs.

        Raises:
            InputError: an input cannot be read.
        """
        parts = [json.dumps(dict(self.settings), sort_keys=True), *map(digest_file, self.inputs)]
        parts += [stage.fingerprint() for stage in self.needs]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def bring_up_to_date(stages: Sequence[Stage], out: Path) -> None:
    """Do the stages that are missing or stale, in order, on all processes of the job.

    Args:
        stages: in an order in which what a stage needs stands before it.
        out: the job's folder; what each result was made from is kept below it.

    Raises:
        InputError: what a stage raises; those before it stay done.
    """
    for stage in stages:
        record = out / FOLDER / f"{stage.name.replace(' ', '-')}.json"
        processes.wait()  # nobody looks at a result that the main process is still writing
        fingerprint = stage.fingerprint()
        current = _read(record) == fingerprint and all(path.exists() for path in stage.outputs)
        processes.wait()  # nobody changes what another has not looked at yet
        if processes.is_main():
            say(f"{stage.name}: {'up to date' if current else 'working'}", style="dim" if current else "bold")
        if current:
            continue
        if stage.shared or processes.is_main():
            stage.action()
        if processes.is_main():
            write_json(record, {"fingerprint": fingerprint})
    processes.wait()


def was_made_from(stage: Stage, out: Path) -> bool | None:
    """Whether a stage's last result was made from what it would be made from now; None where it was never finished."""
    found = _read(out / FOLDER / f"{stage.name.replace(' ', '-')}.json")
    return None if found is None else found == stage.fingerprint()


def _read(record: Path) -> str | None:
    """The fingerprint of a stage's last result; a record that is missing or damaged is none."""
    try:
        return str(read_json(record)["fingerprint"])
    except (InputError, KeyError):
        return None
