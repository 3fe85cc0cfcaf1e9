"""A manifest's recordings: durations from headers, faults found by decoding, overlap with the training data."""

import filecmp
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_pruning.audio import NO_SPEECH, SAMPLE_RATE_HZ, audio_samples, check_seconds, may_hold_speech, read_audio
from hybrid_pruning.console import printable, progress_bar
from hybrid_pruning.data.manifest import REQUIRED, UNKNOWN, Utterance, qualify, read_manifest
from hybrid_pruning.data.tables import TAB, open_table, read_rows, write_table
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, digest_file
from hybrid_pruning.trees import section

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
    unreadable, message = [path for path in paths if path in faults], ""
    if unreadable:
        names, why = ", ".join(unreadable[:FIRST]), faults[unreadable[0]].partition(";")[0]
        message = f"{manifest}: {len(unreadable):,} of {len(paths):,} audio files cannot be used, first {names}"
        message += f" ({why.removeprefix(f'{manifest.parent / unreadable[0]}: ')})"
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
    durations, faults = dict[str, float](), dict[str, str]()
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
        stamp, known = "", cache.get(path, "")
        try:
            status = (folder / path).stat()
            stamp = f"{status.st_size}{TAB}{status.st_mtime_ns}{TAB}"
            seconds = (
                float(known[len(stamp) :]) if known.startswith(stamp) else audio_samples(folder / path) / SAMPLE_RATE_HZ
            )
            found.append((path, stamp, seconds or "holds no audio"))
        except (OSError, InputError) as error:
            found.append((path, stamp, str(error)))
    return found


def _read_cache(path: Path) -> dict[str, str]:
    """Return path -> size, time and seconds as one text; a damaged line, or file, is as good as none."""
    cache: dict[str, str] = {}
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8", newline="\n") as handle:
        for line in handle:
            name, _, known = line.removesuffix("\n").partition(TAB)
            if WHOLE.fullmatch(known):
                cache[name] = known
    return cache


@dataclass(frozen=True, slots=True)
class FaultyFile:
    """A file of a manifest that cannot be used as it is; a harmless one can: it holds no speech-like energy."""

    utterance: Utterance
    message: str
    harmless: bool = False


def audit(manifest: str | Path, out: str | Path | None = None, workers: int = 2) -> list[FaultyFile]:
    """Decode every file of a manifest once, write the table of the faulty ones, and return them in its order.

    Args:
        out: the table, with a header alone where nothing is wrong; `MANIFEST.faults.tsv` beside it by default.
        workers: processes that decode; 0 decodes in this one.
    """
    utterances = read_manifest(manifest)
    table = out or Path(manifest).with_suffix(".faults.tsv")
    with open_table(table, ("utt_id", "path", "fault")) as write:  # opened first: a bad place costs no waiting
        faults = audit_utterances(utterances, workers)
        for fault in faults:
            write((fault.utterance.utt_id, fault.utterance.path, fault.message))
    return faults


def audit_utterances(utterances: Sequence[Utterance], workers: int = 2) -> list[FaultyFile]:
    """Decode every file once, compare its length with its header and manifest, and return the faulty ones in order."""
    with progress_bar() as bar:
        messages = work_in_processes(_find_fault, utterances, workers)
        tracked = bar.track(zip(utterances, messages, strict=True), total=len(utterances), description="decoding")
        return [FaultyFile(one, message, message.endswith(NO_SPEECH)) for one, message in tracked if message]


def _find_fault(utterance: Utterance) -> str:
    try:
        wave = read_audio(utterance.path)
        check_seconds(utterance.path, len(wave), utterance.seconds)
    except InputError as error:
        return printable(str(error))
    return "" if may_hold_speech(wave) else printable(f"{utterance.path}: {NO_SPEECH}")


MOST_READ = 4000  # files of either set that are compared with each other, evenly spaced where there are more
TAIL = 4096  # bytes at the end of a file that are compared among files of one size, before all of it is
SHOWN = 3
TRAINED_ON = "trained_on_sha256"  # key of a model's provenance: the digest of its training manifest, or of each by name


def check_scored(provenance: Mapping[str, Any], manifest: str | Path) -> list[str]:
    """Return warnings about scores on a manifest by a model whose provenance, free-form, names its training data."""
    trains, digests = section(provenance, "recipe", "data").get("train"), provenance.get(TRAINED_ON)
    trained: list[Utterance] = []
    for name, train in (trains if isinstance(trains, Mapping) else {"": trains}).items():
        if not isinstance(train, str):
            continue
        digest = digests.get(name) if isinstance(digests, Mapping) else digests  # older models have none
        places = [Path(train), *([Path(manifest).parent / Path(train).name] if digest else [])]  # beside the scored set
        with suppress(InputError, OSError):  # no manifest by now
            found = next((p for p in places if p.is_file() and digest in (None, digest_file(p))), None)
            trained += [] if found is None else [qualify(one, str(name)) for one in read_manifest(found)]
    with suppress(InputError, OSError):
        return check_overlap(trained, read_manifest(manifest), str(manifest)) if trained else []
    return []


def check_overlap(trainset: Sequence[Utterance], other: Sequence[Utterance], name: str) -> list[str]:
    """Return warnings where a set shares files, their contents, ids or speakers with the training data.

    Names are compared within a corpus that both have, and otherwise with those of all corpora.
    """
    trained = {os.path.abspath(u.path) for u in trainset}  # noqa: PTH100  several times quicker than Path's
    files, rest = list[Utterance](), list[Utterance]()
    for utterance in other:
        (files if os.path.abspath(utterance.path) in trained else rest).append(utterance)  # noqa: PTH100
    copies = _find_copies(trainset, rest)
    corpora, twins = {utterance.corpus for utterance in trainset}, {utterance.utt_id for utterance in copies}
    known = _names(trainset, "utt_id", corpora) | _names(trainset, "utt_id")
    ids = [one for one in rest if one.utt_id not in twins and _names([one], "utt_id", corpora) <= known]
    unseen = "its figures say little of unseen speech; take them out of one of the two"
    shared = {
        f"of {len(other)} files are training files too": (files, unseen),
        "files are copies of training files under other names": (copies, unseen),
        "ids stand in the training data too, for other files": (ids, "are they the same recordings? If so, part them"),
    }
    found = [
        f"{name}: {len(some)} {words} ({shown([utterance.utt_id for utterance in some])}): {advice}"
        for words, (some, advice) in shared.items()
        if some
    ]
    speakers, heard = (
        _names(trainset, "speaker", corpora) | _names(trainset, "speaker"),
        _names(other, "speaker", corpora),
    )
    if both := sorted(speaker for _, speaker in speakers & heard):
        fault = f"{len(both)} of its {len(heard)} speakers are heard in training too ({shown(both)})"
        found.append(f"{name}: {fault}: its figures are better than on strangers; split by speaker where you can")
    return found


def _names(utterances: Iterable[Utterance], column: str, corpora: Collection[str] = ()) -> set[tuple[str, str]]:
    """Return (corpus, name) of what is known in a column, the corpus empty unless it is one of `corpora`."""
    names = ((u.corpus, getattr(u, column).removeprefix(f"{u.corpus}/")) for u in utterances)
    return {(corpus if corpus in corpora else "", name) for corpus, name in names if name not in (UNKNOWN, "")}


def shown(names: Sequence[str]) -> str:
    """Return the first of some names, and whether there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _find_copies(trainset: Sequence[Utterance], other: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances whose file has the content of a training file: same size, same end, same bytes."""
    sizes = {utterance.utt_id: _size(utterance.path) for utterance in other}
    wanted = set(sizes.values()) - {None, 0}
    trained = [utterance.path for utterance in trainset if _size(utterance.path) in wanted] if wanted else []
    ends: dict[tuple[int, bytes], Path] = {}
    for path in _spread(trained):
        if (end := _end(path)) is not None:
            ends.setdefault(end, path)
    common = {size for size, _ in ends}
    some = _spread([utterance for utterance in other if sizes[utterance.utt_id] in common])
    twins = [(utterance, ends.get(end) if (end := _end(utterance.path)) else None) for utterance in some]
    return [utterance for utterance, twin in twins if twin and filecmp.cmp(twin, utterance.path, shallow=False)]


def _spread(items: Sequence[Any]) -> list[Any]:
    """Return all items, or `MOST_READ` evenly spaced ones."""
    if len(items) <= MOST_READ:
        return list(items)
    return [items[index * len(items) // MOST_READ] for index in range(MOST_READ)]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # reported when the file is read
        return None


def _end(path: Path) -> tuple[int, bytes] | None:
    """Return a file's size and its last bytes."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(size - TAIL, 0))
            return size, handle.read(TAIL)
    except OSError:
        return None
