"""Text read as UTF-8, files and folders written whole or not at all, names that are safe in paths.

A process holds a POSIX lock (fcntl.lockf) on the file it writes: the system releases it when the process ends, NFS
passes it on to other machines, and forked children do not inherit it, as they would that of flock. So the remains of a
killed process differ from the files of one at work. A disk without locks is used without.
"""

import codecs
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

TEMPORARY, LOCK, UNFINISHED = ".hybrid-pruning.tmp", ".hybrid-pruning.lock", ".hybrid-pruning.unfinished"
DIGESTS = "sha256"
"""The key of a description that holds the digests of the files that belong to it, by their names."""
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""Errors of a disk that takes no more; other errors inside a block are not the file's."""
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
REVISION = re.compile(r"\w[\w./+-]{0,200}")
ELSEWHERE = re.compile(r"(?:^|[/\\])\.{0,2}(?:[/\\]|$)|^[A-Za-z]:")
OPENED = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
WAIT_SECONDS = 0.5
_own: set[Path] = set()
"""Locks and temporary files of this process, for which the system would grant a second lock."""


def read_text(path: str | Path) -> str:
    """Return UTF-8 text without a byte order mark, its lines ended by newlines alone."""
    content = b""
    try:
        content = Path(path).read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        found = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        raise InputError(f"{path}: is {found} text; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its place when the block ends well, and vanishes otherwise.

    One that a killed process left is written over.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _open_temporary(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(descriptor, mode, **text) as handle:  # type: ignore[call-overload]
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            if fcntl is not None:
                temporary.replace(path)  # while it is locked
        if fcntl is None:
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise cannot_write(path, refusal) from error
    finally:
        _own.discard(temporary)


def _open_temporary(path: Path) -> tuple[int, Path]:
    """Create and lock a file beside `path`, in place of a killed process's; another where that is being written."""
    temporary = path.absolute().with_name(f".{path.name}{TEMPORARY}")
    for _ in range(2):
        with suppress(FileExistsError):
            descriptor = os.open(temporary, OPENED | os.O_CREAT | os.O_EXCL, 0o600)
            if _take(descriptor, temporary):
                _own.add(temporary)
                return descriptor, temporary
            os.close(descriptor)
        _remove_abandoned(temporary)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    _take(descriptor, Path(name))
    _own.add(Path(name))
    return descriptor, Path(name)


def _take(descriptor: int, path: Path) -> bool:
    """Lock an open file unless another process has; False also where `path` is another file by now."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _remove_abandoned(temporary: Path) -> None:
    """Remove a temporary file that no process is writing."""
    with suppress(OSError):
        if temporary in _own or not temporary.is_file():
            return
        descriptor = os.open(temporary, OPENED)
        try:
            if _take(descriptor, temporary):
                temporary.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def hold(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Keep a folder, which is made where need be, to this process until the block ends; within it, again is fine.

    One that another process holds is an InputError or, with `wait`, waited for.
    """
    folder = Path(folder)
    path = folder.absolute() / LOCK
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give a folder")
    if path in _own:
        yield
        return
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, folder, wait)
    except OSError as error:
        raise cannot_write(folder, error) from error
    _own.add(path)
    try:
        yield
    finally:
        _own.discard(path)
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        _remove_vacant(made)


def _missing(folder: Path) -> list[Path]:
    """Return a folder and its parents as far as they are missing, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _remove_vacant(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as nothing is in them."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _lock(path: Path, folder: Path, wait: bool) -> int:
    """Create and lock a file with the description of the process that holds it."""
    said = False
    while True:
        descriptor = os.open(path, OPENED | os.O_CREAT, 0o666)
        if _take(descriptor, path):
            break
        holder = " ".join(os.read(descriptor, 1000).decode("utf-8", "replace").split())
        os.close(descriptor)
        if wait:
            if not said:
                say(f"{folder}: waiting for {holder or 'another process'}")
            said = True
            time.sleep(WAIT_SECONDS)
        elif path.exists():
            raise InputError(
                f"{folder}: is in use by {holder or 'another process'}; wait for its end, or choose another place"
            )
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}\n"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, holder.encode("utf-8", "replace"))
    return descriptor


@contextmanager
def new_folder(path: str | Path, own: bool = False) -> Iterator[Path]:
    """Give a folder to fill, whose files move to `path` when the block ends well; config.json comes last.

    It is within `path`, which may be a mount point. Until all has moved, a `path` that was empty counts as empty. With
    `own`, the files that are there are this program's, and written over.
    """
    out = Path(path) if own else require_new_folder(path)
    inside, made, moved = out / (TEMPORARY if own else UNFINISHED), _missing(out), False
    try:
        inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        with hold(inside):
            _empty(inside)
            try:
                yield inside
                files = [place for place in inside.rglob("*") if place.is_file() and place != inside / LOCK]
                files.sort(key=lambda place: (place.name == "config.json", place))
                targets = [out / place.relative_to(inside) for place in files]
                if files:
                    targets[-1].unlink(missing_ok=True)  # what is written over is not taken for whole meanwhile
                for place, target in zip(files, targets, strict=True):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    place.replace(target)
                moved = True
            finally:
                _empty(inside)
    except BaseException as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise cannot_write(out, refusal) from error
    finally:
        if moved:
            inside.rmdir()
        elif list(out.iterdir()) == [inside]:  # else it marks the rest as not whole
            _remove_vacant([inside, *made])


def _empty(folder: Path) -> None:
    """Remove all that is in a folder but its lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def write_json(path: str | Path, values: Any) -> None:
    """Write plain values as JSON, whole or not at all."""
    try:
        text = json.dumps(values, indent=1, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: is not written, as a figure in it is not finite; are scores too large?") from error
    with atomic_write(path) as handle:
        handle.write(f"{text}\n")


def digest_file(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def check_digest(path: Path, described: Mapping[str, Any]) -> None:
    """Require that a file is the one whose SHA-256 a description has under `DIGESTS`; older ones have none."""
    digests = described.get(DIGESTS)
    expected = digests.get(path.name) if isinstance(digests, Mapping) else None
    if expected is not None and digest_file(path) != expected:
        raise InputError(f"{path}: is damaged, or not the file that was written here; fetch or export the model anew")


def cannot_write(path: Path, error: OSError) -> InputError:
    """Return the error of a file that the system would not write."""
    return InputError(f"{path}: cannot be written ({error.strerror}); make room there, or choose another place")


def remove_leftovers(folder: Path) -> None:
    """Remove the files that killed processes left half-written in a folder of this program's."""
    for path in folder.glob(".*.tmp"):
        _remove_abandoned(path.absolute())


def is_vacant(folder: Path) -> bool:
    """Return whether a folder holds nothing, or only what this program had begun to write there when it was killed."""
    names = {path.name for path in folder.iterdir()}
    return UNFINISHED in names or all(name.endswith((LOCK, TEMPORARY)) for name in names)


def require_allowed(path: Path) -> None:
    """Raise the system's error on a path that it refuses, as a name too long or in a closed folder; one may be missing.

    From Python 3.14 on pathlib's own questions have no answer to such paths but False.
    """
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        path.stat()


def require_new_folder(path: str | Path) -> Path:
    """Return the folder `path` if it is free to be filled: missing, empty, or left half-filled by a killed process."""
    path = Path(path)
    try:
        require_allowed(path)
        if path.is_file():
            raise InputError(f"{path}: is a file; give a folder")
        if path.is_dir() and not is_vacant(path):
            raise InputError(f"{path}: is not empty; give a new folder, or remove it first")
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _refusal(error: BaseException | None) -> OSError | None:
    """Return the disk's error that an error is or covers: torch.save raises one of its own over it."""
    while error is not None and not (isinstance(error, OSError) and error.errno in REFUSALS):
        error = error.__cause__ or error.__context__
    return error


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Return a hub id and the revision (branch, tag or commit) behind its @, as in `user/name@v1.0`."""
    text, at, revision = str(name).rpartition("@")
    if not at or Path(name).exists():
        return str(name), None
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise InputError(f"{name}: revision '{revision}': expected a branch, a tag or a commit, as in user/name@v1.0")
    return text, revision


def at_revision(name: str | Path, revision: str | None) -> str | Path:
    """Return a hub id with a revision that was given apart from it behind its @, or what it was without one."""
    if revision is None:
        return name
    if Path(name).exists():
        raise InputError(f"{name}: lies on this disk and has no revision '{revision}'; give the id of a repository")
    text, there = split_revision(name)
    if there not in (None, revision):
        raise InputError(f"{name}: names revision '{there}', and revision '{revision}' is given beside it")
    return f"{text}@{revision}"


def find_danger(name: str) -> str | None:
    """Return the reason why a name from a table must not become part of a path; None where it may.

    Folders are fine (VoxCeleb's `id10270/x/00001.wav`), as long as they lead nowhere else.
    """
    if has_control_characters(name):
        return "holds control characters"
    if ELSEWHERE.search(name):
        return "leads elsewhere: it is absolute, or has an empty part, '.' or '..' between its slashes"
    return None


def has_control_characters(text: str) -> bool:
    """Return whether a text holds line breaks of any kind, other control characters, or bytes that are no text."""
    return not text.isprintable() and CONTROL.search(text) is not None


def remove_links_out_of(folder: Path) -> None:
    """Remove the links in an unpacked archive that lead out of it, to nothing, or in a circle."""
    root = folder.resolve()
    for path in [path for path in folder.rglob("*") if path.is_symlink()]:
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root) or not target.exists() or target.is_symlink():
            path.unlink()
