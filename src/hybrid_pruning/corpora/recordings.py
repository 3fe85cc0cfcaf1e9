"""The recordings below a folder, in the order of their paths; a million of them in seconds."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".sph", ".w64", ".caf")
"""What libsndfile reads."""


def list_recordings(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[str]:
    """Yield the paths of all recordings below a folder, relative to it, with `/`, folder by folder.

    Links are followed, but not in circles; the folders within a folder come after its own files.

    Args:
        root: the folder.
        suffixes: what their names end in, in small letters.
    """
    start = len(os.fspath(root)) + 1
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not _leads_back(place, name))
        below = place[start:].replace(os.sep, "/")
        prefix = f"{below}/" if below else ""
        for name in sorted(files):
            if name.lower().endswith(suffixes):
                yield prefix + name


def _leads_back(place: str, name: str) -> bool:
    """Tell whether a folder is a link to one that it lies in."""
    path = os.path.join(place, name)  # noqa: PTH118  of 150,000 folders, and Path's takes as long as reading them
    return os.path.islink(path) and Path(place).resolve().is_relative_to(Path(path).resolve())  # noqa: PTH114
