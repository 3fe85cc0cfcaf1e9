"""Names of recordings: found in folders, and looked up with or without the suffix of an audio file."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

Name = str | tuple[str | int, ...]
"""Of a recording; or of a trial, those of its recordings and where it may repeat its number."""

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"),
    *(".sph", ".nist", ".voc", ".mp3", ".mp2", ".mpga", ".ogg", ".oga", ".opus", ".spx", ".m4a"),
    *(".m4b", ".aac", ".adts", ".ac3", ".eac3", ".dts", ".amr", ".awb", ".3gp", ".3gpp", ".3g2"),
    *(".gsm", ".g722", ".wma", ".asf", ".wv", ".tta", ".ape", ".tak", ".mpc", ".shn", ".mka"),
    *(".mkv", ".webm", ".mp4", ".m4v", ".mov", ".avi", ".wmv"),
)
"""Of audio files, and of films that hold some: what is looked for in folders. The content of a file says its format."""


def without_suffix(name: str) -> str:
    """Return a name without the suffix of an audio file, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


class Register:
    """The place of each recording, or trial of recordings, in a list that has each once."""

    def __init__(self, ids: Iterable[Name]) -> None:
        self._places = {name: place for place, name in enumerate(ids)}

    def find(self, name: Name) -> int | None:
        """Return the place of a recording, None where it is unknown; a full match goes before one without suffixes."""
        place = self._places.get(name)
        return self._stems.get(_stem(name)) if place is None else place

    @cached_property
    def _stems(self) -> dict[Name, int | None]:
        stems: dict[Name, int | None] = {}
        for name, place in self._places.items():
            stem = _stem(name)
            stems[stem] = None if stem in stems else place  # two that differ in the suffix need it
        return stems


def _stem(name: Name) -> Name:
    if isinstance(name, str):
        return without_suffix(name)
    return tuple(without_suffix(part) if isinstance(part, str) else part for part in name)


def list_recordings(root: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Yield the paths of all recordings below a folder, relative to it, with `/`, folder by folder.

    A million of them take seconds. Links are followed, but not in circles; the folders within a folder come after its
    own files. Names that begin with a dot (`._a.wav` is what macOS leaves beside a.wav), and all below such a folder or
    `__MACOSX`, are left out and added to `hidden`.
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


def _leads_back(place: str, name: str) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    path = os.path.join(place, name)  # noqa: PTH118  of 150,000 folders, and Path's takes as long as reading them
    return os.path.islink(path) and Path(place).resolve().is_relative_to(Path(path).resolve())  # noqa: PTH114


def hidden_line(hidden: Sequence[str]) -> list[str]:
    """Return a line about the hidden recordings that are left out, or nothing."""
    found = sorted(set(hidden))
    return [f"left out {len(found):,} hidden files, such as {found[0]}"] if found else []
