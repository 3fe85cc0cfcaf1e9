"""Text read as UTF-8, files written so that nobody ever sees half of one, names that are safe to make files of."""

import codecs
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hybrid_pruning.errors import InputError

TEMPORARY = ".tmp"
DIGESTS = "sha256"
"""Where a description has the digests of the files that belong to it, by their names."""
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""What a disk answers that takes no more; other errors inside a block are not the file's."""
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
REVISION = re.compile(r"\w[\w./+-]{0,200}")
ELSEWHERE = re.compile(r"(?:^|[/\\])\.{0,2}(?:[/\\]|$)|^[A-Za-z]:")


def read_text(path: str | Path) -> str:
    """Return UTF-8 text without a byte order mark, its lines ended by newlines alone.

    Raises:
        InputError: it is missing, a folder, may not be read, or is something else.
    """
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

    Raises:
        InputError: the folder cannot be made or written to, the disk is full, or `path` is a folder itself.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(descriptor, mode, **text) as handle:  # type: ignore[call-overload]
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise cannot_write(path, refusal) from error


def digest_file(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def check_digest(path: Path, described: Mapping[str, Any]) -> None:
    """Require that a file is the one whose SHA-256 a description has under `DIGESTS`; older ones have none.

    Raises:
        InputError: it is another, or cannot be read.
    """
    digests = described.get(DIGESTS)
    expected = digests.get(path.name) if isinstance(digests, Mapping) else None
    if expected is not None and digest_file(path) != expected:
        raise InputError(f"{path}: is damaged, or not the file that was written here; fetch or export the model anew")


def cannot_write(path: Path, error: OSError) -> InputError:
    """Return what to tell the user about a file that the system would not write."""
    return InputError(f"{path}: cannot be written ({error.strerror}); make room there, or choose another place")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def require_new_folder(path: str | Path) -> Path:
    """Return the folder `path` if it is free to be filled.

    Raises:
        InputError: it holds something already, is a file, or cannot be looked into.
    """
    path = Path(path)
    try:
        if path.is_file():
            raise InputError(f"{path}: is a file; give a folder")
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"{path}: is not empty; give a new folder, or remove it first")
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _refusal(error: BaseException | None) -> OSError | None:
    """The disk's answer that an error is or covers: torch.save raises one of its own over it."""
    while error is not None and not (isinstance(error, OSError) and error.errno in REFUSALS):
        error = error.__cause__ or error.__context__
    return error


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Return a hub id and the revision (branch, tag or commit) behind its @, as in `user/name@v1.0`.

    Raises:
        InputError: the revision cannot be one.
    """
    text, at, revision = str(name).rpartition("@")
    if not at or Path(name).exists():
        return str(name), None
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise InputError(f"{name}: revision '{revision}': expected a branch, a tag or a commit, as in user/name@v1.0")
    return text, revision


def at_revision(name: str | Path, revision: str | None) -> str | Path:
    """Return a hub id with a revision that was given apart from it behind its @, or what it was without one.

    Raises:
        InputError: it lies on this disk, or has another revision.
    """
    if revision is None:
        return name
    if Path(name).exists():
        raise InputError(f"{name}: lies on this disk and has no revision '{revision}'; give the id of a repository")
    text, there = split_revision(name)
    if there not in (None, revision):
        raise InputError(f"{name}: names revision '{there}', and revision '{revision}' is given beside it")
    return f"{text}@{revision}"


def find_danger(name: str) -> str | None:
    """Say why a name from a table must not become part of a path; None where it may.

    Folders are fine (VoxCeleb's `id10270/x/00001.wav`), as long as they lead nowhere else.
    """
    if has_control_characters(name):
        return "holds control characters"
    if ELSEWHERE.search(name):
        return "leads elsewhere: it is absolute, or has an empty part, '.' or '..' between its slashes"
    return None


def has_control_characters(text: str) -> bool:
    """Whether a text holds line breaks of any kind, other control characters, or bytes that are no text."""
    return not text.isprintable() and CONTROL.search(text) is not None


def remove_links_out_of(folder: Path) -> None:
    """Remove the links in an unpacked archive that lead out of it, to nothing, or in a circle."""
    root = folder.resolve()
    for path in [path for path in folder.rglob("*") if path.is_symlink()]:
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root) or not target.exists() or target.is_symlink():
            path.unlink()
