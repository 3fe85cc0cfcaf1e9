"""Names of recordings in lists -> recordings of a manifest, whether or not either has the suffix of an audio file."""

from collections.abc import Callable, Iterable
from functools import cached_property

SUFFIXES = (
    *(
        ".wav",
        ".wave",
        ".flac",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".sph",
        ".nist",
        ".voc",
    ),
    *(
        ".mp3",
        ".mp2",
        ".mpga",
        ".ogg",
        ".oga",
        ".opus",
        ".spx",
        ".m4a",
        ".m4b",
        ".aac",
        ".adts",
        ".ac3",
        ".eac3",
        ".dts",
    ),
    *(".amr", ".awb", ".3gp", ".3gpp", ".3g2", ".gsm", ".g722", ".wma", ".asf", ".wv", ".tta", ".ape", ".tak", ".mpc"),
    *(".shn", ".mka", ".mkv", ".webm", ".mp4", ".m4v", ".mov", ".avi", ".wmv"),
)
"""Of audio files, and of films that hold some: what is looked for in folders. What a file is, its content tells."""


class Register:
    """Where each recording, or trial of recordings, stands.

    Args:
        ids: their names, each once.
        stem: removes the suffixes from a name.
    """

    def __init__(self, ids: Iterable[str], stem: Callable[[str], str] | None = None) -> None:
        self._places = {name: place for place, name in enumerate(ids)}
        self._stem = stem or without_suffix

    def find(self, name: str) -> int | None:
        """Return the place of a recording, None where it is unknown; a full match goes before one of the stems."""
        place = self._places.get(name)
        return self._stems.get(self._stem(name)) if place is None else place

    @cached_property
    def _stems(self) -> dict[str, int | None]:
        stems: dict[str, int | None] = {}
        for name, place in self._places.items():
            stem = self._stem(name)
            stems[stem] = None if stem in stems else place  # two that differ in the suffix need it
        return stems


def without_suffix(name: str) -> str:
    """Return a name without the suffix of an audio file, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name
