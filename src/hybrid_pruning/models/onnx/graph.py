"""A model -> model.onnx, or OpenVINO's openvino.xml: one graph with all weights from waveform to embedding and score.

The graph takes wave [B, S] float32 at 16 kHz and lengths [B] int64, both sizes free, and gives embedding [B, E] and,
for anti-spoofing, llr [B], calibrated where the model is. Samples beyond an utterance's length have no influence.
"""

import base64
import copy
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils import parametrize

from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.errors import InputError
from hybrid_pruning.extras import require
from hybrid_pruning.files import (
    DIGESTS,
    TEMPORARY,
    atomic_write,
    digest_file,
    new_folder,
    require_new_folder,
    write_json,
)
from hybrid_pruning.models import cohort
from hybrid_pruning.models.artifact import digest_of, fingerprint_model, is_artifact, versions
from hybrid_pruning.models.backbone.families import HOP
from hybrid_pruning.models.onnx.int8 import to_integers
from hybrid_pruning.models.onnx.runtime import (
    CLASSIFIER,
    DIGEST,
    EMBEDDING,
    FILE,
    FORMAT,
    FORMAT_VERSION,
    LENGTHS,
    LLR,
    OPENVINO,
    PACKAGES,
    PRECISIONS,
    SUFFIXES,
    WAVE,
    FloatArray,
)
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.trees import portable

OPSET = 20
SMALLEST = 1024
"""Weights of a product that are rounded; fewer stay as they are."""
LARGEST = (1 << 31) - (1 << 24)
"""Bytes of weights: protobuf ends at 2 GB, graph included."""
WINDOW_RULE = (
    "a longer recording is cut into the fewest windows of equal length up to this; their embeddings are averaged, and "
    f"the graph in the .onnx file's metadata '{CLASSIFIER}' (base64) turns the mean into the llr"
)


class _Graph(nn.Module):
    """The part of a model that is traced: without its checks and choices."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the embeddings [B, E] and, where there are classes, the scores [B]."""
        embedding = self.model.embed(wave, lengths)
        return (embedding,) if self.model.classes is None else (embedding, self.model.classify(embedding))


def export_onnx(
    model: SpeechModel, out: str | Path, int8: bool = False, proto: Any = None, *, small: bool = False
) -> Path:
    """Write a model, which is left as it was, as out/model.onnx and out/model.json, and return the .onnx file.

    Args:
        out: the folder, new or empty, or the model's own: it then goes to the hub with it.
        int8: compute linear layers and the positional convolution with 8-bit integers (`int8.py`). Attention, norms,
            the convolutions that make features and the classifier stay as they are. An utterance's result then depends
            a little on the batch it is in.
        proto: the model's graph, where it has been traced before.
        small: keep weights in 8 bits and compute in float32: for a download, not for speed (`round_weights`).
    """

    def write(proto: Any, folder: Path) -> list[str]:
        if small:
            round_weights(proto)
        with atomic_write(folder / FILE, "wb") as handle:
            handle.write(proto.SerializeToString())
        return [FILE]

    return _export(model, Path(out), FILE, "int8" if int8 else "small" if small else "f32", write, proto)


def round_weights(proto: Any) -> None:
    """Round the weights of a graph's products to 8 bits, one scale for each output, and scale them back as it runs.

    Of convolutions those in groups alone, as the positional one; the others are small, and make the features.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph, uses = proto.graph, dict[str, set[tuple[str, int, bool]]]()
    for node in graph.node:
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        by_row = bool(options.get("transB")) if node.op_type == "Gemm" else options.get("group", 1) > 1
        for place, name in enumerate(node.input):
            uses.setdefault(name, set()).add((node.op_type, place, by_row))
    axes = {("MatMul", 1, False): 1, ("Gemm", 1, False): 1, ("Gemm", 1, True): 0, ("Conv", 1, True): 0}
    axes |= {("Slice", 0, False): 0}  # of a table of positions
    for tensor in list(graph.initializer):
        how = uses.get(tensor.name, set())
        weight = numpy_helper.to_array(tensor)
        if len(how) != 1 or (axis := axes.get(next(iter(how)))) is None or weight.size < SMALLEST or weight.ndim < 2:
            continue
        others = tuple(place for place in range(weight.ndim) if place != axis)
        scale = np.maximum(np.abs(weight).max(others, keepdims=True), np.finfo(np.float32).tiny) / 127
        name = tensor.name
        rounded = numpy_helper.from_array((weight / scale).round().astype(np.int8), f"{name}.int8")
        graph.initializer.remove(tensor)
        graph.initializer.extend([rounded, numpy_helper.from_array(scale.ravel().astype(np.float32), f"{name}.scale")])
        node = helper.make_node("DequantizeLinear", [f"{name}.int8", f"{name}.scale"], [name], axis=axis)
        graph.node.insert(0, node)
    onnx.checker.check_model(proto)


def export_openvino(
    model: SpeechModel,
    out: str | Path,
    precision: str = "f32",
    clips: Sequence[FloatArray] = (),
    proto: Any = None,
) -> Path:
    """Write a model as out/openvino.xml, .bin and .json, and return the .xml file.

    `out` and `proto` are as for `export_onnx`.

    Args:
        precision: f32; bf16, in which all is computed where the processor has it; or int8, linear layers in 8 bits.
        clips: real speech [S] at 16 kHz each, from which int8 takes the ranges of activations.
    """
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: is unknown; known are {', '.join(PRECISIONS)}")
    if precision == "int8" and not clips:
        raise InputError("export --openvino --precision int8 needs real speech; give --calibrate MANIFEST")

    def write(proto: Any, folder: Path) -> list[str]:
        from hybrid_pruning.models.onnx import openvino

        return openvino.write(proto, folder, precision == "int8", [clip[: _longest(model)] for clip in clips])

    return _export(model, Path(out), OPENVINO, precision, write, proto)


def _export(
    model: SpeechModel, out: Path, name: str, precision: str, write: Callable[[Any, Path], list[str]], proto: Any
) -> Path:
    """Write a graph, by a function that returns the names of its files, and what belongs beside it."""
    killed = (out / TEMPORARY).exists()  # when all but the clean-up was done
    own = is_artifact(out) and (killed or not (out / name).exists())
    if not own:
        require_new_folder(out)
    require(*PACKAGES[name])
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > LARGEST:
        raise InputError(f"{out}: the model's weights are {size / 1e9:.1f} GB, a graph holds 2; prune more")
    import onnx.utils

    description = describe(model, precision, name)
    proto = proto or trace(model, name == FILE and precision == "int8")
    del proto.metadata_props[:]
    proto.metadata_props.add(key=DIGEST, value=digest_of(description))
    if model.classes is not None:
        classifier = onnx.utils.Extractor(proto).extract_model([EMBEDDING], [LLR])
        encoded = base64.b64encode(classifier.SerializeToString()).decode("ascii")
        proto.metadata_props.add(key=CLASSIFIER, value=encoded)
    with new_folder(out, own) as folder:
        files = write(proto, folder)
        if model.cohort is not None:
            model.cohort.write(folder)
            files.append(cohort.FILE)
        description[DIGESTS] = {file: digest_file(folder / file) for file in files}
        write_json((folder / name).with_suffix(".json"), description)
    return out / name


def describe(model: SpeechModel, precision: str = "f32", name: str = FILE) -> dict[str, Any]:
    """Return the content of the JSON beside a graph's file of this name."""
    packages = {package: version(package) for package in ("onnx", SUFFIXES[Path(name).suffix])} | {"opset": str(OPSET)}
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "task": model.task,
        **({} if model.classes is None else model.classes.to_json()),
        "calibration": None if model.calibration is None else model.calibration.to_json(),
        "cohort": None if model.cohort is None else model.cohort.to_json(),
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "embedding_width": model.embedding_width,
        "minimum_samples": model.minimum_samples,
        "longest_samples": _longest(model),
        "window": {"seconds": WINDOW_SECONDS, "rule": WINDOW_RULE},
        "weights": "int8" if precision in ("int8", "small") else "float32",
        **({"precision": precision} if name == OPENVINO else {"precision": "f32"} if precision == "small" else {}),
        "model": fingerprint_model(model),
        "provenance": portable(model.provenance),
        "versions": versions() | packages,
    }
    plain: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return plain


def trace(model: SpeechModel, int8: bool = False) -> Any:
    """Return the model's graph as an onnx.ModelProto."""
    plain = plain_copy(model)
    if int8:
        for part in (plain.backbone, plain.head):
            to_integers(part)
    longest = _longest(model)
    samples = Dim("samples", min=model.minimum_samples, **({} if longest is None else {"max": longest}))
    batch = Dim("batch", min=1)
    size = 10 * model.minimum_samples  # a dozen frames: transformers takes another way where there is one
    names = [EMBEDDING] if model.classes is None else [EMBEDDING, LLR]
    with warnings.catch_warnings(), ExitStack() as after:  # messages of the exporters to their developers
        warnings.simplefilter("ignore")
        after.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        program = torch.onnx.export(
            _Graph(plain).eval(),
            (torch.randn(2, size), torch.tensor([size, model.minimum_samples])),
            dynamo=True,
            opset_version=OPSET,
            input_names=[WAVE, LENGTHS],
            output_names=[f"{name}_out" for name in names],
            dynamic_shapes=({0: batch, 1: samples}, {0: batch}),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:  # a value inside the graph may have an output's name
        for value in node.outputs:
            if value.name in names:
                value.name += "_inside"
    for value, name in zip(program.model.graph.outputs, names, strict=True):
        value.name = name
    proto = program.model_proto
    for node in proto.graph.node:  # the exporter notes where in our source each came from, many times its size
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    return proto


def plain_copy(model: SpeechModel) -> SpeechModel:
    """Return a copy for inference alone: on the CPU, in float32, without gradients, weights as they are used.

    torch's own remove_parametrizations edits the class, which the copy shares with the original.
    """
    plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            weights = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore[union-attr]
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return plain


def _longest(model: SpeechModel) -> int | None:
    """Return the most samples that a graph of fixed positions takes (Whisper's), None where there is no limit."""
    positions = getattr(model.backbone.config, "max_source_positions", None)
    return None if positions is None else (2 * int(positions) + 1) * HOP - 1
