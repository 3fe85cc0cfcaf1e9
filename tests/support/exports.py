"""Models and their ONNX files for tests that only read them: an export takes seconds, each is made once a session."""

import shutil
from pathlib import Path

import onnx
import torch

from corpus import write_corpus
from encoders import FAMILIES, NO_DROPOUT, Once, close, make_config, shuffle, with_random_weights
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone import Backbone, wrap
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.onnx.graph import export_onnx, export_openvino
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import attach, shrink
from speakers import tiny_verifier
from world import copy_world, run_main

HEAD = HeadConfig(heads=4, compression=8, embedding=16)
CLASSES = Classes(("bonafide", "spoof"), (3, 5))
CALIBRATION = Calibration((Fit(1.5, -0.3, 0.5, "scores.tsv", "keys.tsv", "", 1, 1),))


def ragged_backbone(family: str, style: str, **overrides: object) -> Backbone:
    """Return a pruned encoder of two layers: one of them has no attention, the other no feed-forward network.

    The convolutions of HuBERT keep all their channels, so that these are exported dense too.
    """
    torch.manual_seed(0)
    model = FAMILIES[family][1](make_config(family, style, **{**NO_DROPOUT, "num_hidden_layers": 2, **overrides}))
    backbone = wrap(with_random_weights(model.eval()), normalize=False).eval()
    gates = attach(backbone)
    shuffle(gates, seed=0)
    close(gates, "attlayer.1", "ffnlayer.0")
    close(gates, "conv.0", share=0.3)
    if family == "hubert":
        for name, gate in gates.items():
            if name.startswith("conv."):
                gate.log_alpha.data.fill_(20.0)
    return shrink(backbone, gates)


def export_ragged(once: Once, family: str, style: str) -> Path:
    """Return the folder of a pruned, calibrated detector: an artifact with its .onnx file beside it."""

    def make(folder: Path) -> None:
        torch.manual_seed(1)
        head = HEAD.model_copy(update={"classifier_norm": "batch" if style == "large" else "layer"})
        model = SpeechModel.build(ragged_backbone(family, style), head, CLASSES, calibration=CALIBRATION)
        model.train().classifier(torch.randn(8, HEAD.embedding) * 3 + 1)  # statistics of a batch norm
        model.eval()
        model.save_pretrained(folder)
        export_onnx(model, folder)

    return once(f"ragged-{family}-{style}", make)


def export_detector(once: Once) -> Path:
    """Return a folder with WavLM's ragged detector in model/, its .onnx file in onnx/, and clips in dev/."""

    def make(folder: Path) -> None:
        exported = export_ragged(once, "wavlm", "base")
        for name in ("model/config.json", "model/model.safetensors", "onnx/model.onnx", "onnx/model.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(exported / Path(name).name, folder / name)
        write_corpus(folder / "dev", 9)

    return once("detector", make)


def export_run(once: Once, pristine: Path) -> Path:
    """Return a copy of the world with its run as an .onnx file in 8 bits, in small/, made by the command line."""

    def make(folder: Path) -> None:
        copy_world(pristine, folder)
        assert run_main(["export", "run", "--out", "small", "--onnx", "--int8"], folder) == 0

    return once("small", make)


def export_verifier(once: Once, pristine: Path) -> Path:
    """Return a copy of the world with a dense verifier, calibrated and with a cohort, in mc/, and as ONNX in graph/."""

    def make(folder: Path) -> None:
        copy_world(pristine, folder)
        tiny_verifier(folder / "wavlm1", num_hidden_layers=1).save_pretrained(folder / "mc")
        assert run_main(["cohort", "mc", "speakers/manifest.tsv", "--top-n", "3", "--workers", "0"], folder) == 0
        calibrate(folder / "mc")
        assert run_main(["export", "mc", "--out", "graph", "--onnx"], folder) == 0

    return once("compared", make)


def export_vino(once: Once) -> Path:
    """Return a copy of `export_detector`'s folder with the detector for OpenVINO too: vino/ and, in 8 bits, vino8/."""

    def make(folder: Path) -> None:
        shutil.copytree(export_detector(once), folder, dirs_exist_ok=True)
        export_openvino(
            SpeechModel.from_pretrained(folder / "model"), folder / "vino", proto=read_graph(folder / "onnx")
        )
        command = ["export", "model", "--out", "vino8", "--openvino", "--precision", "int8"]
        assert run_main([*command, "--calibrate", "dev/manifest.tsv"], folder) == 0

    return once("vino", make)


def read_graph(folder: Path) -> onnx.ModelProto:
    """Return an exported graph, which saves tracing it again."""
    return onnx.load(folder / "model.onnx")


def calibrate(folder: Path) -> None:
    model = SpeechModel.from_pretrained(folder)
    weights = {"log-seconds-min": 0.5, "embedding-length-max": 0.1, "impostor-mean-max": -2.0}
    model.calibration = Calibration((Fit(2.0, -1.0, 0.5, "s.tsv", "k.tsv", "", 4, 12, weights, seen=[-4.0, 4.0]),))
    model.save_pretrained(folder)
