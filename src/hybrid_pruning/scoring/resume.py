"""What a scoring or embedding that was cut off leaves beside its output, and how the next call goes on from it.

A folder `OUT.partial`, which every process of the job has to see: `settings.json` says what is scored with what,
`lengths.npy` holds the lengths that the batches were planned from, and each process adds a line of JSON to its own
`results-RANK.jsonl` for every job it has finished. Lengths and lines end with a checksum: what a kill cut short, or a
disk damaged, does not count. One job at a time holds the folder.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.console import say
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, cannot_write, hold, remove_leftovers, write_json
from hybrid_pruning.scoring.batching import JobResult
from hybrid_pruning.trees import read_json

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
        InputError: the output is a folder, its folder cannot be written to, or another process holds it.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], storage: Storage = SCALARS) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self.settings, self.storage = dict(settings), storage
        self._handle: IO[str] | None = None
        self._held = ExitStack()
        if processes.is_main():
            if out.is_dir():
                raise InputError(f"{out}: is a folder; give the name of a file")
            self._held.enter_context(hold(self.folder))
            try:
                self._claim()
            except BaseException:
                self._held.close()
                raise
        processes.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.close()
        self._held.close()

    def lengths(self, measure: Callable[[], tuple[FloatArray, dict[int, str]]]) -> tuple[FloatArray, dict[int, str]]:
        """Return what the first call measured, so that the batches stay what they were; measure in that first call.

        Returns:
            [N] samples, nan where a file could not be opened, and why not where it was tried just now.
        """
        known = processes.from_main(self._read_lengths)
        if known is not None:
            return known, {}
        lengths, failed = measure()
        if processes.is_main():
            content = io.BytesIO()
            np.save(content, lengths)
            with atomic_write(self.folder / LENGTHS, "wb") as handle:
                handle.write(content.getvalue() + _checksum(content.getvalue()))
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
            text = json.dumps(line)
            self._handle.write(f"{text}\t{_checksum(text.encode()).decode()}\n")
            self._handle.flush()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def remove(self) -> None:
        """Remove it all: the file is there."""
        self._clear()
        self._held.close()
        with suppress(OSError):  # somebody keeps a file of his own in it
            self.folder.rmdir()

    def _claim(self) -> None:
        old = self._read_settings()
        if old == self.settings:
            return
        if old is not None:
            other = ", ".join(name.replace("_", " ") for name in self.settings if old.get(name) != self.settings[name])
            say(f"{self.folder}: is of another {other}; starting anew")
        self._begin()

    def _read_lengths(self) -> FloatArray | None:
        """Return the lengths that are there; where they are damaged, forget all that was planned from them."""
        try:
            content = (self.folder / LENGTHS).read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise cannot_write(self.folder / LENGTHS, error) from error
        if content and _checksum(content[:-8]) == content[-8:]:
            lengths: FloatArray = np.load(io.BytesIO(content), allow_pickle=False)
            return lengths
        if content:
            say(f"{self.folder}: {LENGTHS} is damaged; starting anew")
        if content or any(self.folder.glob(RESULTS)):
            self._begin()
        return None

    def _begin(self) -> None:
        self._clear()
        write_json(self.folder / SETTINGS, self.settings)

    def _read_results(self) -> list[JobResult[Any]]:
        try:
            lines = b"\n".join(path.read_bytes() for path in sorted(self.folder.glob(RESULTS))).split(b"\n")
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        return [result for result in (_parse(line, self.storage) for line in lines) if result is not None]

    def _read_settings(self) -> dict[str, Any] | None:
        try:
            return read_json(self.folder / SETTINGS)
        except InputError:
            return None

    def _clear(self) -> None:
        try:
            for path in (self.folder / SETTINGS, self.folder / LENGTHS, *self.folder.glob(RESULTS)):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        remove_leftovers(self.folder)


def fingerprint_manifest(utterances: Iterable[Utterance]) -> str:
    """Return a digest of what a manifest says about which files are scored, and in which order."""
    digest = hashlib.blake2b(digest_size=16)
    for utterance in utterances:
        row = f"{utterance.utt_id}\t{utterance.path.absolute()}\t{utterance.seconds!r}\n"
        digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _checksum(content: bytes) -> bytes:
    return f"{zlib.crc32(content):08x}".encode()


def _parse(line: bytes, storage: Storage) -> JobResult[Any] | None:
    """Return what a line says; None for one that was cut short or damaged."""
    text, _, checksum = line.rpartition(b"\t")
    if checksum != _checksum(text):
        return None
    try:
        found = json.loads(text)
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
