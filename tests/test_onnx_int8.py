"""Integer layers give what their arithmetic says, to the bit of each rounded number, and stay close to the model's."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from conftest import LENGTHS, WHISPER, MakeBackbone, close, shuffle
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone.linear import Linear
from hybrid_pruning.models.classifier import Classes
from hybrid_pruning.models.onnx.graph import OPSET, export_onnx
from hybrid_pruning.models.onnx.int8 import LARGEST, IntegerConv1d, IntegerLinear, to_integers
from hybrid_pruning.models.onnx.runtime import OnnxModel
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import attach, shrink

WIDE = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "conv_dim": [20] * 4,
    "num_conv_pos_embedding_groups": 3,
    "d_model": 48,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 96,
}


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own exporter


def run(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Compute a layer by ONNX Runtime."""
    shape = {0: torch.export.Dim("batch"), x.ndim - 1 if isinstance(layer, IntegerConv1d) else 1: torch.export.Dim("t")}
    program = torch.onnx.export(layer, (x,), dynamo=True, opset_version=OPSET, dynamic_shapes=(shape,), verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@torch.no_grad()
def test_a_linear_layer_is_the_product_of_what_was_rounded(bias: bool, gelu: bool):
    torch.manual_seed(0)
    layer = Linear(nn.Linear(37, 23, bias=bias))
    layer.gelu = gelu
    x = torch.randn(2, 9, 37) + 0.5
    expected = in_bytes(x) @ rounded(layer.weight).T + (layer.bias if bias else 0.0)
    expected = nn.functional.gelu(expected) if gelu else expected
    torch.testing.assert_close(run(IntegerLinear(layer).eval(), x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), [(3, 2, 0, 1), (2, 2, 0, 1), (8, 1, 4, 3)])
@torch.no_grad()
def test_a_convolution_is_that_of_what_was_rounded(kernel: int, stride: int, padding: int, groups: int, bias: bool):
    torch.manual_seed(0)
    layer = nn.Conv1d(48, 60, kernel, stride, padding, groups=groups, bias=bias)
    x = torch.randn(2, 48, 41) - 0.5
    plain = nn.functional.conv1d(in_bytes(x), rounded(layer.weight), layer.bias, stride, padding, groups=groups)
    torch.testing.assert_close(run(IntegerConv1d(layer).eval(), x), plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_output_that_is_always_zero_stays_so():
    layer = nn.Linear(20, 16, bias=False)
    layer.weight[3] = 0.0
    assert not run(IntegerLinear(layer).eval(), torch.randn(1, 5, 20))[..., 3].any()


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
    layers = {
        "conv1": nn.Conv1d(64, 64, 3),
        "pos": nn.Conv1d(64, 64, 3),
        "fc": nn.Linear(64, 64),
        "gate": nn.Linear(64, 8),
    }
    model = nn.ModuleDict({**layers, "feature_extractor": nn.ModuleDict({"conv": nn.Conv1d(64, 64, 3)})})
    to_integers(model)
    kinds = [nn.Conv1d, IntegerConv1d, IntegerLinear, nn.Linear]
    assert [type(model[name]) for name in layers] == kinds
    assert isinstance(model["feature_extractor"]["conv"], nn.Conv1d)


@pytest.mark.parametrize(("family", "style"), [("wavlm", "base"), ("wav2vec2", "large"), WHISPER])
def test_a_whole_model_is_close(make_backbone: MakeBackbone, tmp_path: Path):
    torch.manual_seed(0)
    backbone = make_backbone(num_hidden_layers=2, **WIDE)
    gates = attach(backbone)
    shuffle(gates, seed=0)
    close(gates, "attlayer.1")
    backbone = shrink(backbone, gates)
    model = SpeechModel.build(backbone, HeadConfig(heads=4, compression=16, embedding=24), Classes(("a", "b"), (1, 1)))
    wave, lengths = np.random.default_rng(0).standard_normal((len(LENGTHS), max(LENGTHS))), np.array(LENGTHS)
    expected = model.eval().embed_arrays(wave.astype(np.float32), lengths)
    file = export_onnx(model, tmp_path / "new", int8=True)
    found = OnnxModel.from_file(file).embed_arrays(wave.astype(np.float32), lengths)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert (found != expected).any()
    products = [node for node in onnx.load(file).graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) >= 7
