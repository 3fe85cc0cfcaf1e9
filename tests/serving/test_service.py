"""Models over HTTP: the numbers of the command line, for many clients at a time, within limits, without torch."""

import asyncio
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from corpus import SAMPLE_RATE_HZ, noise, swell, tiny_detector
from encoders import Once
from exports import CALIBRATION, export_detector, export_verifier, read_graph
from hybrid_pruning import OnnxModel, SpeechModel
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.onnx.graph import export_openvino
from hybrid_pruning.scoring.engine import Engine, load_embedder
from hybrid_pruning.scoring.scores import embed_paths, score_paths
from hybrid_pruning.scoring.verdicts import detect, verify
from hybrid_pruning.serving.application import build_app
from hybrid_pruning.serving.batching import Batcher
from hybrid_pruning.serving.limits import Limits, Refusal
from hybrid_pruning.serving.served import Served, name_models
from hybrid_pruning.serving.service import Service
from speakers import tiny_verifier
from world import run_main

WINDOW = 1.0
HERE = "http://localhost"
LENGTHS = (300, 9_000, 16_000, 40_000, 55_123)
WITHOUT_TORCH = """
import pathlib
import sys
from starlette.testclient import TestClient
from hybrid_pruning.serving import application, served, service
model = served.Served.load("m", sys.argv[1], 30.0)
with TestClient(application.build_app(service.Service([model])), base_url="http://localhost") as client:
    answer = client.post("/v1/detect?timeline=1", content=pathlib.Path(sys.argv[2]).read_bytes())
    assert answer.status_code == 200, answer.text
assert not {"torch", "transformers", "onnx"} & set(sys.modules), "imported"
"""


def sound(samples: int, seed: int = 0) -> np.ndarray:
    time = np.arange(samples)
    return swell(time) * (0.3 * np.sin(0.3 * time) + noise(samples, seed))


def wav(wave: np.ndarray, rate: int = SAMPLE_RATE_HZ, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated detector and a calibrated verifier, and clips."""
    folder = tmp_path_factory.mktemp("served")
    detector = tiny_detector(folder / "wavlm", num_hidden_layers=1)
    detector.calibration = CALIBRATION
    detector.save_pretrained(folder / "det")
    tiny_verifier(folder / "wavlm", num_hidden_layers=1).save_pretrained(folder / "ver")
    for index, samples in enumerate(LENGTHS):
        soundfile.write(folder / f"{index}.flac", sound(samples, index), SAMPLE_RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> list[Served]:
    return [Served.load(name, folder / name, WINDOW) for name in ("det", "ver")]


@pytest.fixture(scope="module")
def client(models: list[Served]) -> Iterator[TestClient]:
    with serving(models) as client:
        yield client


def serving(models: list[Served], limits: Limits | None = None, **options: Any) -> TestClient:
    keep = options.pop("keep", None)
    app = build_app(Service(models, limits, keep), **options)
    return TestClient(app, base_url=HERE, raise_server_exceptions=False)


def error(answer: Any) -> str:
    found = answer.json()
    assert list(found) == ["error"]
    assert "\n" not in found["error"]
    return str(found["error"])


def test_answers_are_those_of_detect(client: TestClient, models: list[Served], folder: Path):
    paths = [folder / f"{index}.flac" for index in range(len(LENGTHS))]
    expected = list(detect(models[0].engine.model, paths, 0, WINDOW))
    scores = score_paths(models[0].engine.model, paths, workers=0, window_seconds=WINDOW)
    with ThreadPoolExecutor(5) as pool:  # side by side, so that they share batches
        answers = list(
            pool.map(lambda path: client.post("/v1/detect", files={"file": (path.name, path.read_bytes())}), paths)
        )
    for answer, one, score, path in zip(answers, expected, scores, paths, strict=True):
        found, record = answer.json(), one.record(0.0, True)
        assert found["llr"] == pytest.approx(score, abs=1e-5)
        assert {key: found[key] for key in record} == record | {"path": path.name, "llr": found["llr"]}
        assert found["probability_spoof"] == pytest.approx(1 / (1 + np.exp(found["llr"])))


def test_a_raw_body_and_a_prior(client: TestClient, folder: Path):
    content = (folder / "3.flac").read_bytes()
    even = client.post("/v1/detect?name=call.flac", content=content).json()
    rare = client.post("/v1/detect?prior=0.05", content=content).json()
    assert (even["path"], rare["path"], even["threshold"]) == ("call.flac", "recording", 0)
    assert rare["threshold"] == pytest.approx(np.log(0.05 / 0.95))
    odds = [found["probability_spoof"] / (1 - found["probability_spoof"]) for found in (even, rare)]
    assert odds[1] / odds[0] == pytest.approx(0.05 / 0.95)


def test_the_timeline_is_the_score_of_each_window(client: TestClient, models: list[Served]):
    wave = sound(40_000)
    wave[:16_000] = 0
    found = client.post("/v1/detect?timeline=0.5", content=wav(wave)).json()
    assert [window["start"] for window in found["timeline"]] == [0, 0.5, 1, 1.5, 2]
    assert [window["llr"] is None for window in found["timeline"]] == [True, True, False, False, False]
    alone = client.post("/v1/detect", content=wav(wave[24_000:32_000])).json()
    assert found["timeline"][3]["llr"] == pytest.approx(alone["llr"], abs=1e-5)
    assert len(found["waveform"]) == 240
    assert max(found["waveform"][:90]) == 0 < min(found["waveform"][100:])


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (np.zeros(32_000), "no speech-like energy"),
        (sound(8_000), "0.5 s of active sound"),
        (np.concatenate([sound(6_400), np.zeros(64_000)]), "0.4 s of active sound"),
        (noise(32_000), "is too noisy: its levels differ by 0.9 dB, those of speech by 10"),
    ],
    ids=["silent", "short", "mostly silent", "noisy"],
)
def test_thin_evidence_is_undecided(client: TestClient, wave: np.ndarray, reason: str):
    assert reason in client.post("/v1/detect", content=wav(wave)).json()["undecided"]


def test_an_llr_about_the_threshold_is_undecided(client: TestClient):
    content = wav(sound(48_000))
    llr = client.post("/v1/detect", content=content).json()["llr"]
    for distance, undecided in ((0.0, True), (1.0, True), (1.2, False), (-1.2, False)):
        found = client.post(f"/v1/detect?threshold={llr + distance}", content=content).json()
        assert (found["undecided"] is not None) == undecided


def test_an_llr_that_the_calibration_never_saw_is_undecided(folder: Path):
    content = wav(sound(48_000))
    model = SpeechModel.from_pretrained(folder / "det")
    with serving([Served.load("det", model, WINDOW)]) as client:
        llr = client.post("/v1/detect", content=content).json()["llr"]
        for seen, line in (
            ((llr - 3, llr + 1), None),
            ((llr + 0.2, llr + 1), "is like no recording of the calibration, whose LLRs went from"),
            ((llr - 3, llr - 0.2), "is like no recording of the calibration, whose LLRs went from"),
        ):
            model.calibration = replace(CALIBRATION, fits=(replace(CALIBRATION.fits[0], seen=seen),))
            found = client.post(f"/v1/detect?threshold={llr + 5}", content=content).json()
            assert found["thin"] == found["undecided"]
            assert (found["thin"] or "").startswith(line or "")
            assert (found["thin"] is None) == (line is None)


def test_verification_is_that_of_verify(client: TestClient, models: list[Served], folder: Path):
    paths = [folder / f"{index}.flac" for index in (1, 3, 4)]
    expected = verify(models[1].engine.model, paths[0], paths[1:], 0, WINDOW).record(None)
    files = [
        (field, (path.name, path.read_bytes())) for field, path in zip(("test", "enrol", "enrol"), paths, strict=True)
    ]
    found = client.post("/v1/verify", files=files).json()
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    names = {"test": "1.flac", "enrol": ["3.flac", "4.flac"], "score": found["score"]}
    assert {key: found[key] for key in expected} == expected | names


def test_embeddings_are_those_of_embed_paths(client: TestClient, models: list[Served], folder: Path):
    for served in models:
        found = client.post(f"/v1/embed?model={served.name}", content=(folder / "4.flac").read_bytes()).json()
        expected = embed_paths(served.engine.model, [folder / "4.flac"], workers=0, window_seconds=WINDOW)[0]
        np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)


def test_openvino_embeds_and_compares(once: Once, pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The server and the command line, as ONNX Runtime does."""
    world = export_verifier(once, pristine)
    export_openvino(SpeechModel.from_pretrained(world / "mc"), tmp_path / "vino", proto=read_graph(world / "graph"))
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).write_bytes(wav(sound(20_000, ord(name[0]))))
    paths = [tmp_path / name for name in ("a.wav", "b.wav", "c.wav")]
    expected = verify(world / "graph", paths[0], paths[1:])
    served = Served.load("vino", tmp_path / "vino", WINDOW * 2)
    assert served.about()["engine"] == "openvino"
    with serving([served]) as client:
        files = [(field, path.read_bytes()) for field, path in zip(("test", "enrol", "enrol"), paths, strict=True)]
        found = client.post("/v1/verify", files=files).json()
        embedding = client.post("/v1/embed", content=paths[0].read_bytes()).json()["embedding"]
    assert (found["kind"], found["score"]) == ("LLR", pytest.approx(expected.score, abs=1e-3))
    vectors = [
        embed_paths(load_embedder(place), paths[:1], workers=0)[0] for place in (world / "graph", tmp_path / "vino")
    ]
    np.testing.assert_allclose([vectors[1], embedding], [vectors[0]] * 2, rtol=1e-3, atol=1e-4)
    capsys.readouterr()
    assert run_main(["verify", "a.wav", "b.wav", "c.wav", "--model", "vino", "--json"], tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(expected.score, abs=1e-3)


def test_models_health_and_counts(client: TestClient):
    about = client.get("/v1/models").json()
    assert [(one["name"], one["task"], one["engine"]) for one in about["models"]] == [
        ("det", "anti-spoofing", "torch"),
        ("ver", "speaker-verification", "torch"),
    ]
    assert about["kept"] is False
    assert client.get("/health").json() == {"status": "ok"}
    text = client.get("/metrics").text
    assert 'hybrid_pruning_requests_total{path="/health",status="200"} 1' in text
    assert "hybrid_pruning_queue_requests 0\n" in text
    assert 'hybrid_pruning_request_seconds_bucket{path="/v1/models",le="+Inf"} 1' in text
    assert {"/v1/detect", "/v1/verify", "/v1/embed"} < set(client.get("/openapi.json").json()["paths"])


def test_mistakes_are_the_line_of_the_command_line(
    client: TestClient, folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "bad.wav").write_text("no audio")
    assert run_main(["detect", "bad.wav", "--model", "det", "--json"], folder) == 2
    line = capsys.readouterr().err.strip().removeprefix("hybrid-pruning: ")
    answer = client.post("/v1/detect", files={"file": ("bad.wav", b"no audio")})
    assert (answer.status_code, error(answer)) == (400, line)


@pytest.mark.parametrize(
    ("path", "sent", "line"),
    [
        ("/v1/detect", {"content": b""}, "recording: is empty, 0 bytes"),
        ("/v1/detect?model=x", {"content": b"1"}, "no model 'x' is served; there are: det, ver"),
        ("/v1/detect?model=ver", {"content": b"1"}, "ver: is for speaker verification; it compares recordings"),
        ("/v1/detect?prior=1", {"content": b"1"}, "prior: Input should be less than or equal to 0.999999"),
        ("/v1/detect?threshold=nan", {"content": b"1"}, "threshold: Input should be a finite number"),
        ("/v1/detect", {"files": [("a", b"1"), ("b", b"2")]}, "Too many files. Maximum number of files is 1."),
        ("/v1/verify", {"files": [("test", b"1")]}, "the form has one file in 'test', and one or more in 'enrol'"),
        ("/v1/verify?model=det", {"files": [("test", b"1"), ("enrol", b"2")]}, "this model is for anti-spoofing"),
    ],
)
def test_mistakes_are_one_line(client: TestClient, path: str, sent: dict[str, Any], line: str):
    answer = client.post(path, **sent)
    assert answer.status_code == 400
    assert error(answer).startswith(line)


def test_unknown_places_and_methods(client: TestClient):
    assert client.get("/v1/detect").status_code == 405
    for path in ("/../pyproject.toml", "/page.py", "/static/", "/v1/", "/%2e%2e/etc/passwd"):
        assert client.get(path).status_code == 404, path


def test_onnx_is_preferred_and_needs_no_torch(once: Once, tmp_path: Path, folder: Path):
    both = export_detector(once)
    for name in ("model/config.json", "model/model.safetensors", "onnx/model.onnx", "onnx/model.json"):
        (tmp_path / Path(name).name).write_bytes((both / name).read_bytes())
    assert isinstance(Served.load("m", tmp_path, 30.0).engine.model, OnnxModel)
    assert isinstance(Served.load("m", tmp_path, 30.0, "cpu").engine.model, OnnxModel)
    program = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, str(tmp_path), str(folder / "4.flac")]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    SpeechModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["calibration"]
    model = SpeechModel.from_pretrained(tmp_path)
    model.calibration = None  # the .onnx file has another
    model.save_pretrained(tmp_path)
    assert isinstance(Served.load("m", tmp_path, 30.0).engine.model, SpeechModel)


def test_names_of_models():
    assert name_models(["a/hp50", "b/hp50/model.onnx", "c/small.onnx", "me/hp50"]) == [
        "hp50",
        "hp50-2",
        "small",
        "hp50-3",
    ]


class Recorder:
    """A model that notes the batches it is given, and waits to be told to go on."""

    task, device_type, minimum_samples, embedding_width = "anti-spoofing", "cpu", 400, 1
    calibration = cohort = None

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Semaphore(0)

    def embed_arrays(self, wave: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        self.batches.append(lengths.tolist() if lengths is not None else [wave.shape[1]] * len(wave))
        self.go.acquire()
        return wave.mean(axis=1, keepdims=True)


@pytest.fixture
def queue() -> Iterator[tuple[Batcher, Engine, Recorder]]:
    model, batcher = Recorder(), Batcher(100.0)
    yield batcher, Engine(model), model  # type: ignore[arg-type]
    model.go.release(100)
    batcher.close()


def ones(*lengths: int) -> list[np.ndarray]:
    return [np.ones(length, np.float32) for length in lengths]


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_requests_share_batches_and_long_ones_wait(queue: tuple[Batcher, Engine, Recorder]):
    batcher, engine, model = queue
    first = batcher.submit(engine, ones(16_000))
    until(lambda: model.batches)  # it is being computed: the others wait
    long = batcher.submit(engine, ones(*[64_000] * 4))
    short = [batcher.submit(engine, ones(60_000)), batcher.submit(engine, ones(3_000))]
    dropped = batcher.submit(engine, ones(64_000))
    dropped.cancel()
    model.go.release(10)
    assert [len(future.result(10)) for future in (first, long, *short)] == [1, 4, 1, 1]
    assert model.batches == [[16_000], [64_000, 64_000], [60_000], [3_000], [64_000, 64_000]]


def test_the_queue_is_bounded(queue: tuple[Batcher, Engine, Recorder]):
    batcher, engine, model = queue
    batcher.submit(engine, ones(16_000))
    until(lambda: model.batches)
    waiting = batcher.submit(engine, ones(16_000 * 90))
    with pytest.raises(Refusal, match="90 s of audio are waiting") as refused:
        batcher.submit(engine, ones(16_000 * 20))
    assert refused.value.status == 503
    assert 1 <= refused.value.retry_after <= 60
    waiting.cancel()


def test_an_error_is_that_of_its_batch_alone(queue: tuple[Batcher, Engine, Recorder]):
    batcher, engine, model = queue
    model.go.release(10)
    bad = batcher.submit(engine, [np.full(16_000, np.nan, np.float32)])
    with pytest.raises(InputError, match="not finite"):
        bad.result(10)
    assert batcher.submit(engine, ones(16_000)).result(10) == 1


def test_beyond_the_places_is_503(models: list[Served]):
    service = Service(models, Limits(queue=1))

    async def ask() -> None:
        async with service.admit():
            with pytest.raises(Refusal) as refused:
                async with service.admit():
                    pass
            assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "1")
        async with service.admit():
            pass

    asyncio.run(ask())
    service.close()


def test_nothing_is_kept_unless_asked_and_then_under_names_of_ours(
    models: list[Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept, temporary = tmp_path / "kept", tmp_path / "temporary"
    kept.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    content = wav(sound(20_000))
    for keep, expected in ((None, 0), (kept, 2)):
        with serving(models, keep=keep) as client:
            for name in ("../../evil.wav", "/etc/passwd", "a\x00b", "x" * 2000):
                answer = client.post("/v1/detect", files={"file": (name, content)})
                assert answer.status_code == 200, (name[:20], answer.text[:200])
            assert client.get("/v1/models").json()["kept"] is (keep is not None)
        assert not list(temporary.iterdir())
        assert len(list(kept.iterdir())) == expected * 4
    assert {path.suffix for path in kept.iterdir()} == {".audio", ".json"}
    assert all(path.name[:2] == "20" for path in kept.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "temporary"}
    assert next(kept.glob("*.audio")).read_bytes() == content


def test_the_work_of_a_client_that_is_gone_is_dropped():
    model = Recorder()
    engine = Engine(model)  # type: ignore[arg-type]
    service = Service([Served("slow", engine, None, 0.1, 0.0)])
    app = build_app(service)
    content = wav(sound(16_000))

    async def post(gone: asyncio.Event, half: bool = False) -> list[Any]:
        sent, parts = [], iter([{"type": "http.request", "body": content, "more_body": half}])

        async def receive() -> Any:
            for part in parts:
                return part
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/detect",
            "raw_path": b"",
            "query_string": b"",
            "scheme": "http",
        }
        await app(
            {**scope, "headers": [(b"host", b"localhost")], "client": ("x", 1), "server": ("y", 2)}, receive, send
        )
        return sent

    async def ask() -> list[Any]:
        first, second = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(post(first))]
        await asyncio.to_thread(until, lambda: model.batches)  # it is being computed
        tasks.append(asyncio.create_task(post(second)))
        await asyncio.to_thread(until, lambda: service.batcher.queued == 1)
        second.set()
        left = await tasks[1]
        assert await post(second, half=True) == []  # it left before it had said all
        first.set()
        await tasks[0]
        model.go.release(10)
        return left

    assert asyncio.run(ask())[0]["status"] == 499
    service.close()
    assert len(model.batches) == 1
    assert service.counters.running == 0
    assert service.counters.requests == {("/v1/detect", 499): 3}


def test_a_request_that_takes_too_long_is_told_to_come_again():
    model = Recorder()
    service = Service([Served("slow", Engine(model), None, 0.1, 0.0)], Limits(timeout=0.3))  # type: ignore[arg-type]
    with TestClient(build_app(service), base_url=HERE) as client:
        answer = client.post("/v1/detect", content=wav(sound(16_000)))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert error(answer) == "not computed within 0.3 s; try again later, or send less"
        model.go.release(10)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--token short", "the token: expected 8 to 200 letters"),
        ("--keep nowhere", "nowhere: is no folder; make it first"),
        ("--host 203.0.113.1", "203.0.113.1:8000: cannot be listened at"),
        ("--window-seconds 31", "0.flac: "),
    ],
)
def test_mistakes_of_the_command_are_one_line(
    folder: Path, options: str, line: str, capsys: pytest.CaptureFixture[str]
):
    model = "0.flac" if "window" in options else "det"
    assert run_main(["serve", model, *options.split()], folder) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_the_server_ends_with_its_signal(once: Once):
    program = [sys.executable, "-m", "hybrid_pruning.cli", "serve", "onnx", "--port", "0"]
    server = subprocess.Popen(program, cwd=export_detector(once), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("http://127.0.0.1:")
    assert " serves onnx (onnx, " in line
    server.terminate()
    assert server.wait(30) in (0, -signal.SIGTERM)
    server.stdout.close()
