"""What a scoring or embedding that was cut off leaves beside its output, and how the next call goes on from it.

A folder `OUT.partial`, which every process of the job has to see: `settings.json` says what is scored with what,
`lengths.npy` holds the lengths that the batches were planned from, and each process adds a line of JSON to its own
`results-RANK.jsonl` for every job it has finished. A line that a kill cut short does not count.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from hybrid_pruning import processes
from hybrid_pruning.embedder import Embedder
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, cannot_write, remove_leftovers
from hybrid_pruning.jobs import JobResult
from hybrid_pruning.manifest import Utterance
from hybrid_pruning.processes import FloatArray
from hybrid_pruning.terminal import say

SETTINGS, LENGTHS, RESULTS = "settings.json", "lengths.npy", "results-*.jsonl"


@dataclass(frozen=True, slots=True)
class Storage:
    """How a value is written in JSON.

    Args:
        encode: value -> what JSON has.
        decode: and back, bit for bit; raises ValueError or TypeError for what it cannot be.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _encode_vector(vector: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def _decode_vector(text: Any) -> Any:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


SCALARS = Storage(float, float)
VECTORS = Storage(_encode_vector, _decode_vector)
"""Of float32, as base64: half as long as the numbers in decimals."""


class Partial:
    """The results so far of one scoring or embedding; a context that closes this process's file.

    Args:
        out: the file that will be written.
        settings: all that the values depend on. What is there from other settings is removed, and that is said.
        storage: how they are written.

    Raises:
        InputError: the output is a folder, or its folder cannot be written to.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], storage: Storage = SCALARS) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self.settings, self.storage = dict(settings), storage
        self._handle: IO[str] | None = None
        if processes.is_main():
            if out.is_dir():
                raise InputError(f"{out}: is a folder; give the name of a file")
            self._claim()
        processes.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.close()

    def lengths(self, measure: Callable[[], tuple[FloatArray, dict[int, str]]]) -> tuple[FloatArray, dict[int, str]]:
        """Return what the first call measured, so that the batches stay what they were; measure in that first call.

        Returns:
            [N] samples, nan where a file could not be opened, and why not where it was tried just now.
        """
        path = self.folder / LENGTHS
        if processes.from_main(path.exists):
            return np.load(path, allow_pickle=False), {}
        lengths, failed = measure()
        if processes.is_main():
            with atomic_write(path, "wb") as handle:
                np.save(handle, lengths)
        return lengths, failed

    def results(self) -> list[JobResult[Any]]:
        """Return what all processes of earlier calls finished, the same to every process."""
        return processes.from_main(self._read_results)

    def add(self, result: JobResult[Any]) -> None:
        """Keep what a job came to, whatever happens to this process next.

        Raises:
            InputError: the disk takes no more.
        """
        try:
            if self._handle is None:
                self._handle = _open_for_lines(self.folder / RESULTS.replace("*", str(processes.rank())))
            values = {index: self.storage.encode(value) for index, value in result.values.items()}
            line = {"job": result.job, "values": values, "failed": dict(result.failed)}
            if result.silent:
                line["silent"] = sorted(result.silent)
            self._handle.write(json.dumps(line) + "\n")
            self._handle.flush()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def remove(self) -> None:
        """Remove it all: the file is there."""
        self._clear()
        with suppress(OSError):  # somebody keeps a file of his own in it
            self.folder.rmdir()

    def _claim(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        old = self._read_settings()
        if old == self.settings:
            return
        if old is not None:
            other = ", ".join(name.replace("_", " ") for name in self.settings if old.get(name) != self.settings[name])
            say(f"{self.folder}: is of another {other}; starting anew")
        self._clear()
        with atomic_write(self.folder / SETTINGS) as handle:
            json.dump(self.settings, handle, indent=1)

    def _read_results(self) -> list[JobResult[Any]]:
        lines = (
            line
            for path in sorted(self.folder.glob(RESULTS))
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        )
        return [result for result in (_parse(line, self.storage) for line in lines) if result is not None]

    def _read_settings(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else {}

    def _clear(self) -> None:
        for path in (self.folder / SETTINGS, self.folder / LENGTHS, *self.folder.glob(RESULTS)):
            path.unlink(missing_ok=True)
        remove_leftovers(self.folder)


def fingerprint_model(model: Embedder, calibrated: bool = True) -> str:
    """Return a digest of a model's architecture and weights and, where scores are meant, of its calibration."""
    about = {**model.architecture(), **({"calibration": repr(model.calibration)} if calibrated else {})}
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16)
    for name, values in model.weights():
        digest.update(name.encode())
        digest.update(values)
    return digest.hexdigest()


def fingerprint_manifest(utterances: Iterable[Utterance]) -> str:
    """Return a digest of what a manifest says about which files are scored, and in which order."""
    digest = hashlib.blake2b(digest_size=16)
    for utterance in utterances:
        row = f"{utterance.utt_id}\t{utterance.path.absolute()}\t{utterance.seconds!r}\n"
        digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _parse(line: str, storage: Storage) -> JobResult[Any] | None:
    """Return what a line says; None for one that was cut short."""
    try:
        found = json.loads(line)
        values = {int(index): storage.decode(value) for index, value in found["values"].items()}
        failed = {int(index): str(why) for index, why in found["failed"].items()}
        return JobResult(int(found["job"]), values, failed, frozenset(map(int, found.get("silent", ()))))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _open_for_lines(path: Path) -> IO[str]:
    """Open a file to add lines to, ending the one that a kill may have cut short."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    handle = path.open("a", encoding="utf-8")
    if torn:
        handle.write("\n")
    return handle
