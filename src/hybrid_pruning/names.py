"""Names of recordings in lists -> recordings of a manifest, whether or not either has the suffix of an audio file."""

from collections.abc import Iterable

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
"""Of audio files."""


class Register:
    """Where each recording stands.

    Args:
        ids: their names, each once.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._places = {name: place for place, name in enumerate(ids)}
        self._stems: dict[str, int | None] = {}
        for name, place in self._places.items():
            stem = without_suffix(name)
            self._stems[stem] = None if stem in self._stems else place  # two that differ in the suffix need it

    def find(self, name: str) -> int | None:
        """Return the place of a recording, None where it is unknown; a full match goes before one of the stems."""
        place = self._places.get(name)
        return self._stems.get(without_suffix(name)) if place is None else place


def without_suffix(name: str) -> str:
    """Return a name without the suffix of an audio file, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name
