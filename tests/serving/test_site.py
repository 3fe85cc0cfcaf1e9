"""A model in the browser: the numbers of Python, without network once loaded, and nothing sent anywhere."""

import asyncio
import base64
import contextlib
import functools
import http.server
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from encoders import WHISPER, Once
from exports import CALIBRATION, CLASSES, HEAD, export_ragged, export_run, export_verifier, ragged_backbone
from hybrid_pruning import SpeechModel, web
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.streams import Stream
from hybrid_pruning.serving import site
from hybrid_pruning.serving.served import Served
from hybrid_pruning.serving.service import Service
from speakers import tiny_verifier
from world import run_main

WINDOW = 2.0
JUDGE = """async ([name, content, seconds]) => {
  const source = await import("./source.js"), bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  return source.detect("model", new File([bytes], name), seconds, () => {});
}"""
COMPARE = """async (clips) => {
  const source = await import("./source.js"), bytes = (one) => Uint8Array.from(atob(one), (sign) => sign.charCodeAt(0));
  const [test, ...enrol] = clips.map(([name, content]) => new File([bytes(content)], name));
  return source.verify("model", test, enrol, () => {});
}"""
LISTEN = """async ([content, rate, count]) => {
  const source = await import("./source.js"), bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const samples = new Float32Array(bytes.buffer), found = [];
  return new Promise((resolve, reject) => {
    const take = (one) => { if (found.push(one) === count) { stream.end(); resolve(found); } };
    const stream = source.open("model", rate, take, reject);
    let place = 0;
    const feed = () => {
      stream.send(samples.subarray(place, place += Math.round(rate / 2)));
      if (place < samples.length) setTimeout(feed, 200);
    };
    feed();
  });
}"""


@pytest.fixture(scope="session")
def runtime(once: Once) -> Path:
    """The files of onnxruntime-web, fetched once."""

    def make(folder: Path) -> None:
        for name, content in site.read_runtime().items():
            (folder / name).write_bytes(content)

    try:
        return once("onnxruntime-web", make)
    except InputError as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="session")
def detector(once: Once) -> Path:
    return export_ragged(once, "wavlm", "base")


@contextlib.contextmanager
def hosting(folder: Path, asked: list[str] | None = None) -> Iterator[str]:
    """Serve a folder as any web server does, note what is asked for, and yield the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *line: object) -> None:
            if asked is not None:
                asked.append(str(line))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def visiting(browser: Any, address: str, part: str = "#detect") -> Iterator[Any]:
    """Open a site and wait for a part of it; errors in the console and requests to elsewhere are mistakes."""
    context, wrong = browser.new_context(viewport={"width": 360, "height": 740}), []
    context.on("request", lambda sent: sent.url.startswith((address, "blob:", "data:")) or wrong.append(sent.url))
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.locator(part).wait_for(timeout=60_000)
    yield page
    assert wrong == []
    context.close()


def sound(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return [S, channels] a voiced sound with pauses, which bursts of noise follow."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = np.cumsum(120 + 40 * np.sin(2 * np.pi * time)) / rate
    voice = sum(np.sin(2 * np.pi * harmonic * pitch) / harmonic for harmonic in range(1, 12)) * (np.sin(3 * time) > 0)
    wave = 0.1 * voice + 0.02 * np.random.default_rng(seed).standard_normal(len(time))
    return np.stack([wave * (1 + 0.2 * place) for place in range(channels)], axis=1)


def encode(wave: np.ndarray, rate: int = 16_000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind)
    return file.getvalue()


CLIPS = {
    "one.wav": encode(sound(1.5)),
    "several-windows.flac": encode(sound(7.3, seed=1), kind="FLAC"),
    "stereo.wav": encode(sound(3.1, channels=2, seed=2)),
    "inverted.wav": encode(sound(3.0, channels=2, seed=3) * [1, -1]),
    "short.wav": encode(sound(0.02)),
    "quiet.wav": encode(np.zeros(40_000)),
    "noisy.wav": encode(sound(3.0, seed=4) + 0.2 * np.random.default_rng(0).standard_normal((48_000, 1))),
    "half-quiet.wav": encode(np.concatenate([sound(1.2), np.zeros((50_000, 1))])),
    "8-khz.wav": encode(sound(3.0, 8000), 8000),
    "44.1-khz.wav": encode(sound(5.0, 44_100, 2), 44_100),
}


def whisper() -> SpeechModel:
    torch.manual_seed(1)
    backbone = ragged_backbone(*WHISPER, max_source_positions=200)  # 4 s
    return SpeechModel.build(backbone, HEAD, CLASSES, calibration=CALIBRATION).eval()


@pytest.mark.parametrize("kind", ["float", "int8", pytest.param("whisper", marks=pytest.mark.soak)])
def test_a_browser_gives_the_answers_of_python(
    browser: Any, runtime: Path, once: Once, tmp_path: Path, request: pytest.FixtureRequest, kind: str
):
    """Whisper's spectrogram is part of its graph; in 8 bits here."""
    if kind == "float":
        model: Any = request.getfixturevalue("detector")
    else:
        model = export_run(once, request.getfixturevalue("pristine")) / "small" if kind == "int8" else whisper()
    folder = web(model, tmp_path / "site", kind == "whisper", runtime, WINDOW)
    service = Service([Served.load("model", folder, WINDOW)])
    site = json.loads((folder / "site.json").read_text())
    about, tolerance = site["model"], site["probe"]["tolerance"]
    assert (about["weights"], about["calibrated"]) == ("float32" if kind == "float" else "int8", kind != "int8")
    with ThreadPoolExecutor(1) as pool, hosting(folder) as address, visiting(browser, address) as page:
        for name, content in CLIPS.items():
            (tmp_path / name).write_bytes(content)
            work = service.detect(tmp_path / name, name, service.find(None), timeline=1.0)
            expected = pool.submit(asyncio.run, work).result()  # the browser's driver has a loop in this thread
            found = page.evaluate(JUDGE, [name, base64.b64encode(content).decode(), 1.0])
            resampled = 0.02 if "khz" in name else 0
            assert found["llr"] == pytest.approx(expected["llr"], abs=tolerance + resampled), name
            assert found["active_seconds"] == pytest.approx(expected["active_seconds"], abs=0.021), name
            for key in ("windows", "silent", "calibrated"):
                assert found[key] == expected[key], (name, key)
            assert (found["thin"] or None) == expected["thin"], name
            np.testing.assert_allclose(found["waveform"], expected["waveform"], atol=0.02 if resampled else 2e-3)
            for one, other in zip(found["timeline"], expected["timeline"], strict=True):
                assert one == pytest.approx(other, abs=tolerance + resampled), name
    service.close()


def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tiny_verifier(tmp_path / "wavlm", num_hidden_layers=1)


def compared(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A verifier with a cohort, calibrated with the quality measures."""
    return export_verifier(request.getfixturevalue("once"), request.getfixturevalue("pristine")) / "graph"


def compared8(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return compared(request, tmp_path).parent / "mc"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (compared, "LLR"),
        pytest.param(compared8, "LLR", marks=pytest.mark.soak),
        pytest.param(plain, "cosine", marks=pytest.mark.soak),
    ],
)
def test_a_browser_compares_as_python_does(
    browser: Any, runtime: Path, tmp_path: Path, request: pytest.FixtureRequest, make: Any, kind: str
):
    folder = web(make(request, tmp_path), tmp_path / "site", make is compared8, runtime, WINDOW)
    service = Service([Served.load("model", folder, WINDOW)])
    about = json.loads((folder / "site.json").read_text())
    assert about["model"]["weights"] == ("int8" if make is compared8 else "float32")
    tolerance = about["probe"]["tolerance"]
    for name, content in CLIPS.items():
        (tmp_path / name).write_bytes(content)
    groups = [
        ["one.wav", "several-windows.flac"],
        ["several-windows.flac", "stereo.wav", "one.wav", "inverted.wav"],
        ["stereo.wav", "short.wav"],
        ["half-quiet.wav", "one.wav"],
        ["8-khz.wav", "stereo.wav"],
        ["noisy.wav", "one.wav"],
    ]
    with ThreadPoolExecutor(1) as pool, hosting(folder) as address, visiting(browser, address, "#verify") as page:
        for names in groups:
            work = service.verify([(tmp_path / name, name) for name in names], service.find(None))
            expected = pool.submit(asyncio.run, work).result()
            found = page.evaluate(COMPARE, [[name, base64.b64encode(CLIPS[name]).decode()] for name in names])
            assert found["kind"] == expected["kind"] == kind
            resampled = 0.02 if "8-khz.wav" in names else 0
            assert found["score"] == pytest.approx(expected["score"], abs=tolerance + resampled), names
            for key in ("verdict", "threshold"):
                assert found[key] == expected[key], (names, key)
            assert (found["undecided"] or None) == expected["undecided"], names
            assert found["seconds"] == pytest.approx(expected["seconds"], abs=1e-3), names
    service.close()


def test_speakers_are_compared_on_the_page(browser: Any, runtime: Path, tmp_path: Path, request: pytest.FixtureRequest):
    playwright = pytest.importorskip("playwright.sync_api")
    folder = web(compared(request, tmp_path), tmp_path / "site", runtime=runtime)

    def choose(label: str, *names: str) -> None:
        files = [{"name": name, "mimeType": "audio/wav", "buffer": CLIPS.get(name, b"no audio")} for name in names]
        page.get_by_label(label).set_input_files(files)

    with hosting(folder) as address, visiting(browser, address, "#verify") as page:
        assert page.locator("#detect").is_hidden()
        playwright.expect(page.locator("h1")).to_have_text("The same speaker?")
        choose("Compare a recording", "one.wav")
        playwright.expect(page.locator("#status.error")).to_have_text("enrol a recording of the speaker first")
        choose("Enrol recordings", "stereo.wav", "8-khz.wav")
        playwright.expect(page.locator("#enrolled")).to_have_text("stereo.wav, 8-khz.wav")
        result = page.locator("#results article").first
        for name, line in (
            ("one.wav", "WebAssembly, "),
            ("short.wav", "holds 0.0 s of active sound; 1 s are needed"),
            ("quiet.wav", "holds no speech-like energy"),
            ("notes.txt", "notes.txt: cannot be decoded by this browser"),
        ):
            choose("Compare a recording", name)
            playwright.expect(result.locator("h3")).to_have_text(f"{name} against stereo.wav, 8-khz.wav")
            playwright.expect(result).to_contain_text(line)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_text("Another speaker").click()
        playwright.expect(page.locator("#enrolled")).to_have_text("none yet")


@pytest.fixture(scope="module")
def address(runtime: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = web(detector, tmp_path_factory.mktemp("web") / "site", runtime=runtime)
    with hosting(folder) as address:
        yield address


def test_a_stream_gives_the_verdicts_of_python(browser: Any, address: str, detector: Path):
    wave = sound(6.0)[:, 0].astype(np.float32)
    expected = [one.record() for one in Stream(Served.load("model", detector, 4.0).engine).feed(wave)]
    with visiting(browser, address) as page:
        found = page.evaluate(LISTEN, [base64.b64encode(wave.tobytes()).decode(), 16_000, 6])
        slower = page.evaluate(LISTEN, [base64.b64encode(np.repeat(wave, 3).tobytes()).decode(), 48_000, 3])
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        for key in ("seconds", "llr", "window_llr", "alarm", "active_seconds"):
            assert one[key] == pytest.approx(other[key], abs=0.01), key
    assert [one["seconds"] for one in slower] == [1, 2, 3]


def test_the_page_works_without_network_and_in_isolation_once_loaded(
    browser: Any, runtime: Path, detector: Path, tmp_path: Path
):
    playwright = pytest.importorskip("playwright.sync_api")
    with contextlib.ExitStack() as hosted:
        address = hosted.enter_context(hosting(web(detector, tmp_path / "site", runtime=runtime)))
        with visiting(browser, address) as page:
            playwright.expect(page.locator("#privacy")).to_have_text(
                "Recordings stay in this browser: nothing is sent anywhere."
            )
            assert page.locator("#programs").is_hidden()
            assert page.locator("#verify").is_hidden()
            hosted.close()  # the server is gone
            page.reload()
            page.locator("#detect").wait_for(timeout=60_000)
            assert page.evaluate("crossOriginIsolated")
            clip = {"name": "<i>call</i>.wav", "mimeType": "audio/wav", "buffer": CLIPS["several-windows.flac"]}
            page.get_by_label("Choose files").set_input_files(
                [clip, {**clip, "name": "notes.txt", "buffer": b"no audio"}]
            )
            result = page.locator("#results article").last
            playwright.expect(result.locator("h3")).to_have_text("<i>call</i>.wav, 7.3 s")
            playwright.expect(result).to_contain_text("s for each second of audio")
            assert "WebAssembly, " in result.inner_text()
            playwright.expect(page.locator("#results .error")).to_contain_text("cannot be decoded by this browser")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.locator("#listen").click()
            playwright.expect(page.locator("#live-chart p")).to_contain_text("LLR of all", timeout=30_000)
            page.locator("#listen").click()
            playwright.expect(page.locator("#listen")).to_have_attribute("aria-pressed", "false")


def test_neither_page_nor_worker_can_send_anything(browser: Any, address: str, tmp_path: Path):
    asked: list[str] = []
    page = browser.new_page()
    with hosting(tmp_path, asked) as elsewhere:
        page.goto(address)
        page.locator("#detect").wait_for(timeout=60_000)
        send = f"fetch('{elsewhere}', {{ mode: 'no-cors' }}).then(() => 'sent', () => 'refused')"
        assert page.evaluate(send) == "refused"
        assert page.workers[0].evaluate(send) == "refused"
    page.close()
    assert asked == []


def test_damage_is_told(browser: Any, runtime: Path, detector: Path, tmp_path: Path):
    playwright = pytest.importorskip("playwright.sync_api")
    folder = web(detector, tmp_path / "site", runtime=runtime)
    model, about = (folder / "model.onnx").read_bytes(), json.loads((folder / "site.json").read_text())
    about["probe"]["score"] += 1
    for name, content, line in (
        ("model.onnx", model[:1000], f"model.onnx: has 1000 bytes, not {len(model)}; copy the site anew"),
        ("site.json", json.dumps(about).encode(), "this browser gives a probe the score"),
    ):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with hosting(folder) as address:
            page = browser.new_page()
            page.goto(address)
            playwright.expect(page.locator("#status.error")).to_contain_text(line, timeout=60_000)
            assert page.locator("#detect").is_hidden()
            page.close()
        (folder / name).write_bytes(kept)


def test_a_runtime_that_is_not_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="cannot be read"):
        site.read_runtime(tmp_path)
    for name in site.SHA256:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"ort.wasm.min.mjs: is not that of onnxruntime-web-1"):
        site.read_runtime(tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"another package"))
    with pytest.raises(InputError, match="is not the package that is known here"):
        site.read_runtime()

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(InputError, match=r"cannot be fetched \(no route\).*--runtime DIR"):
        site.read_runtime()


def test_what_is_wrong_with_the_model_is_one_line(
    runtime: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "graph").mkdir()
    for name in ("model.onnx", "model.json"):
        (tmp_path / "graph" / name).write_bytes((detector / name).read_bytes())
    assert run_main(["web", "graph", "--out", "site", "--int8", "--runtime", str(runtime)], tmp_path) == 2
    assert "model.onnx: holds float32; give the model that it was exported from" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
