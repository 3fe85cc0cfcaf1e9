"""A model -> a folder for any web server: the page of `serve`, and the model run in its visitors' browsers."""

import base64
import hashlib
import io
import json
import tarfile
import tempfile
import urllib.request
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning import audio
from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, digest_file, new_folder, require_new_folder
from hybrid_pruning.models import cohort
from hybrid_pruning.models.onnx.runtime import CLASSIFIER, FILE, OnnxModel
from hybrid_pruning.scoring import backend, evidence
from hybrid_pruning.scoring.engine import Embedder, load_embedder, prefer_onnx
from hybrid_pruning.scoring.streams import STREAM_WINDOW_SECONDS, Stream
from hybrid_pruning.scoring.verdicts import match
from hybrid_pruning.serving.limits import Limits
from hybrid_pruning.serving.served import Served, name_models
from hybrid_pruning.serving.service import COLUMNS

RUNTIME = "onnxruntime-web-1.30.0"
PACKAGE = f"https://registry.npmjs.org/onnxruntime-web/-/{RUNTIME}.tgz"
PACKAGE_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
PACKAGE_BYTES = 33_106_585
SHA256 = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
"""Files of the package that a site holds, for WebAssembly alone and for WebGPU."""
PAGES = {
    **{"index.html": "page.html", "page.css": "page.css", "page.js": "page.js", "source.js": "local.js"},
    **{"tap.js": "tap.js", "worker.js": "worker.js"},
}
"""Files of a site, and those of the package that they are made of."""
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; media-src blob:; base-uri 'none'; form-action 'none'"
)
PROBE_SAMPLES = SAMPLE_RATE_HZ
TOLERANCES = {"float32": 0.01, "int8": 0.05}
"""Of a score, a browser's against Python's, by the graph's weights."""
MOST_WAITING_HOPS = 5


def web(
    model: str | Path | Embedder,
    out: str | Path,
    int8: bool = False,
    runtime: str | Path | None = None,
    window_seconds: float = WINDOW_SECONDS,
) -> Path:
    """Write the folder `out`, new or empty, for any web server, and return it; what visitors judge stays with them.

    Args:
        model: as for `serve`; it is exported to ONNX where it is not yet.
        int8: keep weights in 8 bits where it is exported here, a quarter of the download; it computes in float32.
        runtime: folder with the files of onnxruntime-web; None fetches them from npm's registry (33 MB).
        window_seconds: length up to which a recording is taken whole.
    """
    out = require_new_folder(out)
    contents = {f"runtime/{part}": content for part, content in read_runtime(runtime).items()}
    with tempfile.TemporaryDirectory(prefix="hybrid-pruning-") as scratch:
        name = name_models([str(model)])[0] if isinstance(model, (str, Path)) else "model"
        served = Served.load(name, _find_graph(model, Path(scratch) / "graph", int8), window_seconds)
        found = served.engine.model
        assert isinstance(found, OnnxModel)
        contents[FILE], contents["model.json"] = found.path.read_bytes(), found.path.with_suffix(".json").read_bytes()
        if found.classifier is not None:
            encoded = found.session.get_modelmeta().custom_metadata_map[CLASSIFIER]
            contents["classifier.onnx"] = base64.b64decode(encoded)
        if found.cohort is not None:
            contents[cohort.FILE] = (found.path.parent / cohort.FILE).read_bytes()
        about = {**describe(served), "bytes": {name: len(content) for name, content in contents.items()}}
        contents["site.json"] = json.dumps(about, indent=1, allow_nan=False).encode()
        for page, source in PAGES.items():
            contents[page] = files("hybrid_pruning.serving").joinpath("page", source).read_bytes()
        meta = f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'.encode()
        contents["index.html"] = contents["index.html"].replace(b"<head>", b"<head>\n" + meta)
        digest = hashlib.sha256(b"".join(hashlib.sha256(contents[name]).digest() for name in sorted(contents)))
        kept = {"digest": digest.hexdigest(), "files": sorted(contents), "policy": POLICY}
        worker = files("hybrid_pruning.serving").joinpath("page", "offline.js").read_bytes()
        contents["offline.js"] = f"const SITE = {json.dumps(kept)};\n".encode() + worker
        with new_folder(out) as folder:
            for name, content in contents.items():
                with atomic_write(folder / name, "wb") as handle:
                    handle.write(content)
    return out


def describe(served: Served) -> dict[str, Any]:
    """Return the content of site.json: the model, the rules that Python applies, and a probe's score."""
    limits = Limits()
    model = {key: value for key, value in served.about().items() if key not in ("engine", "load_seconds")}
    probe = (0.1 * np.sin(1e-5 * np.arange(PROBE_SAMPLES, dtype=np.float64) ** 2)).astype(np.float32)
    about, score = _describe_detector(served, probe) if served.backend is None else _describe_verifier(served, probe)
    if not np.isfinite(score):
        raise InputError(f"{served.name}: its score is not finite; has the training diverged?")
    calibration = served.engine.model.calibration
    seen = None if calibration is None else calibration.seen
    return {
        "model": model,
        "limits": {"megabytes": limits.megabytes, "seconds": limits.seconds},
        "margin": evidence.MARGIN,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "minimum_samples": served.engine.model.minimum_samples,
        "window_samples": served.engine.window,
        "rules": {
            "frame": audio.FRAME,
            "floor_dbfs": audio.FLOOR_DBFS,
            "least_frames": audio.LEAST_FRAMES,
            "no_speech": audio.NO_SPEECH,
            "loudest": audio.LOUDEST,
            "cancelled_share": audio.CANCELLED_SHARE,
            "cancelled_power": audio.CANCELLED_POWER,
            "active_range_db": evidence.ACTIVE_RANGE_DB,
            "least_active_seconds": evidence.LEAST_ACTIVE_SECONDS,
            "least_range_db": evidence.LEAST_RANGE_DB,
            "weak": evidence.WEAK,
            "shortest_seconds": backend.SHORTEST_SECONDS,
            "columns": COLUMNS,
        },
        "seen": seen and {"least": seen[0], "largest": seen[1], "unlike": evidence.unlike(seen)},
        **about,
        "probe": {"samples": PROBE_SAMPLES, "score": float(score), "tolerance": TOLERANCES[model["weights"]]},
    }


def _describe_detector(served: Served, probe: audio.Wave) -> tuple[dict[str, Any], float]:
    """Return what a site needs to know of a stream, and the score of a probe [S]."""
    engine = served.engine
    listener = Stream(replace(engine, window_seconds=STREAM_WINDOW_SECONDS))
    stream = {
        "hop_samples": listener.hop,
        "window_samples": listener.window,
        "alarm_llr": listener.alarm_llr,
        "most_waiting": MOST_WAITING_HOPS,
    }
    return {"stream": stream}, float(engine.model.classify_arrays(engine.model.embed_arrays(probe[None]))[0])


def _describe_verifier(served: Served, probe: audio.Wave) -> tuple[dict[str, Any], float]:
    """Return what a site needs to know of the way from embeddings to a score, and that of a probe's two halves."""
    assert served.backend is not None
    halves, calibration, group = np.split(probe, 2), served.backend.calibration, served.backend.cohort
    vectors = np.concatenate([served.engine.model.embed_arrays(half[None]) for half in halves])
    found = match(
        served.backend,
        [Path("first"), Path("second")],
        vectors,
        np.array([len(half) for half in halves]) / SAMPLE_RATE_HZ,
    )
    weights = ("scale", "offset", "qualities")
    verifier = {
        "kind": found.kind,
        "top_n": group and group.top_n,
        "calibration": calibration and {name: getattr(calibration, name) for name in weights},
    }
    return {"verifier": verifier}, found.score


def read_runtime(folder: str | Path | None = None) -> dict[str, bytes]:
    """Return the files of onnxruntime-web by name, checked: from a folder that holds them, or npm's registry."""
    if folder is None:
        return _fetch()
    places = [Path(folder), Path(folder, "dist"), Path(folder, "package", "dist")]
    place = next((one for one in places if (one / next(iter(SHA256))).is_file()), places[0])
    for name, digest in SHA256.items():
        if digest_file(place / name) != digest:
            raise InputError(f"{place / name}: is not that of {RUNTIME}; unpack {PACKAGE} anew")
    return {name: (place / name).read_bytes() for name in SHA256}


def _fetch() -> dict[str, bytes]:
    """Return the files out of the package, of which nothing else is unpacked."""
    try:
        with urllib.request.urlopen(PACKAGE, timeout=60) as answer:
            package = answer.read(PACKAGE_BYTES + 1)
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        advice = "fetch it elsewhere, unpack it, and give the folder: --runtime DIR"
        raise InputError(f"{PACKAGE}: cannot be fetched ({reason}); {advice}") from error
    if hashlib.sha512(package).hexdigest() != PACKAGE_SHA512:
        raise InputError(f"{PACKAGE}: is not the package that is known here; is a proxy in between? See --runtime")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/dist/")
            if name in SHA256 and (file := archive.extractfile(member)) is not None:
                found[name] = file.read()
    return found


def _find_graph(model: str | Path | Embedder, scratch: Path, int8: bool) -> OnnxModel:
    """Return a model as ONNX, exported into a new folder where it is not, or its weights not in 8 bits as asked for."""
    place = prefer_onnx(model, names=[FILE]) if isinstance(model, (str, Path)) and not int8 else model
    found = load_embedder(place, "cpu")
    if isinstance(found, OnnxModel):
        if found.engine != "onnx":
            raise InputError(f"{found.path}: is OpenVINO's, which no browser runs; give the model or its .onnx file")
        if int8 and found.description.get("weights") != "int8":
            raise InputError(
                f"{found.path}: holds float32; give the model that it was exported from, or leave out --int8"
            )
        return found
    from hybrid_pruning.models.onnx.graph import export_onnx

    return OnnxModel.from_file(export_onnx(found, scratch, small=int8))
