"""How long recordings are: read from their headers in parallel, remembered beside the manifests, written into them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hybrid_pruning.audio import SAMPLE_RATE_HZ, audio_samples
from hybrid_pruning.console import progress_bar
from hybrid_pruning.data.manifest import REQUIRED
from hybrid_pruning.data.tables import TAB, read_rows, write_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write

CACHE = ".durations.tsv"
"""Beside the manifests: path as they have it, size in bytes, time of last change in ns, seconds."""
WHOLE = re.compile(r"\d+\t\d+\t\d+\.\d{3}", re.ASCII)  # a number cut off is no number
BATCH = 256  # files a worker takes at a time
FIRST = 10


def add_durations(manifest: str | Path, workers: int = 4, drop_unreadable: bool = False) -> list[str]:
    """Fill a manifest's column `seconds`; what the cache beside it knows is not read again.

    Args:
        manifest: rewritten in place, atomically; its other columns stay as they are.
        workers: files read at the same time.
        drop_unreadable: leave out the files whose header cannot be read, instead of refusing.

    Returns:
        What was left out, one line, or nothing.

    Raises:
        InputError: the manifest cannot be read, or a file in it cannot; the cache keeps what was read.
    """
    manifest = Path(manifest)
    paths = [row["path"] for _, row in read_rows(manifest, REQUIRED)]
    faults: dict[str, str] = {}
    durations = measure_durations(paths, manifest.parent, workers, faults)
    unreadable = [path for path in paths if path not in durations]
    message = (
        f"{manifest}: {len(unreadable):,} of {len(paths):,} audio files cannot be used, first "
        f"{', '.join(unreadable[:FIRST])}"
    )
    if unreadable:
        message += f" ({faults[unreadable[0]].removeprefix(f'{manifest.parent / unreadable[0]}: ').partition(';')[0]})"
    if unreadable and (not drop_unreadable or len(unreadable) == len(paths)):
        raise InputError(f"{message}; replace them, or --allow-missing leaves them out, or --no-durations asks no file")
    _rewrite(manifest, durations)
    return [f"{message}; left out"] if unreadable else []


def measure_durations(
    paths: Sequence[str], folder: Path, workers: int = 4, faults: dict[str, str] | None = None
) -> Mapping[str, float]:
    """Return path -> seconds of the files whose headers can be read; interrupted, it keeps what it has read.

    Args:
        paths: relative to the folder, or absolute.
        folder: where the cache lies.
        workers: files read at the same time.
        faults: is given why the others cannot be used.
    """
    cache = _read_cache(folder / CACHE)
    durations: dict[str, float] = {}
    changed = False
    try:
        for path, stamp, seconds in _measure_all(paths, folder, cache, workers):
            if isinstance(seconds, str):
                if faults is not None:
                    faults[path] = seconds
            else:
                durations[path] = seconds
                changed |= cache.get(path) != (known := f"{stamp}{seconds:.3f}")
                cache[path] = known
    finally:
        if changed:
            _write_cache(folder / CACHE, cache)
    return durations


def _measure_all(
    paths: Sequence[str], folder: Path, cache: Mapping[str, str], workers: int
) -> Iterator[tuple[str, str, float | str]]:
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with progress_bar() as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("durations", total=len(paths))
        try:
            for batch in pool.map(lambda batch: [_measure(folder, path, cache) for path in batch], batches):
                yield from batch
                bar.update(task, advance=len(batch))
        finally:
            pool.shutdown(cancel_futures=True)


def _measure(folder: Path, path: str, cache: Mapping[str, str]) -> tuple[str, str, float | str]:
    """Return path, what tells a changed file, and seconds or why there is no audio to be had."""
    file = folder / path
    try:
        status = file.stat()
        stamp = f"{status.st_size}{TAB}{status.st_mtime_ns}{TAB}"
        known = cache.get(path, "")
        if known.startswith(stamp):
            return path, stamp, float(known[len(stamp) :])
        return path, stamp, audio_samples(file) / SAMPLE_RATE_HZ or "holds no audio"
    except (OSError, InputError) as error:
        return path, "", str(error)


def _read_cache(path: Path) -> dict[str, str]:
    """Return path -> size, time and seconds as one text; a damaged line, or file, is as good as none."""
    cache: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8", newline="\n") as handle:
            for line in handle:
                name, _, known = line.removesuffix("\n").partition(TAB)
                if WHOLE.fullmatch(known):
                    cache[name] = known
    except (OSError, UnicodeDecodeError):
        pass
    return cache


def _write_cache(path: Path, cache: Mapping[str, str]) -> None:
    with atomic_write(path) as handle:
        handle.writelines(f"{name}{TAB}{known}\n" for name, known in cache.items())


def _rewrite(manifest: Path, durations: Mapping[str, float]) -> None:
    """Write the manifest anew with the durations, without the rows that have none."""
    measured = [row for _, row in read_rows(manifest, REQUIRED) if row["path"] in durations]
    for row in measured:
        row["seconds"] = f"{durations[row['path']]:.3f}"
    write_table(manifest, list(measured[0]), (row.values() for row in measured))
