"""The recordings below a folder, in the order of their paths; a million of them in seconds."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid_pruning.data.names import SUFFIXES


def list_recordings(root: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Yield the paths of all recordings below a folder, relative to it, with `/`, folder by folder.

    Links are followed, but not in circles; the folders within a folder come after its own files. What begins with a dot
    (`._a.wav` is what macOS leaves beside a.wav) or lies in such a folder, or in `__MACOSX`, is left out.

    Args:
        root: the folder.
        hidden: is given the paths of the recordings that are left out.
    """
    start = len(os.fspath(root).rstrip(os.sep)) + 1
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not _leads_back(place, name))
        below = place[start:].replace(os.sep, "/")
        prefix = f"{below}/" if below else ""
        secret = any(part.startswith(".") or part == "__MACOSX" for part in below.split("/"))
        for name in sorted(files):
            if not name.lower().endswith(SUFFIXES):
                continue
            if secret or name.startswith("."):
                if hidden is not None:
                    hidden.append(os.path.join(place, name))  # noqa: PTH118
            else:
                yield prefix + name


def hidden_line(hidden: Sequence[str]) -> list[str]:
    """Return a line about the hidden recordings that are left out, or nothing."""
    found = sorted(set(hidden))
    return [f"left out {len(found):,} hidden files, such as {found[0]}"] if found else []


def _leads_back(place: str, name: str) -> bool:
    """Tell whether a folder is a link to one that it lies in."""
    path = os.path.join(place, name)  # noqa: PTH118  of 150,000 folders, and Path's takes as long as reading them
    return os.path.islink(path) and Path(place).resolve().is_relative_to(Path(path).resolve())  # noqa: PTH114
