"""The graph of an .onnx file as OpenVINO's: written in float32 or with 8-bit products, and run on the CPU.

8 bits are static: NNCF rounds weights by one scale for each output and inputs by one of a layer, whose range comes from
real speech, and moves outliers of the inputs into the weights (SmoothQuant: https://arxiv.org/abs/2211.10438, eq. 3-4).
Weights take half of the range, which leaves the adders of processors without VNNI instructions room (`int8.py`).
Linear layers alone are rounded: with attention's products of two activations, which the mask goes into, a trained
detector's scores were lost, and with convolutions they moved more than with all linear layers (dev/LOG.md).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.console import warn
from hybrid_pruning.models.onnx.runtime import LENGTHS, OPENVINO, WAVE, FloatArray, cannot_load, files_of, threads

NARROWEST = 16
"""Inputs and outputs below which a layer stays as it is."""
FRAMEWORK = "framework"
"""Place of the metadata of an .onnx file within OpenVINO's."""
DEVICE = "CPU"


class Session:
    """A compiled graph, called as ONNX Runtime's sessions are; threads may share it."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[FloatArray]:
        """Return the named outputs."""
        found = self.compiled.create_infer_request().infer(dict(feeds))
        return [found[name] for name in names]


def open_session(model: Path | bytes, path: Path, precision: str | None) -> tuple[Session, dict[str, str]]:
    """Return the session of a file, or of the bytes of an ONNX graph inside `path`, and the graph's metadata.

    All but the 8-bit products is computed in bfloat16 where the precision is not float32 and the processor has it.
    """
    import openvino

    core = openvino.Core()
    native = "BF16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not native:
        warn(f"{path}: this processor has no bfloat16, the model is computed in float32")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if native and precision in ("bf16", "int8") else "f32",
        **({"INFERENCE_NUM_THREADS": count} if (count := threads()) else {}),
    }
    try:
        read = core.read_model(model if isinstance(model, bytes) else str(model))
        kept = read.get_rt_info(FRAMEWORK).astype(dict) if read.has_rt_info(FRAMEWORK) else {}
        metadata = {name: value.astype(str) for name, value in kept.items()}
        return Session(core.compile_model(read, DEVICE, options)), metadata
    except RuntimeError as error:
        raise cannot_load(path, error) from error


def write(proto: Any, folder: Path, int8: bool, clips: Sequence[FloatArray] = ()) -> list[str]:
    """Write an onnx.ModelProto as openvino.xml and openvino.bin, and return these names.

    Args:
        int8: round the products of linear layers to 8 bits.
        clips: real speech [S] each, from which the ranges of their inputs are taken.
    """
    import openvino

    model = openvino.Core().read_model(proto.SerializeToString())
    openvino.save_model(_rounded(model, clips) if int8 else model, folder / OPENVINO, compress_to_fp16=False)
    return [path.name for path in files_of(folder / OPENVINO)]


def _rounded(model: Any, clips: Sequence[FloatArray]) -> Any:
    """Return a graph whose linear layers compute with 8 bits."""
    os.environ.setdefault("NNCF_CI", "1")  # nothing is reported to its makers
    import nncf

    feeds = [{WAVE: clip[None], LENGTHS: np.array([len(clip)])} for clip in clips]
    linear = {op.get_friendly_name() for op in model.get_ops() if _is_linear(op)}
    others = [op.get_friendly_name() for op in model.get_ops() if op.get_friendly_name() not in linear]
    nncf.set_log_level("ERROR")
    return nncf.quantize(
        model,
        nncf.Dataset(feeds),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )


def _is_linear(op: Any) -> bool:
    """Return whether an operation is the product of an activation and a wide enough constant."""
    if op.get_type_name() != "MatMul":
        return False
    left, right = (value.get_node() for value in op.input_values())
    shape = list(right.get_output_shape(0)) if right.get_type_name() == "Constant" else []
    return left.get_type_name() != "Constant" and len(shape) == 2 and min(shape) >= NARROWEST
