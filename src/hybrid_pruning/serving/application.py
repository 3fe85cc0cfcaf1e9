"""The HTTP interface of a `Service`: REST under /v1, health, counts, and their description."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.console import printable
from hybrid_pruning.errors import InputError, in_one_line
from hybrid_pruning.scoring.evidence import MARGIN
from hybrid_pruning.scoring.streams import HOP_SECONDS, STREAM_WINDOW_SECONDS, from_bytes
from hybrid_pruning.serving.guard import Guard
from hybrid_pruning.serving.limits import CLIENT_GONE, LARGEST_FORM, Refusal
from hybrid_pruning.serving.service import Answer, Service, show_name

CHUNK = 1 << 20
PAGES = {"": "page.html", "page.css": "page.css", "page.js": "page.js", "source.js": "remote.js", "tap.js": "tap.js"}
"""Files of the package by the paths they are served at."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
NAME = "name of the model; without it, the first one of its task"
Model = Annotated[str | None, Query(description=NAME)]
Threshold = Annotated[float | None, Query(description="LLR from which the verdict turns", allow_inf_nan=False)]
Prior = Annotated[float, Query(description="probability of a spoof before listening", ge=1e-6, le=1 - 1e-6)]
Timeline = Annotated[float | None, Query(description="also score windows of up to so many seconds", ge=0.5, le=60)]
Name = Annotated[str | None, Query(description="what a raw body is called in the answer")]
Upload = tuple[str, Path, str]
"""A form's field, the file with what was sent, and its name to show."""


def body(*fields: str) -> dict[str, Any]:
    """Return the description of a body: a recording as it is, or a form with files in the given fields."""
    binary = {"type": "string", "format": "binary"}
    enrol = {"type": "array", "items": binary}
    properties = {field: enrol if field == "enrol" else binary for field in fields}
    form = {"type": "object", "properties": properties, "required": list(fields)}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if len(fields) == 1:
        content["application/octet-stream"] = {"schema": binary}
    return {"requestBody": {"required": True, "content": content}}


def build_app(
    service: Service, token: str | None = None, hosts: Collection[str] = (), origins: Collection[str] = ()
) -> FastAPI:
    """Return the application; it closes the service when it ends.

    Args:
        service: of models.
        token: that clients must send; None to serve all.
        hosts: names under which the server may be asked, beside addresses, localhost and the machine's own.
        origins: sites whose pages may ask, beside its own page, as in https://example.org.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="hybrid-pruning",
        version=version("hybrid-pruning"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={400: {"description": "one line that says what is wrong with the request"}},
    )
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=[*origins], allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(
        Guard, limits=service.limits, counters=service.counters, token=token, hosts=hosts, origins=origins
    )
    _add_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answer that the server is up, with its models loaded."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Return counts in the text format of Prometheus."""
        return service.metrics()

    @app.get("/v1/models")
    async def models() -> Answer:
        """List the models, the limits, and whether recordings are kept."""
        limits = {"megabytes": service.limits.megabytes, "seconds": service.limits.seconds}
        found = [model.about() for model in service.models.values()]
        return {"models": found, "limits": limits, "margin": MARGIN, "kept": service.keep is not None}

    @app.post("/v1/detect", openapi_extra=body("file"))
    async def detect(
        request: Request,
        model: Model = None,
        prior: Prior = 0.5,
        threshold: Threshold = None,
        timeline: Timeline = None,
        name: Name = None,
    ) -> Answer:
        """Judge a recording: bona fide or spoofed, by how much, and whether the evidence suffices."""
        async with service.admit(), uploads(request, name, 1) as ((_, path, shown),):
            served = service.find(model, "anti-spoofing")
            return await _finish(request, service, service.detect(path, shown, served, prior, threshold, timeline))

    @app.post("/v1/verify", openapi_extra=body("test", "enrol"))
    async def verify(request: Request, model: Model = None, threshold: Threshold = None) -> Answer:
        """Compare the recording in `test` with those of a speaker in `enrol`."""
        async with service.admit(), uploads(request, None, LARGEST_FORM) as found:
            served = service.find(model, "speaker-verification")
            test = [(path, shown) for field, path, shown in found if field == "test"]
            enrol = [(path, shown) for field, path, shown in found if field == "enrol"]
            if len(test) != 1 or not enrol or len(found) != 1 + len(enrol):
                raise InputError("the form has one file in 'test', and one or more in 'enrol'")
            return await _finish(request, service, service.verify([*test, *enrol], served, threshold))

    @app.post("/v1/embed", openapi_extra=body("file"))
    async def embed(request: Request, model: Model = None, name: Name = None) -> Answer:
        """Return the embedding of a recording."""
        async with service.admit(), uploads(request, name, 1) as ((_, path, shown),):
            return await _finish(request, service, service.embed(path, shown, service.find(model)))

    _add_stream(app, service)
    _add_pages(app)
    return app


def _add_stream(app: FastAPI, service: Service) -> None:
    """Add the stream of raw samples in, verdicts out."""

    @app.websocket("/v1/stream")
    async def stream(
        socket: WebSocket,
        model: str | None = None,
        rate: int = SAMPLE_RATE_HZ,
        samples: Literal["s16", "f32"] = "s16",
        window: Annotated[float, Query(ge=0.5, le=60)] = STREAM_WINDOW_SECONDS,
        hop: Annotated[float, Query(ge=0.1, le=60)] = HOP_SECONDS,
        threshold: Annotated[float, Query(allow_inf_nan=False)] = 0.0,
        false_alarms: Annotated[float, Query(gt=0, le=3600)] = 1.0,
    ) -> None:
        await socket.accept("bearer" if "bearer" in socket.scope.get("subprotocols", ()) else None)
        options = {"rate": rate, "hop_seconds": hop, "threshold": threshold, "false_alarms": false_alarms}
        code, line = 1000, None
        try:
            with service.open_stream(service.find(model, "anti-spoofing"), window, **options) as listener:
                async for data in _received(socket, service.limits.timeout):
                    part = None if data is None else from_bytes(data, samples)
                    async for verdict in service.feed(listener, part):
                        await socket.send_json(verdict.record())
        except InputError as error:
            code, line = 1008, str(error)
        except Refusal as refusal:
            code, line = 1013, refusal.line
        except WebSocketDisconnect:
            return
        with suppress(RuntimeError, WebSocketDisconnect):  # the client is gone already
            if line is not None:
                await socket.send_json({"error": printable(line)})
            await socket.close(code)


async def _received(socket: WebSocket, patience: float) -> AsyncIterator[bytes | None]:
    """Yield a stream's messages of samples, and None where the client says `end`."""
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), patience)
        except TimeoutError:
            raise InputError(f"nothing came for {patience:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        if (data := message.get("bytes")) is None:
            if message.get("text") != "end":
                raise InputError("expected samples as binary messages, and in the end the text 'end'")
            yield None
            return
        yield data


def _add_pages(app: FastAPI) -> None:
    """Add the page to try the models with, its files, and the description for programs: no others."""
    for name, source in PAGES.items():
        content = files("hybrid_pruning.serving").joinpath("page", source).read_bytes()
        app.add_api_route(f"/{name}", _page(content, KINDS[Path(source).suffix]), include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(describe(app.openapi()))


def _page(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type=kind)

    return page


def describe(schema: Mapping[str, Any]) -> str:
    """Return an OpenAPI description as a page that needs neither scripts nor another site."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            parts.append(
                f"<section><h2>{escape(method.upper())} {escape(path)}</h2><p>{escape(about['description'])}</p>"
            )
            sent = about.get("requestBody", {}).get("content", {})
            parts += [f"<p>Body: {escape(kind)}{_fields(of['schema'])}</p>" for kind, of in sent.items()]
            rows = [
                f"<tr><td>{escape(one['name'])}</td><td>{escape(one.get('description', ''))}</td></tr>"
                for one in about.get("parameters", ())
            ]
            parts.append(f"<table><tbody>{''.join(rows)}</tbody></table></section>" if rows else "</section>")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    title = f"<title>{escape(schema['info']['title'])}: for programs</title><link rel=stylesheet href=page.css>"
    more = (
        '<p>Errors are JSON: <code>{"error": line}</code>. Also <code>WS /v1/stream</code>: raw samples in, a verdict'
    )
    more += ' each hop out; and <a href="openapi.json">openapi.json</a>.</p>'
    return f"{head}{title}<h1>For programs</h1>{more}{''.join(parts)}</html>"


def _fields(schema: Mapping[str, Any]) -> str:
    return escape(f" with {', '.join(schema['properties'])}") if "properties" in schema else ""


@asynccontextmanager
async def uploads(request: Request, name: str | None, most: int) -> AsyncIterator[list[Upload]]:
    """Keep the recordings of a request in files of our own names for as long as it is in work."""
    with tempfile.TemporaryDirectory(prefix="hybrid-pruning-", ignore_cleanup_errors=True) as folder:
        found: list[Upload] = []
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            async with request.form(max_files=most, max_fields=most) as form:
                for field, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        path = Path(folder, str(len(found)))
                        with path.open("wb") as file:
                            while chunk := await value.read(CHUNK):
                                file.write(chunk)
                        found.append((field, path, show_name(value.filename)))
        else:
            path = Path(folder, "0")
            with path.open("wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
            found.append(("file", path, show_name(name)))
        if not found or len(found) > most:
            raise InputError(f"{len(found)} recordings in the form; expected {'one' if most == 1 else 'some'}")
        yield found


async def _finish(request: Request, service: Service, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Return the answer in time; cancel the work where the client is gone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=service.limits.timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise Refusal(CLIENT_GONE, "the client is gone")
        line = f"not computed within {service.limits.timeout:g} s; try again later, or send less"
        raise Refusal(503, line, service.batcher.retry_after())
    finally:
        gone.cancel()
        task.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI) -> None:
    """Make every error one line of JSON."""

    def answer(status: int, line: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": printable(line)}, status, headers)

    @app.exception_handler(InputError)
    async def wrong(_: Request, error: InputError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return answer(500, f"internal error: {type(error).__name__}: {in_one_line(error)}")
