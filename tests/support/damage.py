"""Damage done to a world's files: removed, cut, written over, changed; and its refusal."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import DIGESTS


class Bomb:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@contextmanager
def refused(expected: str, *words: object) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Require an InputError of the block: one line that matches and holds all the words."""
    with pytest.raises(InputError, match=expected) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message
    assert all(str(word) in message for word in words), message


def removed(name: str, world: Path) -> None:
    (world / name).unlink()


def cut(name: str, world: Path) -> None:
    data = (world / name).read_bytes()
    (world / name).write_bytes(data[: len(data) // 2])


def written(name: str, content: str | bytes, world: Path) -> None:
    (world / name).write_bytes(content.encode() if isinstance(content, str) else content)


def changed(name: str, change: Callable[[str], str], world: Path) -> None:
    (world / name).write_text(change((world / name).read_text()))


def folder(name: str, world: Path) -> None:
    (world / name).unlink()
    (world / name).mkdir()


def described(change: Callable[[dict[str, Any]], Any], world: Path, name: str = "model/config.json") -> None:
    """Change a JSON file, as of a version that kept no digests."""
    about = json.loads((world / name).read_text())
    about.pop(DIGESTS, None)
    change(about)
    (world / name).write_text(json.dumps(about))
