"""Durations of recordings: read from their headers in parallel, cached beside the manifests, written into them."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
    """Fill a manifest's column `seconds`; files in the cache beside it are not read again.

    Args:
        manifest: rewritten in place, atomically; its other columns stay as they are.
        drop_unreadable: leave out the files whose header cannot be read, and return a line on them.
    """
    manifest = Path(manifest)
    paths = [row["path"] for _, row in read_rows(manifest, REQUIRED)]
    durations, faults = measure_durations(paths, manifest.parent, workers)
    unreadable = [path for path in paths if path not in durations]
    first = ", ".join(unreadable[:FIRST])
    message = f"{manifest}: {len(unreadable):,} of {len(paths):,} audio files cannot be used, first {first}"
    if unreadable:
        message += f" ({faults[unreadable[0]].removeprefix(f'{manifest.parent / unreadable[0]}: ').partition(';')[0]})"
    if unreadable and (not drop_unreadable or len(unreadable) == len(paths)):
        raise InputError(f"{message}; replace them, or --allow-missing leaves them out, or --no-durations asks no file")
    measured = [row for _, row in read_rows(manifest, REQUIRED) if row["path"] in durations]
    for row in measured:
        row["seconds"] = f"{durations[row['path']]:.3f}"
    write_table(manifest, list(measured[0]), (row.values() for row in measured))
    return [f"{message}; left out"] if unreadable else []


def measure_durations(
    paths: Sequence[str], folder: Path, workers: int = 4
) -> tuple[Mapping[str, float], Mapping[str, str]]:
    """Return the seconds of the files whose headers can be read, and the faults of the others, by path.

    Interrupted, it keeps in the cache, in the folder to which paths may be relative, the durations it has read.
    """
    cache, changed = _read_cache(folder / CACHE), False
    durations: dict[str, float] = {}
    faults: dict[str, str] = {}
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with progress_bar() as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("durations", total=len(paths))
        try:
            for batch in pool.map(partial(_measure_batch, folder, cache), batches):
                for path, stamp, seconds in batch:
                    if isinstance(seconds, str):
                        faults[path] = seconds
                        continue
                    durations[path] = seconds
                    changed |= cache.get(path) != (known := f"{stamp}{seconds:.3f}")
                    cache[path] = known
                bar.update(task, advance=len(batch))
        finally:
            pool.shutdown(cancel_futures=True)
            if changed:
                with atomic_write(folder / CACHE) as handle:
                    handle.writelines(f"{name}{TAB}{known}\n" for name, known in cache.items())
    return durations, faults


def _measure_batch(folder: Path, cache: Mapping[str, str], paths: Sequence[str]) -> list[tuple[str, str, float | str]]:
    """Return for each file its path, a stamp that changes with the file, and its seconds or its fault."""
    found: list[tuple[str, str, float | str]] = []
    for path in paths:
        try:
            status = (folder / path).stat()
            stamp, known = f"{status.st_size}{TAB}{status.st_mtime_ns}{TAB}", cache.get(path, "")
            if known.startswith(stamp):
                found.append((path, stamp, float(known[len(stamp) :])))
            else:
                found.append((path, stamp, audio_samples(folder / path) / SAMPLE_RATE_HZ or "holds no audio"))
        except (OSError, InputError) as error:
            found.append((path, "", str(error)))
    return found


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
