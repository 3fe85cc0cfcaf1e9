"""Protocol files: their columns, the audio they name, and every fault as one line that says where it is."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.errors import InputError

NOT_A_NAME = {"", ".", ".."}


class Entry(NamedTuple):
    """One line of a protocol.

    Args:
        line: its number.
        part: the manifest it goes to.
        file: its audio file, below one of the audio folders.
        cells: `utt_id`, `label`, and what else is known, under the names of `Utterance`'s fields.
    """

    line: int
    part: str
    file: str
    cells: Mapping[str, str]


class Audio:
    """The audio files of a protocol: each folder is listed once, and each file may be named once.

    Args:
        protocol: the protocol, for the messages.
        folders: where the files may lie; the first that has one counts.
    """

    def __init__(self, protocol: Path, folders: Sequence[Path]) -> None:
        self.folders = [str(folder) for folder in folders]
        self.missing: dict[str, int] = {}
        self._protocol = protocol
        self._lines: dict[str, dict[str, int]] = {}  # folder -> file -> the line that names it, 0 before any does

    def claim(self, file: str, line: int) -> str | None:
        """Return the path of a file that a line of the protocol names, or None where it is missing.

        Raises:
            InputError: the name leads out of the audio folders, or an earlier line has it.
        """
        if "\\" in file or not NOT_A_NAME.isdisjoint(file.split("/")):
            raise InputError(f"{self._protocol}:{line}: '{file}' is no name of a file below {self.folders[0]}")
        subfolder, _, name = file.rpartition("/")
        for folder in self.folders:
            place = f"{folder}/{subfolder}" if subfolder else folder
            lines = self._list(place)
            if name in lines:
                self._require_first(file, lines[name], line)
                lines[name] = line
                return f"{place}/{name}"
        self._require_first(file, self.missing.get(file, 0), line)
        self.missing[file] = line
        return None

    def _list(self, place: str) -> dict[str, int]:
        lines = self._lines.get(place)
        if lines is None:
            lines = self._lines[place] = dict.fromkeys(list_folder(place), 0)
        return lines

    def _require_first(self, file: str, earlier: int, line: int) -> None:
        if earlier:
            raise InputError(
                f"{self._protocol}:{line}: '{file}' already stands in line {earlier}; remove one of the lines"
            )


class Files(Audio):
    """Audio files that a list names anywhere, by absolute paths or by paths below one of the folders."""

    def claim(self, file: str, line: int) -> str | None:
        """Return the path of a file, or None where it is missing; as `Audio.claim`."""
        lines = self._lines.setdefault("", {})
        self._require_first(file, lines.get(file, 0), line)
        lines[file] = line
        paths = [os.path.join(folder, file) for folder in self.folders]  # noqa: PTH118
        found = next(filter(os.path.isfile, paths), None)
        if found is None:
            self.missing[file] = line
        return found


def list_folder(folder: str | Path) -> list[str]:
    """Return the names in a folder; none where there is no such folder.

    Raises:
        InputError: the folder may not be read.
    """
    try:
        return os.listdir(folder)  # noqa: PTH208  names, not 680,774 paths
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
