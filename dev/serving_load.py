"""Load on a server: many clients, of whom some leave and some send garbage; every answer is compared.

Usage: python dev/serving_load.py MODEL... [--clients 64] [--requests 2000]

Prints the start-up of each model's server, with `--requests 0` that alone; then the latencies beside the model's own
time for a recording alone, the throughput, and the server's memory.
"""

import argparse
import asyncio
import io
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import soundfile

SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
CANCELLED, GARBAGE = 0.05, 0.05


def recording(seconds: float, seed: int) -> bytes:
    """Return a FLAC of modulated noise."""
    rng, size = np.random.default_rng(seed), round(16_000 * seconds)
    wave = 0.1 * rng.standard_normal(size) * (1 + np.sin(np.arange(size) / 2000))
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="FLAC")
    return file.getvalue()


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


def cpu_seconds(pid: int) -> float:
    """Return the time of processors that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(base: str, clients: int, requests: int, pid: int) -> None:
    """Send the requests and print what came of them."""
    clips = [recording(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=base, timeout=600, limits=limits, trust_env=False) as http:
        expected, alone = [], []
        for clip in clips:
            started = time.perf_counter()
            expected.append((await http.post("/v1/detect", content=clip)).json()["llr"])
            alone.append(time.perf_counter() - started)
        counts, latencies, memory, begun = Counter[str](), list[float](), [memory_mb(pid)], time.perf_counter()
        jobs = iter(range(requests))

        async def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for job in jobs:
                place, chance = int(rng.integers(len(clips))), rng.random()
                if job % 200 == 0:
                    memory.append(memory_mb(pid))
                if chance < CANCELLED:
                    try:
                        await asyncio.wait_for(http.post("/v1/detect", content=clips[place]), rng.random() * 0.2)
                        counts["answered before it was cancelled"] += 1
                    except TimeoutError:
                        counts["cancelled"] += 1
                    continue
                if chance < CANCELLED + GARBAGE:
                    answer: Any = await http.post("/v1/detect", content=rng.bytes(20_000))
                    counts["garbage refused" if answer.status_code == 400 else f"garbage {answer.status_code}"] += 1
                    continue
                started = time.perf_counter()
                while (answer := await http.post("/v1/detect", content=clips[place])).status_code == 503:
                    counts["told to come again"] += 1
                    await asyncio.sleep(int(answer.headers["retry-after"]))
                latencies.append(time.perf_counter() - started)
                right = answer.status_code == 200 and abs(answer.json()["llr"] - expected[place]) < 0.05
                counts["right" if right else f"WRONG {answer.status_code}"] += 1

        await asyncio.gather(*map(work, range(clients)))
        wall, audio = time.perf_counter() - begun, np.mean(SECONDS)
        metrics = (await http.get("/metrics")).text
    print(f"{clients} clients, {requests} requests in {wall:.1f} s: {requests / wall:.1f} a second")
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    p50, p95, p99 = 1000 * np.percentile(latencies, [50, 95, 99])
    print(
        f"latency p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms; one client alone {1000 * np.mean(alone):.0f} ms"
    )
    busy, windows, batches = (
        float(re.search(rf"^hybrid_pruning_{name} (\S+)", metrics, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("model_seconds_total", "windows_total", "batches_total")
    )
    print(f"the model computed {busy / wall:.0%} of the time, {windows / batches:.2f} windows a batch")
    print(f"{counts['right'] * audio / wall:.0f} times real time; memory, MB: {', '.join(f'{m:.0f}' for m in memory)}")


@contextmanager
def serving(model: str) -> Iterator[tuple[int, str]]:
    """Yield the process of a server of a model, and its address."""
    command = [sys.executable, "-m", "hybrid_pruning.cli", "serve", model, "--port", "8899", "--rate", "0"]
    server = subprocess.Popen([*command, "--timeout", "600"], env=os.environ, stdout=subprocess.DEVNULL)
    try:
        yield server.pid, "http://127.0.0.1:8899"
    finally:
        server.terminate()
        server.wait(120)


def start(pid: int, base: str) -> None:
    """Wait for a server that was just started, and print what that and the first recordings took."""
    began = time.perf_counter()
    with httpx2.Client(base_url=base, timeout=600, trust_env=False) as http:
        while True:
            try:
                http.get("/health")
                break
            except httpx2.TransportError:
                time.sleep(0.01)
        about = http.get("/v1/models").json()["models"][0]
        cells = [about["name"], about["engine"], about["weights"], f"{about['megabytes']:.1f}"]
        cells += [f"{time.perf_counter() - began:.1f}", f"{cpu_seconds(pid):.1f}", f"{memory_mb(pid):.0f}"]
        clip, took = recording(4.0, 0), list[float]()
        for _ in range(6):
            took.append(http.post("/v1/detect", content=clip).json()["milliseconds"])
    cells += [f"{took[0]:.0f}", f"{statistics.median(took[1:]):.0f}", f"{memory_mb(pid):.0f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Start a server of each model, load it, and end it."""
    options = argparse.ArgumentParser()
    options.add_argument("models", nargs="+", metavar="MODEL")
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--requests", type=int, default=2000)
    given = options.parse_args()
    print("| model | engine | weights | MB | s until it answers | of a core | MB then | first 4 s, ms | others | MB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in given.models:
        with serving(model) as (pid, base):
            start(pid, base)
            if given.requests:
                asyncio.run(load(base, given.clients, given.requests, pid))


if __name__ == "__main__":
    main()
