"""The security list of a server, a test for each line, and streams over a WebSocket."""

import asyncio
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import numpy as np
import pytest
from anyio import ClosedResourceError
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from corpus import swell
from hybrid_pruning.serving import guard
from hybrid_pruning.serving.application import build_app
from hybrid_pruning.serving.limits import Limits
from hybrid_pruning.serving.server import PatientProtocol
from hybrid_pruning.serving.service import Service
from served_fakes import clip, fakes, running

HERE = "http://localhost"
PATHS = ["/", "/page.js", "/source.js", "/docs", "/openapi.json", "/health", "/metrics", "/v1/models", "/nowhere"]


def serving(limits: Limits | None = None, **options: Any) -> TestClient:
    return TestClient(build_app(Service(fakes(), limits), **options), base_url=HERE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as client:
        yield client


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("192.168.1.5:8000", 200),
        ("LocalHost", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:80@localhost", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(client: TestClient, host: str, status: int):
    assert client.get("/v1/models", headers={"host": host}).status_code == status


def test_a_name_that_was_allowed_is_served():
    with serving(hosts=["Demo.example.org"]) as client:
        assert client.get("/v1/models", headers={"host": "demo.example.org"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://[::1", "http://localhost:81", "http://localhost.evil"]
)
def test_pages_of_other_sites_may_not_ask(client: TestClient, origin: str):
    answer = client.post("/v1/detect", content=clip(3), headers={"origin": origin})
    assert answer.status_code == 403
    assert "--allow-origin" in answer.json()["error"]
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("ws://localhost/v1/stream", headers={"origin": origin}),
    ):
        pass
    assert client.post("/v1/detect", content=clip(3), headers={"origin": HERE}).status_code == 200


def test_pages_of_a_site_that_was_allowed_may_ask():
    site = {"origin": "https://good.example"}
    with serving(origins=["https://good.example"], token="secret-token") as client:
        ask = site | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        before = client.options("/v1/detect", headers=ask)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == site["origin"]
        send = site | {"authorization": "Bearer secret-token"}
        answer = client.post("/v1/detect", content=clip(3), headers=send)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, site["origin"])


def test_a_token_is_needed_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    compared = []

    def compare(*pair: bytes) -> bool:
        compared.append(pair)
        return pair[0] == pair[1]

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)  # in constant time
    with serving(token="secret-token") as client:
        for path in PATHS:
            expected = 200 if path in guard.OPEN else 401
            assert client.get(path).status_code == expected, path
        for sent in ("", "Bearer", "Bearer wrong-token", "Basic secret-token", "Bearer é"):
            headers = {"authorization": sent.encode()}
            assert client.post("/v1/detect", content=clip(3), headers=headers).status_code == 401
        assert client.get("/metrics", headers={"authorization": "Bearer secret-token"}).status_code == 200
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://localhost/v1/stream"):
            pass
        with client.websocket_connect("ws://localhost/v1/stream", subprotocols=["bearer", "secret-token"]) as stream:
            assert stream.accepted_subprotocol == "bearer"
    assert (b"wrong-token", b"secret-token") in compared


def test_headers_of_every_answer(client: TestClient):
    for path in PATHS:
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    refused = client.get("/", headers={"host": "evil.example"})
    assert refused.headers["content-security-policy"]


def test_the_rate_of_an_address_is_limited():
    with serving(Limits(rate=3)) as client:
        found = [client.get("/v1/models") for _ in range(5)]
        assert [answer.status_code for answer in found] == [200, 200, 200, 429, 429]
        assert 1 <= int(found[-1].headers["retry-after"]) <= 20
        assert client.get("/health").status_code == 200


def test_sizes_and_durations_are_limited():
    with serving(Limits(megabytes=0.15, seconds=3.0)) as client:
        assert client.post("/v1/detect", content=clip(3, 2.9)).status_code == 200
        for content in (clip(3, 3.2), clip(3, 3.2, "OGG")):
            answer = client.post("/v1/detect", content=content)
            assert (answer.status_code, answer.json()["error"]) == (
                400,
                "recording: lasts more than 3 s, which are the most that is taken",
            )
        for sent in ({"content": bytes(200_000)}, {"files": {"file": bytes(200_000)}}):
            assert client.post("/v1/detect", **sent).status_code == 413
        pieces = iter([bytes(50_000)] * 4)  # without a length that was announced
        assert client.post("/v1/detect", content=pieces).status_code == 413


def talk(address: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send parts on a connection until the server ends it, and return what it answered."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        found = b""
        try:
            while piece := connection.recv(1 << 16):
                found += piece
        except ConnectionResetError:
            pass
        return found


HEAD = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\n"


def test_slow_and_endless_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.4)
    with running(Limits(timeout=0.5, megabytes=1)) as address:
        started = time.monotonic()
        assert talk(address, HEAD[:20]) == b""  # headers that never come
        slow = talk(address, HEAD + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 12, pause=0.1)
        assert slow.startswith(b"HTTP/1.1 408")
        assert b"took more than 0.5 s to arrive" in slow
        chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        endless = talk(address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 400)
        assert not endless or endless.startswith(b"HTTP/1.1 413")  # or reset while it was still sending
        large = talk(address, HEAD + b"Content-Length: 100000000\r\n\r\n")
        assert large.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in large.lower()
        assert time.monotonic() - started < 20
        whole = talk(address, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(clip(3)) + clip(3))
        assert whole.startswith(b"HTTP/1.1 200")


def drain(stream: Any) -> tuple[list[Any], int]:
    """Return the messages of a stream until it is closed, and the code of that."""
    found = []
    while (message := stream.receive())["type"] == "websocket.send":
        found.append(json.loads(message["text"]))
    return found, message["code"]


def damaged(rng: np.random.Generator) -> bytes:
    """Return a recording that is cut, overwritten or mixed up, or no recording."""
    content = bytearray(clip(3, 0.5, rng.choice(["WAV", "FLAC", "OGG", "MP3"])))
    for _ in range(rng.integers(0, 20)):
        content[rng.integers(len(content))] = rng.integers(256)
    start, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    return [bytes(content), bytes(content[:end]), bytes(content[start:]), rng.bytes(200)][rng.integers(4)]


def fuzz(client: TestClient, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for index in range(count):
        content = damaged(rng)
        name = rng.bytes(8).decode("latin-1").replace("\r", "").replace("\n", "").replace('"', "")
        forms = ({"content": content}, {"files": {"file": (name, content)}})
        broken = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content
        kind = {"content-type": "multipart/form-data; boundary=x"}
        forms += ({"content": broken, "headers": kind}, {"content": content, "headers": kind})
        answer = client.post("/v1/detect?timeline=1", **forms[rng.integers(4)])
        assert answer.status_code in (200, 400), (seed, index, answer.text)
        assert "error" in answer.json() or np.isfinite(answer.json()["llr"])
        with client.websocket_connect(
            f"ws://localhost/v1/stream?samples={rng.choice(['s16', 'f32'])}&hop=0.5&window=1"
        ) as stream:
            try:
                for _ in range(rng.integers(1, 4)):
                    if rng.random() < 0.1:
                        stream.send_text("x")
                    else:
                        stream.send_bytes(rng.bytes(int(rng.integers(0, 20_000)) // 4 * 4 + int(rng.random() < 0.1)))
                stream.send_text("end")
            except ClosedResourceError:  # it was refused meanwhile
                pass
            assert drain(stream)[1] in (1000, 1008), (seed, index)


@pytest.mark.filterwarnings(
    "ignore:.*SpooledTemporaryFile"
)  # starlette leaves that of a form cut short to be collected
def test_garbage_is_never_an_error_of_ours(client: TestClient):
    fuzz(client, 15, seed=int(os.environ.get("FUZZ_SEED", "0")))


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")
def test_much_garbage_is_never_an_error_of_ours():
    with serving(Limits(rate=0)) as client:
        fuzz(client, 500, seed=1)
        assert 'status="5' not in client.get("/metrics").text


def samples(llr: float, seconds: float) -> bytes:
    time = np.arange(round(8000 * seconds))
    return (32767 * (0.2 * swell(time) * np.sin(0.2 * np.pi * time) + llr / 100)).astype("<i2").tobytes()


def test_a_stream_answers_every_hop_and_at_its_end(client: TestClient):
    with client.websocket_connect("ws://localhost/v1/stream?rate=8000&hop=0.5&window=1") as stream:
        stream.send_bytes(samples(3, 2.25))
        stream.send_bytes(samples(-20, 2.0))
        stream.send_text("end")
        found, code = drain(stream)
    assert code == 1000
    assert [one["seconds"] for one in found] == [*np.arange(1, 9) * 0.5, 4.25]
    assert found[0]["undecided"] == "holds 0.5 s of active sound; 1 s are needed"
    assert [one["llr"] for one in found[1:3]] == pytest.approx([3, 3], abs=0.1)
    assert found[7]["window_llr"] == pytest.approx(-20, abs=0.2)
    assert [one["alarm"] for one in found[:5]] == [False] * 5
    assert found[7]["alarm"]


def test_streams_have_limits():
    with serving(Limits(streams=1, timeout=0.3)) as client:
        with client.websocket_connect("ws://localhost/v1/stream") as stream:
            with client.websocket_connect("ws://localhost/v1/stream") as other:
                assert drain(other) == ([{"error": "1 streams are open; try again later"}], 1013)
            assert stream.receive_json() == {"error": "nothing came for 0.3 s"}
        for query, line in (
            ("hop=0.3&window=1", "a verdict every 0.3 s"),
            ("model=verifier", "speaker verification"),
            ("rate=5", "rate 5 Hz"),
        ):
            with client.websocket_connect(f"ws://localhost/v1/stream?{query}") as stream:
                assert line in stream.receive_json()["error"]
        with client.websocket_connect("ws://localhost/v1/stream") as stream:
            stream.send_bytes(b"abc")
            assert "no whole number" in stream.receive_json()["error"]
        assert "hybrid_pruning_streams_open 0" in client.get("/metrics").text


@pytest.mark.parametrize(("clients", "requests"), [(8, 60), pytest.param(64, 2000, marks=pytest.mark.soak)])
def test_under_load_no_answer_is_lost_or_wrong(clients: int, requests: int):
    """Of clients of whom a twentieth leave, and a twentieth send garbage."""
    clips, found = [clip(llr, seconds) for llr, seconds in ((1, 1), (2, 2), (3, 4), (4, 8))], Counter[str]()

    async def load(address: str) -> None:
        jobs, limits = iter(range(requests)), httpx2.Limits(max_connections=clients)
        async with httpx2.AsyncClient(
            base_url=f"http://{address}", timeout=120, limits=limits, trust_env=False
        ) as http:

            async def work(seed: int) -> None:
                rng = np.random.default_rng(seed)
                for _ in jobs:
                    place, chance = int(rng.integers(len(clips))), rng.random()
                    if chance < 0.05:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(http.post("/v1/detect", content=clips[place]), rng.random() * 0.3)
                        found["left"] += 1
                    elif chance < 0.1:
                        answer = await http.post("/v1/detect", content=rng.bytes(20_000))
                        found[f"garbage {answer.status_code}"] += 1
                    else:
                        answer = await http.post("/v1/detect", content=clips[place])
                        found["right" if abs(answer.json()["llr"] - place - 1) < 0.1 else answer.text] += 1

            await asyncio.gather(*map(work, range(clients)))

    with running(Limits(rate=0)) as address:
        asyncio.run(load(address))
    assert found.total() == requests
    assert set(found) == {"left", "garbage 400", "right"}
