"""A model as one graph, run by ONNX Runtime (an .onnx file) or OpenVINO (an .xml file with its .bin), without torch.

NAME.onnx holds the graph, all weights and the classifier once more as a graph of its own (the window rule of
`windows.py` classifies the mean of several windows' embeddings), and NAME.json beside it describes it. Each has a
digest of the other, so that they are not mixed up and damage is noticed. A verifier's cohort is another file beside
them, as in an artifact. OpenVINO's files are made of that graph and hold the same; the weights are in NAME.bin.
"""

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from hybrid_pruning.errors import InputError, in_one_line
from hybrid_pruning.files import check_digest
from hybrid_pruning.models.artifact import digest_of, read_description
from hybrid_pruning.models.calibration import Calibration, read_calibration
from hybrid_pruning.models.cohort import Cohort, read_cohort
from hybrid_pruning.models.waves import NOT_FINITE, as_batch, as_numpy

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at its import; from 1.29 on it reports to Microsoft else

FORMAT, FORMAT_VERSION = "hybrid-pruning onnx", 1
FILE, OPENVINO = "model.onnx", "openvino.xml"
PACKAGES = {FILE: ("onnx", "onnxscript"), OPENVINO: ("onnx", "onnxscript", "openvino", "nncf")}
"""Needed to export to a file."""
PRECISIONS = ("f32", "bf16", "int8")
"""Of an export for OpenVINO."""
SUFFIXES = {".onnx": "onnxruntime", ".xml": "openvino"}
"""Of a graph's file -> the package that runs it."""
REMEDY = "write one with `export RUN --out NEW --onnx`, or --openvino"
DIGEST, CLASSIFIER = "hybrid_pruning_digest", "hybrid_pruning_classifier"
"""Metadata of the .onnx file: the digest of its description, and base64 of the graph embedding [B, E] -> llr [B]."""
WAVE, LENGTHS, EMBEDDING, LLR = "wave", "lengths", "embedding", "llr"
PROVIDERS = ["CPUExecutionProvider"]
SLOWER = ["SkipLayerNormFusion"]
"""Optimisations of ONNX Runtime to leave out: that norm takes three times as long."""
KEYS = {"task": str, "minimum_samples": int, "embedding_width": int, "sample_rate_hz": int, "provenance": dict}
"""Required keys of a description, and their types."""

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


class OnnxModel:
    """A detector of spoofed speech or, without a session of the classifier, an extractor of speaker embeddings.

    It takes waveforms of `minimum_samples` to `longest_samples` (None: no limit) at 16 kHz, as `SpeechModel` does.
    """

    device_type = "cpu"

    def __init__(self, path: Path, description: Mapping[str, Any], session: Any, classifier: Any = None) -> None:
        self.path, self.description = path, description
        self.session, self.classifier = session, classifier
        self.task, self.provenance = str(description["task"]), dict(description["provenance"])
        self.minimum_samples, self.embedding_width = description["minimum_samples"], description["embedding_width"]
        self.longest_samples: int | None = description.get("longest_samples")
        self.engine = "openvino" if path.suffix == ".xml" else "onnx"
        self.files = files_of(path)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read an .onnx or .xml file that `export` wrote, and the description beside it."""
        path = Path(path)
        beside = path.with_suffix(".json")
        precision = None
        if beside.is_file() or path.suffix == ".xml":  # before a damaged graph gets into the engine, or a stranger's
            found = read_beside(beside)
            precision = found.get("precision")
            for file in files_of(path):
                check_digest(file, found)
        session, metadata = open_session(path, path, precision)
        if DIGEST not in metadata:
            raise InputError(f"{path}: is another program's {path.suffix} file; {REMEDY}")
        description = read_beside(beside)
        if digest_of(description) != metadata[DIGEST]:
            raise InputError(
                f"{beside}: describes another model than {path.name}, or is damaged; copy the two together anew"
            )
        classifier = metadata.get(CLASSIFIER)
        return cls(path, description, session, classifier and open_session(base64.b64decode(classifier), path)[0])

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration of its scores: a detector's is in the graph too, a verifier's is applied to scores of trials.

        None where there is none.
        """
        return read_calibration(self.description, self.path.with_suffix(".json"))

    @cached_property
    def cohort(self) -> Cohort | None:
        """The cohort for centring a verifier's embeddings and normalising its scores, None where there is none."""
        return read_cohort(self.path.parent, self.description, self.embedding_width)

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context; there is no other mode."""
        return nullcontext()

    def embed_arrays(self, wave: FloatArray, lengths: IntArray | None = None) -> FloatArray:
        """Return the embeddings [B, E] of wave [B, S], as `SpeechModel.embed` takes it, with lengths [B] or None."""
        checked = as_batch(wave, lengths, self.minimum_samples)
        wave, (count, size) = as_numpy(checked[0]), checked[0].shape
        sizes = np.full(count, size) if checked[1] is None else as_numpy(checked[1])
        if self.longest_samples is not None and size > self.longest_samples:
            raise InputError(f"wave: {size} samples; expected at most {self.longest_samples}: cut it into windows")
        if not np.isfinite(wave[np.arange(size) < sizes[:, None]]).all():
            raise InputError(NOT_FINITE)
        feeds = {WAVE: wave.astype(np.float32, copy=False), LENGTHS: sizes.astype(np.int64)}
        found: FloatArray = self.session.run([EMBEDDING], feeds)[0]
        return found

    def classify_arrays(self, embeddings: FloatArray) -> FloatArray:
        """Return the log-likelihood ratio [B] of each embedding [B, E]; higher is more bona fide."""
        if self.classifier is None:
            raise InputError(
                "this model is for speaker verification: one recording has no score; compare embeddings, see `verify`"
            )
        found: FloatArray = self.classifier.run([LLR], {EMBEDDING: np.asarray(embeddings, np.float32)})[0]
        return found

    def architecture(self) -> Mapping[str, Any]:
        """Return its description and the version of the engine, as plain values."""
        package = SUFFIXES[self.path.suffix]
        return {**self.description, package: import_module(package).__version__}

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Yield the bytes of its files, which hold the weights."""
        for path in self.files:
            yield path.suffix, path.read_bytes()


def files_of(path: Path) -> list[Path]:
    """Return the files of a graph but for its description."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def find_onnx(name_or_path: str | Path) -> Path | None:
    """Return the .onnx or .xml file that a model's name stands for, or that an exported folder holds; else None."""
    path = Path(name_or_path)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise InputError(f"{path}: no such file; {REMEDY}")
        return path
    if (path / "config.json").exists():
        return None
    return next((path / name for name in (OPENVINO, FILE) if (path / name).is_file()), None)


def read_beside(path: Path) -> dict[str, Any]:
    """Read and check the JSON beside a graph."""
    missing = "it belongs beside the graph of its name, copy the two together"
    another = f"describes no graph of ours; {REMEDY}"
    found = read_description(path, FORMAT, FORMAT_VERSION, missing, another)
    wrong = [key for key, kind in KEYS.items() if not isinstance(found.get(key), kind)]
    if wrong:
        raise InputError(f"{path}: cannot be understood ('{wrong[0]}'); export the model again")
    return found


def open_session(model: Path | bytes, path: Path, precision: str | None = None) -> tuple[Any, Mapping[str, str]]:
    """Return the session of a file, or of the bytes of an ONNX graph that is inside `path`, and its metadata."""
    if path.suffix == ".xml":
        from hybrid_pruning.models.onnx import openvino  # its package is another extra

        return openvino.open_session(model, path, precision)
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone; their message becomes one line
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # weights kept in 8 bits are for float32
    options.enable_mem_pattern = False  # one plan is kept for each length otherwise, and memory grows with them
    failures = (state.InvalidProtobuf, state.Fail, state.InvalidGraph, state.InvalidArgument, state.NotImplemented)
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, PROVIDERS, disabled_optimizers=SLOWER)
    except failures as error:
        raise cannot_load(path, error) from error
    return session, session.get_modelmeta().custom_metadata_map


def threads() -> int:
    """Return the threads that are asked for by OMP_NUM_THREADS, which torch heeds too; 0 leaves the choice."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else 0


def cannot_load(path: Path, error: Exception) -> InputError:
    """Return the error of a graph that its engine refuses."""
    return InputError(f"{path}: cannot be loaded ({in_one_line(error)}); is it whole? Export the model again")
