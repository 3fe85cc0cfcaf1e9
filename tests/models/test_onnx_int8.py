"""Integer layers: equal to their arithmetic to the bit of each rounded number, and close to the float model."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from encoders import KINDS, LENGTHS, Once
from exports import HEAD, ragged_backbone
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone.base import Linear
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.onnx.graph import OPSET, export_onnx, plain_copy
from hybrid_pruning.models.onnx.int8 import FEATURES, LARGEST, NARROWEST, IntegerConv1d, IntegerLinear, to_integers
from hybrid_pruning.models.onnx.runtime import OnnxModel
from hybrid_pruning.models.speech_model import SpeechModel

WIDE = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96}
WIDE |= {"conv_dim": [20] * 4, "num_conv_pos_embedding_groups": 3}
CONVOLUTIONS = [(3, 2, 0, 1), (2, 2, 0, 1), (8, 1, 4, 3)]
"""Kernel, stride, padding and groups."""
REPLACED = (nn.Linear, nn.Conv1d)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own exporter


def make_layers() -> dict[str, nn.Module]:
    """Return linear layers with and without bias and GELU, one with an output of zeros, and convolutions."""
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {}
    for bias, gelu in product((True, False), repeat=2):
        layers[f"linear-{bias}-{gelu}"] = Linear(nn.Linear(37, 23, bias=bias), gelu)
    layers["zero"] = nn.Linear(37, 16, bias=False)
    nn.init.zeros_(layers["zero"].weight[3])
    for (kernel, stride, padding, groups), bias in product(CONVOLUTIONS, (True, False)):
        layer = nn.Conv1d(48, 60, kernel, stride, padding, groups=groups, bias=bias)
        layers[f"conv-{kernel}-{bias}"] = layer
    return layers


class _Integers(nn.Module):
    """All layers in integers, linear ones on one input and convolutions on another: a single export shows them."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        kinds = {nn.Conv1d: IntegerConv1d}
        self.layers = nn.ModuleList(kinds.get(type(layer), IntegerLinear)(layer) for layer in layers.values())

    def forward(self, rows: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(layer(frames if isinstance(layer, IntegerConv1d) else rows) for layer in self.layers)


LAYERS = make_layers()
ROWS = torch.randn(2, 9, 37, generator=torch.Generator().manual_seed(0)) + 0.5
FRAMES = torch.randn(2, 48, 41, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.fixture(scope="module")
def computed(once: Once) -> dict[str, torch.Tensor]:
    """The outputs of all layers, computed by ONNX Runtime."""

    def make(folder: Path) -> None:
        sizes = [torch.export.Dim(name) for name in ("utterances", "rows", "batch", "frames")]
        dynamic = ({0: sizes[0], 1: sizes[1]}, {0: sizes[2], 2: sizes[3]})
        program = torch.onnx.export(
            _Integers(LAYERS).eval(),
            (ROWS, FRAMES),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            verbose=False,
        )
        assert program is not None
        program.save(folder / "layers.onnx")

    file = once("integers", torch.no_grad()(make)) / "layers.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, (ROWS.numpy(), FRAMES.numpy()), strict=True)))
    return {name: torch.from_numpy(found) for name, found in zip(LAYERS, outputs, strict=True)}


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Round the weights [out, in] or [out, in, kernel] as an integer layer does, by one scale for each output."""
    row = weight.movedim(1, -1).flatten(1)
    above, below = row.clamp_min(0), (-row).clamp_min(0)
    sums = [side[:, 1:] + side[:, :-1] for side in (above, below)]
    scale = torch.cat([row.abs(), *sums], 1).amax(1) / LARGEST
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    return (weight / scale).round() * scale


def in_bytes(x: torch.Tensor) -> torch.Tensor:
    """Round inputs as ONNX's DynamicQuantizeLinear does."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    return ((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale


@torch.no_grad()
def test_a_layer_multiplies_rounded_numbers(computed: dict[str, torch.Tensor]):
    for name, layer in LAYERS.items():
        if isinstance(layer, nn.Conv1d):
            settings = layer.bias, layer.stride, layer.padding, 1, layer.groups
            expected = nn.functional.conv1d(in_bytes(FRAMES), rounded(layer.weight), *settings)
        elif isinstance(layer, Linear):
            expected = in_bytes(ROWS) @ rounded(layer.weight).T + (0.0 if layer.bias is None else layer.bias)
            expected = nn.functional.gelu(expected) if layer.gelu else expected
        else:  # an output that is always zero stays so
            assert computed[name].any()
            assert not computed[name][..., 3].any()
            continue
        torch.testing.assert_close(computed[name], expected, rtol=1e-4, atol=1e-5)


def test_weights_leave_older_processors_room():
    torch.manual_seed(0)
    layer = IntegerLinear(nn.Linear(33, 48))
    weight = layer.product.weight
    assert weight.dtype == torch.int8
    above, below = weight.int().clamp_min(0), (-weight.int()).clamp_min(0)
    largest = max(int((side[1:] + side[:-1]).max()) for side in (above, below))
    assert largest >= LARGEST - 1
    assert largest * 255 < 2**15, "where two products are added up in 16 bits"


def test_narrow_layers_and_those_that_make_features_stay():
    layers = {name: nn.Conv1d(64, 64, 3) for name in ("conv1", "pos")}
    layers |= {"fc": nn.Linear(64, 64), "gate": nn.Linear(64, 8)}
    model = nn.ModuleDict({**layers, "feature_extractor": nn.ModuleDict({"conv": nn.Conv1d(64, 64, 3)})})
    to_integers(model)
    kinds = [nn.Conv1d, IntegerConv1d, IntegerLinear, nn.Linear]
    assert [type(model[name]) for name in layers] == kinds
    assert isinstance(model["feature_extractor"]["conv"], nn.Conv1d)


@pytest.mark.parametrize(("family", "style"), KINDS)
def test_all_wide_layers_of_a_model_become_integers(family: str, style: str):
    model = plain_copy(SpeechModel.build(ragged_backbone(family, style, **WIDE), HEAD, None))
    before = {name: layer for name, layer in model.backbone.named_modules() if isinstance(layer, REPLACED)}
    to_integers(model.backbone)
    after = dict(model.backbone.named_modules())
    for name, layer in before.items():
        narrow = min(layer.weight.shape[:2]) < NARROWEST or (
            isinstance(layer, nn.Conv1d) and min(layer.in_channels, layer.out_channels) // layer.groups < NARROWEST
        )
        stays = narrow or bool({*name.split(".")} & {*FEATURES})
        assert isinstance(after[name], REPLACED if stays else (IntegerLinear, IntegerConv1d)), name
    assert sum(isinstance(layer, IntegerLinear) for layer in after.values()) >= 2


def test_a_whole_model_is_close(tmp_path: Path):
    """Of WavLM too: `test_a_run_becomes_onnx_in_8_bits`."""
    head = HeadConfig(heads=4, compression=16, embedding=24)
    backbone = ragged_backbone("wav2vec2", "base", **WIDE)
    model = SpeechModel.build(backbone, head, Classes(("a", "b"), (1, 1))).eval()
    wave, lengths = np.random.default_rng(0).standard_normal((len(LENGTHS), max(LENGTHS))), np.array(LENGTHS)
    expected = model.embed_arrays(wave.astype(np.float32), lengths)
    file = export_onnx(model, tmp_path / "new", int8=True)
    found = OnnxModel.from_file(file).embed_arrays(wave.astype(np.float32), lengths)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert (found != expected).any()
    products = [node for node in onnx.load(file).graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) >= 5
