"""The limits that a server holds its clients to, and the errors that tell them so."""

from dataclasses import dataclass

CLIENT_GONE = 499
"""The status, of nginx, of a request that nobody waits for."""
LARGEST_FORM = 32
"""Recordings of one request."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server.

    Args:
        megabytes: of a request's body.
        seconds: of a recording.
        queue: requests in work at a time, waiting ones included.
        waiting_seconds: audio that waits for the model, of all requests together.
        timeout: seconds for a body to arrive, and for a request to be computed.
        rate: requests a minute from one address; 0 for any number.
        streams: open at a time.
    """

    megabytes: float = 50.0
    seconds: float = 600.0
    queue: int = 128
    waiting_seconds: float = 3600.0
    timeout: float = 60.0
    rate: int = 600
    streams: int = 16


class Refusal(Exception):  # noqa: N818  the client's fault, or that of how many there are
    """A request that is not served: its HTTP status, a line that says why, and seconds after which to try again."""

    def __init__(self, status: int, line: str, retry_after: int | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.retry_after = status, line, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it; the connection ends, as its body may not have been read."""
        wait = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return {"connection": "close", **wait}
