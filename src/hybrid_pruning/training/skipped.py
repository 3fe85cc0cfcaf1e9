"""Training files that could not be read and were replaced by others: counted, reported, refused where too many."""

from collections.abc import Iterable
from typing import Any

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import DataConfig
from hybrid_pruning.errors import InputError

SHOWN = 10


class Skipped:
    """The distinct unreadable files a training has met.

    Args:
        data: what is trained on, and the fraction of it that may be unreadable.
        total: how many training files there are.
    """

    def __init__(self, data: DataConfig, total: int) -> None:
        self.data, self.total = data, total
        self.limit = max(1, int(data.skip_limit * total))
        self._messages: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, messages: Iterable[str]) -> None:
        """Note files by their one-line messages, which begin with the path.

        Raises:
            InputError: they are more than the recipe allows.
        """
        for message in messages:
            self._messages.setdefault(message.partition(": ")[0], message)
        if len(self) > self.limit:
            raise InputError(
                f"{self.data.train}: {len(self)} of {self.total} training files cannot be read, data.skip_limit "
                f"{self.data.skip_limit:g} allows {self.limit}; mend or remove them, the last: {self.messages()[-1]}"
            )

    def join(self) -> None:
        """Put together what all processes have met.

        Raises:
            InputError: together they are more than the recipe allows.
        """
        self.add(processes.join_lists(self.messages()))

    def messages(self) -> list[str]:
        """Return a message for each file, in the order they were met."""
        return list(self._messages.values())

    def record(self) -> dict[str, Any]:
        """Return what the log says of them."""
        return {"skipped": {"files": len(self), "first": self.messages()[:SHOWN]}}

    def explain(self) -> list[str]:
        """Return lines for the user: how many there were, and the first of them."""
        title = f"{len(self)} of {self.total} training files could not be read and were replaced by others"
        rest = [] if len(self) <= SHOWN else [f"  and {len(self) - SHOWN} more"]
        return [f"{title}:", *(f"  {message}" for message in self.messages()[:SHOWN]), *rest]
