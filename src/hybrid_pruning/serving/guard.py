"""The door of a server: who may ask, how much and how fast, and the headers of every answer.

Host       an address, `localhost`, the machine's name, or a name that was allowed: a page of another site whose name
           was made to point here (DNS rebinding) is refused
Origin     the server's own, or one that was allowed, for requests and streams alike
token      of all but the page, /docs and /health, compared in constant time
rate       of requests from one address, as a bucket that fills again
body       no more bytes than allowed, and in no more time
"""

import asyncio
import hmac
import ipaddress
import json
import socket
import time
from collections import OrderedDict
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_pruning.serving.counters import Counters
from hybrid_pruning.serving.limits import CLIENT_GONE, Limits, Refusal

OPEN = ("/", "/page.css", "/page.js", "/source.js", "/tap.js", "/health", "/docs", "/openapi.json")
"""Paths that need no token."""
MOST_ADDRESSES = 10_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        counters: Counters,
        token: str | None,
        hosts: Collection[str],
        origins: Collection[str],
    ) -> None:
        self.app, self.limits, self.counters = app, limits, counters
        self.token = None if token is None else token.encode()
        self.hosts = {"localhost", socket.gethostname().lower(), *map(str.lower, hosts)}
        self.origins = set(origins)
        self._buckets = OrderedDict[str, tuple[float, float]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a stream, or refuse it."""
        if scope["type"] == "websocket":
            try:
                self._check(scope)
            except Refusal:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not self.origins:
                    headers.setdefault("cross-origin-resource-policy", "same-origin")
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._bounded(scope, receive), send_guarded)
        except Refusal as refusal:
            await _answer(refusal, send_guarded)
        except ClientDisconnect:  # before it had said all
            status = CLIENT_GONE
        finally:
            route = getattr(scope.get("route"), "path", "other")  # of names that exist: others are without number
            self.counters.count(route, status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        """Raise the reason to refuse a request before its body is read."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._knows(host):
            raise Refusal(421, f"host '{host[:100]}' is not served here; start with --allow-host to serve it")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and origin.partition("://")[2] != host:
            raise Refusal(403, f"pages of {origin[:100]} may not ask here; start with --allow-origin to let them")
        if scope["type"] == "http" and (scope["method"] == "OPTIONS" or scope["path"] in OPEN):
            return
        if self.token is not None and not hmac.compare_digest(_bearer(headers), self.token):
            raise Refusal(401, "a token is needed: send the header 'Authorization: Bearer TOKEN'")
        if scope["path"].startswith("/v1/"):
            self._take(scope["client"][0] if scope.get("client") else "")

    def _knows(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "") if "@" not in host else ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _take(self, address: str) -> None:
        """Take one request out of an address's bucket, which holds a minute's."""
        if not self.limits.rate:
            return
        now, rate = time.monotonic(), self.limits.rate / 60
        level, at = self._buckets.pop(address, (float(self.limits.rate), now))
        level = min(self.limits.rate, level + (now - at) * rate)
        self._buckets[address] = (max(level - 1, 0.0) if level >= 1 else level, now)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        if level < 1:
            line = f"more than {self.limits.rate} requests a minute from this address"
            raise Refusal(429, line, max(1, round((1 - level) / rate)))

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Return a body's source that ends with an error where it is too long, or takes too long."""
        most, deadline = self.limits.megabytes * 1e6, time.monotonic() + self.limits.timeout
        length = Headers(scope=scope).get("content-length", "")
        too_long = Refusal(413, f"the request has more than {self.limits.megabytes:g} MB, which are the most")
        if length.isdecimal() and int(length) > most:
            raise too_long
        size, whole = 0, False

        async def receive_bounded() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                line = f"the request took more than {self.limits.timeout:g} s to arrive"
                raise Refusal(408, line) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > most:
                raise too_long
            return message

        return receive_bounded


def _bearer(headers: Headers) -> bytes:
    """Return the token of a request; a browser's stream has it as its second subprotocol."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        first, _, token = headers.get("sec-websocket-protocol", "").partition(",")
        token = token if first.strip() == "bearer" else ""
    return token.strip().encode()


async def _answer(refusal: Refusal, send: Send) -> None:
    """Send a refusal as JSON."""
    body = json.dumps({"error": refusal.line}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
