"""The rates of a device: matrix products and copying, the limits that times are compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid_pruning.benchmarks.engines import has_bf16
from hybrid_pruning.benchmarks.timing import Task, interleaved
from hybrid_pruning.extras import first_absent
from hybrid_pruning.models.onnx.runtime import FILE, PACKAGES, open_session

SIDE, COPIED, ROUNDS = 2048, 1 << 25, 5
"""Of matrices; values copied; the fastest round counts."""
PRODUCTS = 10
"""Products timed at once on a GPU, so that launches do not count."""


def measure_rates(side: int = SIDE, copied: int = COPIED) -> dict[str, float]:
    """Return this processor's operations per second in float32, bfloat16 and 8 bits, as far as it has them, and the
    bytes per second of `copy`.
    """
    rates = {"f32": multiply(side, torch.float32)}
    if has_bf16():
        rates["bf16"] = multiply(side, torch.bfloat16)
    if first_absent(*PACKAGES[FILE]) is None:
        rates["int8"] = 2 * side**3 / _fastest(_integers(side), ROUNDS)
    return {**rates, "copy": copy(copied)}


def multiply(side: int, dtype: torch.dtype, device: Any = "cpu", rounds: int = ROUNDS, products: int = 1) -> float:
    """Return the operations per second of a product of two matrices [side, side]."""
    a, b, c = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    return products * 2 * side**3 / _fastest(lambda: [torch.mm(a, b, out=c) for _ in range(products)], rounds)


def copy(values: int, device: Any = "cpu", rounds: int = ROUNDS, copies: int = 1) -> float:
    """Return the bytes per second, read and written, of copying so many values in float32."""
    source = torch.randn(values, device=device)
    target = torch.empty_like(source)
    return copies * 2 * source.nbytes / _fastest(lambda: [target.copy_(source) for _ in range(copies)], rounds)


def _fastest(task: Task, rounds: int) -> float:
    return min(interleaved({"": task}, rounds)[""])


def _integers(side: int) -> Task:
    """Return ONNX Runtime's product of bytes [side, side] with constant 8-bit integers of the same size."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).integers(-64, 64, (side, side), np.int8)
    shape = [side, side]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("c", TensorProto.INT32, shape)],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session, _ = open_session(model.SerializeToString(), Path("product.onnx"))
    feeds = {"a": np.full(shape, 3, np.uint8)}
    return lambda: session.run(None, feeds)
