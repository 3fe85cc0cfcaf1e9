"""A resumable pass over the recordings of a manifest: cut off, its next call goes on from the results so far.

The folder `OUT.partial`, on a disk that all processes share: `settings.json` holds all that the values depend on,
`lengths.npy` the lengths that the batches were planned from, and each process adds a line of JSON to its own
`results-RANK.jsonl` for every group it has finished. Lengths and lines end with a checksum: one that a kill cut short,
or a disk damaged, does not count. One program at a time holds the folder.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import NO_SPEECH
from hybrid_pruning.console import printable, say, warn
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, cannot_write, hold, remove_leftovers, require_allowed, write_json
from hybrid_pruning.models.artifact import fingerprint_model, versions
from hybrid_pruning.scoring.engine import Engine, GroupResult, Quantity, Recordings, share
from hybrid_pruning.scoring.windows import measure_lengths
from hybrid_pruning.trees import read_json

SETTINGS, LENGTHS, RESULTS = "settings.json", "lengths.npy", "results-*.jsonl"
DONE = {"scores": "scored", "embeddings": "embedded"}


def run_resumable(
    engine: Engine,
    utterances: Sequence[Utterance],
    out: Path,
    quantity: Quantity,
    write: Callable[[FloatArray, FloatArray], None],
    skip_bad: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Return [N] scores or [N, E] embeddings and [N] samples at 16 kHz, the same to every process.

    Files that cannot be used stop nothing and are an error in the end; with `skip_bad` they are nan. Beside `out`
    stand, meanwhile, the folder `OUT.partial`, and `OUT.failed.tsv` where files cannot be used. The main process calls
    `write` with the result before the partial results are removed.
    """
    paths, seconds = [utterance.path for utterance in utterances], [utterance.seconds for utterance in utterances]
    window = engine.window
    with Partial(out, _settings(engine, utterances, quantity)) as partial:
        samples, failed = partial.lengths(lambda: measure_lengths(paths, seconds, window))
        earlier = processes.from_main(partial.results)
        recordings = Recordings(paths, samples, seconds)
        groups = _plan_rest(engine, recordings, failed, earlier, partial.folder)
        values, silent = engine.empty(quantity, len(paths)), {index for result in earlier for index in result.silent}
        for result in earlier if processes.is_main() else ():
            result.fill(values)
        with closing(engine.run(recordings, share(groups), quantity)) as results:
            for result in results:
                partial.add(result)
                result.fill(values)
                failed |= result.failed
                silent |= result.silent
        processes.wait()
        failed = dict(processes.join_lists(list(failed.items())))
        values, silent = processes.join_arrays(values), set(processes.join_lists(sorted(silent)))
    if processes.is_main():
        if silent:
            warn(f"{paths[min(silent)]}: {NO_SPEECH}; {len(silent):,} of {len(paths):,} files are like this")
        if failed:
            chosen = ((utterances[index], printable(" ".join(failed[index].split()))) for index in sorted(failed))
            write_table(failures_of(out), ("utt_id", "path", "reason"), ((u.utt_id, u.path, why) for u, why in chosen))
        else:
            failures_of(out).unlink(missing_ok=True)
        if not failed or skip_bad:
            write(values, samples)
            partial.remove()
    processes.wait()  # a process that leaves with an error ends the others: the main one has to have written by then
    if failed and not skip_bad:
        raise InputError(
            f"{failed[min(failed)]}; {len(failed)} of {len(paths)} files cannot be {DONE[quantity]} and are listed in "
            f"{failures_of(out)}; the {quantity} of the others are kept: mend these and call again, or leave them out "
            "with --skip-bad"
        )
    return values, samples


def failures_of(out: Path) -> Path:
    """Return the list of the files that could not be used for an output."""
    return out.with_name(f"{out.name}.failed.tsv")


def fingerprint_manifest(utterances: Iterable[Utterance]) -> str:
    """Return a digest of the files that a manifest lists, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for utterance in utterances:
        row = f"{utterance.utt_id}\t{utterance.path.absolute()}\t{utterance.seconds!r}\n"
        digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class Partial:
    """The results so far of one pass, a context; those of other settings are removed, with a notice."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = out.with_name(f"{out.name}.partial"), dict(settings)
        self._handle: IO[str] | None = None
        self._held = ExitStack()
        if processes.is_main():
            require_allowed(out)
            if out.is_dir():
                raise InputError(f"{out}: is a folder; give the name of a file")
            with ExitStack() as stack:
                stack.enter_context(hold(self.folder))
                self._claim()
                self._held = stack.pop_all()
        processes.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.close()
        self._held.close()

    def lengths(self, measure: Callable[[], tuple[FloatArray, dict[int, str]]]) -> tuple[FloatArray, dict[int, str]]:
        """Return [N] samples as the first call measured them, so that batches stay, and new reasons of failure."""
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

    def add(self, result: GroupResult) -> None:
        """Keep the result of a group on the disk."""
        text = _to_line(result)
        with _named(self.folder):
            if self._handle is None:
                path = self.folder / RESULTS.replace("*", str(processes.rank()))
                torn = path.exists() and not path.read_bytes().endswith(b"\n")  # a kill cut its last line short
                self._handle = path.open("a", encoding="utf-8")
                self._handle.write("\n" if torn else "")
            self._handle.write(f"{text}\t{_checksum(text.encode()).decode()}\n")
            self._handle.flush()

    def remove(self) -> None:
        """Remove it all: the output is written."""
        self._clear()
        self._held.close()
        with suppress(OSError):  # another program's file is in it
            self.folder.rmdir()

    def _claim(self) -> None:
        """Take the folder over, emptied if it is of other settings."""
        old = None
        with suppress(InputError):
            old = read_json(self.folder / SETTINGS)
        if old == self.settings:
            return
        if old is not None:
            other = ", ".join(name.replace("_", " ") for name in self.settings if old.get(name) != self.settings[name])
            say(f"{self.folder}: is of another {other}; starting anew")
        self._clear()
        write_json(self.folder / SETTINGS, self.settings)

    def _clear(self) -> None:
        with _named(self.folder):
            for path in (*(self.folder / name for name in (SETTINGS, LENGTHS)), *self.folder.glob(RESULTS)):
                path.unlink(missing_ok=True)
        remove_leftovers(self.folder)

    def _read_lengths(self) -> FloatArray | None:
        """Return the lengths that are there; where they are damaged, forget all that was planned from them."""
        content = b""
        with _named(self.folder / LENGTHS), suppress(FileNotFoundError):
            content = (self.folder / LENGTHS).read_bytes()
        if content and _checksum(content[:-8]) == content[-8:]:
            lengths: FloatArray = np.load(io.BytesIO(content), allow_pickle=False)
            return lengths
        if content:
            say(f"{self.folder}: {LENGTHS} is damaged; starting anew")
        if content or any(self.folder.glob(RESULTS)):
            self._clear()
            write_json(self.folder / SETTINGS, self.settings)
        return None

    def results(self) -> list[GroupResult]:
        """Return the results of all processes of earlier calls, of lines that are whole."""
        with _named(self.folder):
            content = b"\n".join(path.read_bytes() for path in sorted(self.folder.glob(RESULTS)))
        results = []
        for line in content.split(b"\n"):
            text, _, checksum = line.rpartition(b"\t")
            if checksum == _checksum(text):
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    results.append(_from_line(text))
        return results


def _plan_rest(
    engine: Engine, recordings: Recordings, failed: dict[int, str], earlier: Sequence[GroupResult], folder: Path
) -> dict[int, list[int]]:
    """Return the groups that earlier calls have not finished, their numbers and values unchanged.

    A file that failed in an earlier call becomes a group of its own, its length filled in; where it cannot be opened
    again, it is added to those that failed.
    """
    groups, done = engine.plan(recordings.samples), {result.number for result in earlier}
    rest = {number: group for number, group in groups.items() if number not in done}
    if earlier and processes.is_main():
        say(f"{folder}: going on after {len(groups) - len(rest)} of {len(groups)} batches")
    known = (index for result in earlier for index in result.values)
    settled = {*known, *failed, *(index for group in rest.values() for index in group)}
    again = [index for index in range(len(recordings.paths)) if index not in settled]
    found, reasons = measure_lengths([recordings.paths[index] for index in again], None, engine.window)
    recordings.samples[again] = found
    failed |= {again[place]: why for place, why in reasons.items()}
    return rest | {len(groups) + index: [index] for index in again if np.isfinite(recordings.samples[index])}


def _settings(engine: Engine, utterances: Sequence[Utterance], quantity: Quantity) -> dict[str, Any]:
    """Return all that the values depend on, down to the last bit."""
    if not processes.is_main():
        return {}
    return {
        "quantity": quantity,
        "model": fingerprint_model(engine.model, calibrated=quantity == "scores"),
        "manifest": fingerprint_manifest(utterances),
        "batch_size": engine.batch_size,
        "window_seconds": [engine.window_seconds, "crops"] if engine.crops else engine.window_seconds,
        "device": engine.model.device_type,
        "version": versions(),
    }


def _to_line(result: GroupResult) -> str:
    """Return a result as JSON: scores as numbers, embeddings as base64 of float32, half as long as in decimals."""
    values: dict[int, float | str] = {}
    for index, value in result.values.items():
        vector = np.ascontiguousarray(value, dtype="<f4")
        values[index] = base64.b64encode(vector.tobytes()).decode("ascii") if np.ndim(value) else float(value)
    silent = {"silent": sorted(result.silent)} if result.silent else {}
    return json.dumps({"job": result.number, "values": values, "failed": dict(result.failed), **silent})


def _from_line(text: bytes) -> GroupResult:
    """Return the result of a line bit for bit; ValueError, KeyError, TypeError or AttributeError for another line."""

    def decode(value: Any) -> Any:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
        return float(value)

    found = json.loads(text)
    values = {int(index): decode(value) for index, value in found["values"].items()}
    failed = {int(index): str(why) for index, why in found["failed"].items()}
    return GroupResult(int(found["job"]), values, failed, frozenset(map(int, found.get("silent", ()))))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file or folder in an error of the disk."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _checksum(content: bytes) -> bytes:
    return f"{zlib.crc32(content):08x}".encode()
