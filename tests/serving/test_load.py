"""A server's process under load: killed and started again, and for SOAK_SECONDS, half an hour by default."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import pytest
from websockets.asyncio.client import connect

from encoders import Once
from exports import export_detector, export_verifier
from served_fakes import clip

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
CLIENTS = 12
CLIPS = {seconds: clip(0, seconds) for seconds in (1, 2, 4, 8)}

pytestmark = pytest.mark.soak


@contextlib.contextmanager
def serving(folder: Path, *models: str, port: int = 0) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Yield a server's process and its address; it is ended with the block, if it was not before."""
    program = [sys.executable, "-m", "hybrid_pruning.cli", "serve", *models, "--port", f"{port}", "--rate", "0"]
    with subprocess.Popen([*program, "--timeout", "120"], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.match(r"http://(\S+) serves", server.stdout.readline())
            assert found is not None
            yield server, found[1]
        finally:
            server.terminate()


def client(address: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=CLIENTS + 4)
    return httpx2.AsyncClient(base_url=f"http://{address}", timeout=120, limits=limits, trust_env=False)


def test_a_server_that_is_killed_and_started_again_loses_nothing(once: Once):
    """Of clients that ask again where the connection breaks, or the server is about to end."""
    folder, found, jobs = export_detector(once), Counter[str](), iter(range(400))

    async def load() -> None:
        with contextlib.ExitStack() as servers:
            server, address = servers.enter_context(serving(folder, "onnx"))
            async with client(address) as http:
                content = CLIPS[4]
                expected = (await http.post("/v1/detect", content=content)).json()["llr"]

                async def work() -> None:
                    for _ in jobs:
                        while True:
                            try:
                                answer = await http.post("/v1/detect", content=content)
                            except httpx2.TransportError:
                                found["broken"] += 1
                            else:
                                if answer.status_code != 503:
                                    break
                            await asyncio.sleep(0.1)
                        right = answer.status_code == 200 and abs(answer.json()["llr"] - expected) < 1e-3
                        found["right" if right else answer.text] += 1

                workers = [asyncio.create_task(work()) for _ in range(CLIENTS)]
                for number, end in ((100, signal.SIGKILL), (250, signal.SIGTERM)):
                    while found["right"] < number:
                        await asyncio.sleep(0.01)
                    server.send_signal(end)
                    await asyncio.to_thread(server.wait, 30)
                    port = int(address.rpartition(":")[2])
                    server, _ = await asyncio.to_thread(servers.enter_context, serving(folder, "onnx", port=port))
                await asyncio.gather(*workers)

    asyncio.run(load())
    assert found["broken"] > 0
    assert found == {"right": 400, "broken": found["broken"]}


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status")
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_half_an_hour_of_everything(once: Once, pristine: Path, tmp_path: Path):
    """Files of all lengths, speakers, embeddings, streams, garbage, and clients that leave: all right, memory flat."""
    for name, source in (
        ("detector", export_detector(once) / "onnx"),
        ("ver", export_verifier(once, pristine) / "graph"),
    ):
        shutil.copytree(source, tmp_path / name)
    found, latencies, memory = Counter[str](), list[float](), list[float]()

    async def load(address: str, pid: int) -> str:
        async with client(address) as http:

            async def detect(seconds: int) -> Any:
                return (await http.post("/v1/detect?timeline=2", content=CLIPS[seconds])).json()["llr"]

            async def verify(seconds: int) -> Any:  # this model's attention takes much memory
                files = [(field, ("a.wav", CLIPS[min(seconds, 2)])) for field in ("test", "enrol", "enrol")]
                return (await http.post("/v1/verify", files=files)).json()["score"]

            async def embed(seconds: int) -> Any:
                return (await http.post("/v1/embed?model=ver", content=CLIPS[min(seconds, 2)])).json()["embedding"][0]

            async def stream(seconds: int) -> Any:
                async with connect(f"ws://{address}/v1/stream?window=8", proxy=None) as socket:
                    await socket.send(CLIPS[seconds][44:])
                    await socket.send("end")
                    return [json.loads(text)["llr"] async for text in socket][-1]

            asks: list[Callable[[int], Awaitable[Any]]] = [detect] * 14 + [verify, embed, stream]
            expected = {(ask, seconds): await ask(seconds) for ask in asks for seconds in CLIPS}
            for seconds in CLIPS:
                assert expected[stream, seconds] == pytest.approx(expected[detect, seconds], abs=1e-3)
            end = time.monotonic() + SECONDS

            async def work(seed: int) -> None:
                rng = np.random.default_rng(seed)
                while time.monotonic() < end:
                    ask, seconds, chance = rng.choice(asks), int(rng.choice(list(CLIPS))), rng.random()
                    if chance < 0.05:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(detect(seconds), rng.random() * 0.3)
                        found["left"] += 1
                    elif chance < 0.1:
                        answer = await http.post("/v1/detect", content=rng.bytes(20_000))
                        found["refused" if answer.status_code == 400 else answer.text] += 1
                    else:
                        started = time.perf_counter()
                        got = await ask(seconds)
                        latencies.append(time.perf_counter() - started)
                        right = got == pytest.approx(expected[ask, seconds], abs=1e-3)
                        found["right" if right else f"{ask.__name__} of {seconds} s: {got}"] += 1

            async def watch() -> None:
                while time.monotonic() < end:
                    memory.append(memory_mb(pid))
                    await asyncio.sleep(SECONDS / 40)

            await asyncio.gather(watch(), *map(work, range(CLIENTS)))
            return (await http.get("/metrics")).text

    with serving(tmp_path, "detector", "ver") as (server, address):
        counts = asyncio.run(load(address, server.pid))
    p50, p95, p99 = 1000 * np.percentile(latencies, [50, 95, 99])
    print(f"\n{SECONDS:g} s, {dict(found)}; p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms")
    print(f"memory, MB: {', '.join(f'{value:.0f}' for value in memory)}")
    assert set(found) <= {"right", "left", "refused"}
    assert 'status="5' not in counts
    assert "hybrid_pruning_requests_running 0" in counts
    quarter = len(memory) // 4
    assert median(memory[-quarter:]) < 1.05 * median(memory[quarter : 2 * quarter])
