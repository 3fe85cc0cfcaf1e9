"""Ways to 8 bits on one trained detector: speed, and drift of its scores on real speech.

Usage: python dev/int8_drift.py MODEL MANIFEST TRAINING_MANIFEST [CLIPS]. Against float32 in ONNX Runtime, one clip at a
time; latencies are the fastest of 12 rounds in turn.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.metrics import eer
from hybrid_pruning.models.onnx.graph import export_onnx, export_openvino, trace
from hybrid_pruning.models.onnx.int8 import NARROWEST
from hybrid_pruning.models.onnx.runtime import LENGTHS, LLR, WAVE, FloatArray, open_session
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.training.export import read_clips

SECONDS, ROUNDS = (1, 2, 4), 12


def main(name: str, manifest: str, training: str, clips: str = "300") -> None:
    """Print a row for each way."""
    logging.disable(logging.WARNING)
    utterances = read_manifest(manifest)
    utterances = utterances[:: max(1, len(utterances) // int(clips))]
    bonafide = np.array([utterance.label == "bonafide" for utterance in utterances])
    with tempfile.TemporaryDirectory() as folder:
        model = SpeechModel.from_pretrained(name)
        runs = ways(model, Path(folder), read_clips(model, training))
        waves = [read_audio(utterance.path)[None] for utterance in utterances]
        scores = {way: np.array([run(wave)[0] for wave in waves]) for way, run in runs.items()}
        times = {way: [] for way in runs}
        for seconds in SECONDS:
            wave = np.random.default_rng(0).normal(0, 0.1, (1, seconds * SAMPLE_RATE_HZ)).astype(np.float32)
            taken = {way: [] for way in runs}
            for _ in range(ROUNDS):
                for way, run in runs.items():
                    start = time.perf_counter()
                    run(wave)
                    taken[way].append(time.perf_counter() - start)
            for way in runs:
                times[way].append(min(taken[way]))
    expected, plain = next(iter(scores.values())), next(iter(times.values()))
    lengths = ", ".join(f"{seconds} s" for seconds in SECONDS)
    print(f"| {len(utterances)} clips | faster at {lengths} | correlation | mean difference / sd | largest | EER % |")
    print("|---|---|---|---|---|---|")
    for way, found in scores.items():
        off = np.abs(found - expected) / expected.std()
        faster = ", ".join(f"{before / after:.2f}" for before, after in zip(plain, times[way], strict=True))
        cells = f"{np.corrcoef(expected, found)[0, 1]:.5f} | {off.mean():.4f} | {off.max():.2f}"
        print(f"| {way} | {faster} | {cells} | {100 * eer(found[bonafide], found[~bonafide]):.2f} |", flush=True)


def ways(model: SpeechModel, folder: Path, clips: list[FloatArray]) -> dict[str, Callable[[FloatArray], FloatArray]]:
    """Return a model's scores [B] of waves [B, S], float32 first."""
    proto = trace(model)
    plain = export_onnx(model, folder / "plain", proto=proto)
    weights = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    wide = [
        node.name
        for node in proto.graph.node
        if node.op_type in ("MatMul", "Gemm") and min(weights.get(node.input[1], [0])) >= NARROWEST
    ]
    convolutions = [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and min(weights.get(node.input[1], [0])[:2]) >= NARROWEST
    ]
    common: dict[str, Any] = {"per_channel": True, "weight_type": QuantType.QInt8}
    static = {**common, "quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8}
    files = {
        "float32, ONNX Runtime": plain,
        "int8.py, ONNX Runtime": export_onnx(model, folder / "own", int8=True),
        "float32, OpenVINO": export_openvino(model, folder / "vino", proto=proto),
        "NNCF, OpenVINO": export_openvino(model, folder / "vino8", "int8", clips, proto),
    }
    for way, reduced, nodes in (
        ("8-bit weights", False, wide),
        ("7-bit weights", True, wide),
        ("7-bit weights, convolutions too", True, wide + convolutions),
    ):
        file = folder / f"dynamic-{way}.onnx"
        if nodes is wide:
            quantize_dynamic(plain, file, nodes_to_quantize=nodes, reduce_range=reduced, **common)
            files[f"onnxruntime.quantization, dynamic, {way}"] = file
        file = folder / f"static-{way}.onnx"
        quantize_static(plain, file, Reader(clips), nodes_to_quantize=nodes, reduce_range=reduced, **static)
        files[f"onnxruntime.quantization, static QDQ, {way}"] = file
    return {way: scorer(file) for way, file in files.items()}


class Reader:
    """Clips as onnxruntime.quantization asks for them."""

    def __init__(self, clips: list[FloatArray]) -> None:
        self.clips = iter(clips)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next clip, None after the last."""
        clip = next(self.clips, None)
        return None if clip is None else {WAVE: clip[None], LENGTHS: np.array([len(clip)])}


def scorer(file: Path) -> Callable[[FloatArray], FloatArray]:
    """Return the scores of an exported graph, whoever rounded it."""
    session, _ = open_session(file, file)
    return lambda wave: session.run([LLR], {WAVE: wave, LENGTHS: np.full(len(wave), wave.shape[1])})[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
