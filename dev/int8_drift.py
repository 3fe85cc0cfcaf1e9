"""What 8 bits do to a detector's scores: python dev/int8_drift.py MODEL MANIFEST [CLIPS].

Against float32 in torch: as `export --onnx --int8` makes it, and with the features' convolutions in 8 bits too.
"""

import sys
import tempfile

import numpy as np

from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.metrics import eer
from hybrid_pruning.models.onnx import int8 as onnx_int8
from hybrid_pruning.models.onnx.graph import export_onnx
from hybrid_pruning.models.onnx.runtime import OnnxModel
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.scores import score_utterances


def main(name: str, manifest: str, clips: str = "300") -> None:
    """Print a row for each way."""
    utterances = read_manifest(manifest)
    utterances = utterances[:: max(1, len(utterances) // int(clips))]
    model = SpeechModel.from_pretrained(name)
    expected = score_utterances(model, utterances, 16, 0)
    print("| 8 bits | correlation | rms over standard deviation | largest | EER %, float32 | EER %, int8 |")
    print("|---|---|---|---|---|---|")
    for what, features in (("as exported", onnx_int8.FEATURES), ("and the features' convolutions", ())):
        onnx_int8.FEATURES = features
        with tempfile.TemporaryDirectory() as folder:
            found = score_utterances(OnnxModel.from_file(export_onnx(model, folder, int8=True)), utterances, 16, 0)
        print(
            f"| {what}, {len(utterances)} clips | " + " | ".join(_cells(expected, found, utterances)) + " |", flush=True
        )


def _cells(expected: np.ndarray, found: np.ndarray, utterances: list[Utterance]) -> list[str]:
    bonafide = np.array([utterance.label == "bonafide" for utterance in utterances])
    off = (found - expected) / expected.std()
    errors = [f"{100 * eer(scores[bonafide], scores[~bonafide]):.2f}" for scores in (expected, found)]
    correlation = np.corrcoef(expected, found)[0, 1]
    return [f"{correlation:.5f}", f"{np.sqrt(np.mean(off**2)):.3f}", f"{np.abs(off).max():.2f}", *errors]


if __name__ == "__main__":
    main(*sys.argv[1:])
