"""The server's process: models, application and uvicorn, and the time that a client has to say what it wants."""

import asyncio
import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import python_multipart  # noqa: F401  FastAPI looks for it with the first form, uvicorn for websockets with a stream
import uvicorn
import websockets  # noqa: F401
from uvicorn.protocols.http.h11_impl import H11Protocol

from hybrid_pruning.audio import WINDOW_SECONDS
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.engine import Embedder
from hybrid_pruning.serving.application import build_app
from hybrid_pruning.serving.limits import Limits
from hybrid_pruning.serving.served import Served, name_models
from hybrid_pruning.serving.service import Service

HEADER_SECONDS = 10.0
"""For which a connection may stay without a whole request line and headers."""
CLOSING_SECONDS = 10
LARGEST_MESSAGE = 1 << 20
"""Bytes of one message of a stream: half a minute of 16 bits at 16 kHz."""
TOKEN = re.compile(r"[A-Za-z0-9._~+-]{8,200}")


class PatientProtocol(H11Protocol):
    """HTTP on one connection, which is closed where a request's headers do not come."""

    header_seconds = HEADER_SECONDS
    _seen: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self.loop.call_later(self.header_seconds, self._look)

    def _look(self) -> None:
        """Close the connection where no request has begun since the last look."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self.cycle is self._seen and "IDLE" in str(self.conn.their_state):
            self.transport.close()
            return
        self._seen = self.cycle
        self.loop.call_later(self.header_seconds, self._look)


def serve(
    models: Sequence[str | Path | Embedder],
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    allow_host: Sequence[str] = (),
    allow_origin: Sequence[str] = (),
    keep: str | Path | None = None,
    window_seconds: float = WINDOW_SECONDS,
    device: str = "auto",
) -> None:
    """Serve models over HTTP until the process is told to end: a page, REST and a stream.

    Args:
        models: folders or hub ids of exported models, graphs (.onnx, .xml), or loaded models. In a folder
            that has both, the graph is run.
        host, port: the address to listen at; 0.0.0.0 for all of the machine's.
        limits: on clients.
        token: that clients must send, 8 letters or more.
        allow_host, allow_origin: see `build_app`.
        keep: existing folder for what is uploaded and answered; without it nothing is kept.
        window_seconds, device: as for `detect`.
    """
    if token is not None and not TOKEN.fullmatch(token):
        raise InputError("the token: expected 8 to 200 letters, digits and . _ ~ + -")
    if keep is not None and not Path(keep).is_dir():
        raise InputError(f"{keep}: is no folder; make it first, as recordings are going to be kept there")
    names = name_models([str(one) if isinstance(one, (str, Path)) else "model" for one in models])
    loaded = [Served.load(name, one, window_seconds, device) for name, one in zip(names, models, strict=True)]
    listener = listen(host, port)
    service = Service(loaded, limits, None if keep is None else Path(keep))
    app = build_app(service, token, [host, *allow_host], allow_origin)
    shown = f"[{host}]" if ":" in host else host
    about = ", ".join(f"{one.name} ({one.about()['engine']}, {one.megabytes:.1f} MB)" for one in loaded)
    say(f"http://{shown}:{listener.getsockname()[1]} serves {about}; end with Ctrl-C")
    run(app, listener)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes any that is free."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # whoever connects before the server is up waits, instead of being refused
            stack.pop_all()
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened at ({error.strerror}); give --host or --port") from error
    return listener


def configure(app: Any) -> uvicorn.Config:
    """Return uvicorn's settings: no access log, as names of recordings are nobody's business."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="websockets-sansio",
        ws_max_size=LARGEST_MESSAGE,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


def run(app: Any, listener: socket.socket) -> None:
    """Serve an application until a signal."""
    server = uvicorn.Server(configure(app))
    with closing(listener), suppress(KeyboardInterrupt):
        asyncio.run(server.serve([listener]))
