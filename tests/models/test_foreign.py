"""Foreign checkpoints: the outputs of the program that wrote them, and damage refused in one line."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import hybrid_pruning as hp
from corpus import files_below
from damage import Bomb, refused
from encoders import Once, relative_error, shuffle
from foreign_files import RECIPE, config_of, encoder_of, gates_of, make_model, write_encoder, write_whole
from hybrid_pruning.errors import InputError
from hybrid_pruning.models import foreign
from hybrid_pruning.models.backbone import Backbone, wrap
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.pruning.gate import soft_value

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "checkpoints"
STYLES = ("hubert_base_style", "wavlm_base_style", "wavlm_large_style")
FILES = ("whole_pytorch_model.bin", "avg_model.pt", "pytorch_model.bin")
HUB_ID = "JYP2024/Wedefense_ASV2025_WavLM_Base_Pruning"
NEEDS_REFERENCE = pytest.mark.skipif(not REFERENCE.exists(), reason="needs ../shared/reference/checkpoints")
ON_WAVEFORMS = [(family, style) for family in ("wavlm", "hubert") for style in ("base", "large")]
PARTS = ("attention", "feed_forward")
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}


def expected(style: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / style / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@torch.no_grad()
def assert_as_expected(model: hp.SpeechModel, style: str) -> None:
    outputs = expected(style)
    wave = outputs["wave"]
    torch.testing.assert_close(model.backbone(wave).frames, outputs["hidden"], **TOLERANCE)
    torch.testing.assert_close(model.embed(wave), outputs["embedding"], **TOLERANCE)
    torch.testing.assert_close(model(wave), outputs["logits"], **TOLERANCE)


@pytest.fixture
def files(once: Once, tmp_path: Path) -> dict[str, Path]:
    """An encoder and a whole model of a test's own, by `encoder` and `whole`."""

    def make(folder: Path) -> None:
        write_encoder(folder / "encoder")
        write_whole(folder / "whole")

    copy = Path(shutil.copytree(once("foreign", make), tmp_path / "foreign"))
    return {"encoder": copy / "encoder" / FILES[2], "whole": copy / "whole" / "pruned_model" / FILES[0]}


@NEEDS_REFERENCE
@pytest.mark.parametrize("style", STYLES)
def test_a_reference_model_gives_its_expected_outputs(style: str):
    """The pruned file, the gated one cut as the recipe does, and the folder of both: all are the exported model."""
    for file in (*FILES[:2], ""):
        model = hp.SpeechModel.from_pretrained(REFERENCE / style / file)
        assert_as_expected(model, style)
        assert model.classes.labels == ("bonafide", "spoof")
    outputs = expected(style)
    logits = outputs["logits"]
    torch.testing.assert_close(model.score(outputs["wave"]), logits[:, 0] - logits[:, 1], **TOLERANCE)


@NEEDS_REFERENCE
@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_a_reference_encoder_gives_its_expected_states(style: str, tmp_path: Path):
    """To be pruned further, too; its gated form is cut to its weights but for rounding of the products that fold in."""
    outputs = expected(style)
    shutil.copy(REFERENCE / style / "pytorch_model.bin", tmp_path / "encoder.pt")
    for source in (tmp_path / "encoder.pt", REFERENCE / style):
        found = hp.load_backbone(source)
        torch.testing.assert_close(found(outputs["wave"]).frames, outputs["hidden"], **TOLERANCE)
    cut = foreign.build_backbone(foreign.read_checkpoint(REFERENCE / style / "avg_model.pt")).eval()
    assert shape_of(cut) == shape_of(found)
    for name, tensor in found.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], tensor, atol=1e-7, rtol=1e-6)
    gates = hp.pruning.attach(found, seconds=0.5)
    shuffle(gates, seed=2)
    assert_invariants_hold(found, gates)


@torch.no_grad()
def assert_invariants_hold(backbone: Backbone, gates: hp.pruning.Gates) -> None:
    wave, lengths = torch.randn(2, 6000), torch.tensor([6000, 4100])
    masked, small = backbone(wave, lengths), hp.pruning.shrink(backbone, gates)
    found = small(wave, lengths)
    assert relative_error(masked.frames, found.frames, masked.lengths) < 1e-5
    counted = hp.pruning.budget(backbone, gates, gates.kept())
    assert counted.params == sum(parameter.numel() for parameter in small.parameters()) < counted.dense_params


def lay_out(style: str, folder: Path) -> Path:
    """Put a reference model's files where the published repository has them."""
    names = (*FILES, "config.yaml", "config.yaml")
    places = ("pruned_model", "models/avg_model.pt", "pruned_model", "config.yaml", "config_pruned.yaml")
    (folder / "pruned_model").mkdir(parents=True)
    (folder / "models").mkdir()
    for name, place in zip(names, places, strict=True):
        shutil.copy(REFERENCE / style / name, folder / place)
    return folder


@NEEDS_REFERENCE
@pytest.mark.parametrize("complete", [True, False])
def test_the_published_repository(complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of its id no more is fetched than it takes: the gated checkpoint only where the pruned one is missing."""
    remote, cache, fetched = lay_out("wavlm_base_style", tmp_path / "remote"), tmp_path / "cache", []
    if not complete:
        (remote / "pruned_model" / "whole_pytorch_model.bin").unlink()

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == (HUB_ID, None)
        for pattern in allow_patterns:
            if (remote / pattern).is_file():
                (cache / pattern).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(remote / pattern, cache / pattern)
                fetched.append(pattern)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for source in (remote, HUB_ID):
        assert_as_expected(hp.SpeechModel.from_pretrained(source), "wavlm_base_style")
    assert ("models/avg_model.pt" in fetched) is not complete


@pytest.mark.parametrize(("family", "style"), ON_WAVEFORMS)
@torch.no_grad()
def test_a_dense_encoder(family: str, style: str, tmp_path: Path):
    found = hp.load_backbone(write_encoder(tmp_path, family, style))
    model = make_model(family, style)
    dense = wrap(model, normalize=style == "large").eval()
    dense.config.waveform_eps = 1e-5
    wave = torch.randn(2, 5000)
    assert shape_of(found) is None
    assert torch.equal(found(wave).frames, dense(wave).frames)
    gates = hp.pruning.attach(found)
    shuffle(gates, seed=0)
    assert_invariants_hold(found, gates)


@pytest.mark.parametrize(
    ("family", "closed"),
    [
        ("wavlm", {"attlayer_0": [0]}),
        ("wavlm", {"head_1": [0, 1, 2, 3]}),
        ("hubert", {}),
        ("hubert", {"attlayer_0": [0], "interm_2": list(range(48))}),
    ],
)
@torch.no_grad()
def test_gates_cut_as_trained_give_the_gated_models_states(family: str, closed: dict[str, list[int]], tmp_path: Path):
    """Against the foreign code's rule, by hand: every mask on an activation, the last one in front of a norm."""
    closed = {"conv_0": [1], "conv_6": [0, 5, 7], "head_0": [2], "interm_0": [3, 4], "ffnlayer_1": [0], **closed}
    checkpoint = foreign.read_checkpoint(write_whole(tmp_path, family, "base", **closed))
    wave = torch.randn(2, 5000)
    found = foreign.build_backbone(checkpoint, as_trained=True).eval()
    again = foreign.build_backbone(checkpoint, as_trained=True).eval()
    gated = masked_by_hand(family, {name.replace("_", "."): units for name, units in closed.items()})
    assert relative_error(gated(wave).frames, found(wave).frames) < 1e-5
    assert torch.equal(found(wave).frames, again(wave).frames), "reading changed what was read"


def masked_by_hand(family: str, closed: dict[str, list[int]]) -> Backbone:
    model = make_model(family, "base")
    masks = {}
    for name, log_alpha in gates_of(model, closed).items():
        masks[name.removesuffix(".log_alpha")] = soft_value(log_alpha) * (log_alpha > 0)
    for index, layer in enumerate(model.feature_extractor.conv_layers):
        mask = masks[f"feature_extractor.conv_layers.{index}.hard_concrete"]
        layer.register_forward_hook(lambda _, __, output, mask=mask: output * mask[:, None])
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    for index, layer in enumerate(model.encoder.layers):
        attention, ffn = (f"encoder.transformer.layers.{index}.{part}.hard_concrete_for_" for part in PARTS)
        layer.attention.out_proj.weight *= masks[f"{attention}heads"].repeat_interleave(head_dim)
        layer.feed_forward.output_dense.weight *= masks[f"{ffn}intermediate"]
        for part, mask in ((layer.attention.out_proj, attention), (layer.feed_forward.output_dense, ffn)):
            for tensor in part.parameters():
                tensor.mul_(masks[f"{mask}layer"])
    return wrap(model).eval()


def test_without_its_first_attention_the_recipes_export_has_no_position_bias(tmp_path: Path):
    checkpoint = foreign.read_checkpoint(write_whole(tmp_path, attlayer_0=[0]))
    exported, trained = (foreign.build_backbone(checkpoint, as_trained) for as_trained in (False, True))
    assert not exported.state_dict()["encoder.position_bias.embedding.weight"].any()
    assert trained.state_dict()["encoder.position_bias.embedding.weight"].any()


@torch.no_grad()
def test_the_batch_norm_and_the_feature_mean(files: dict[str, Path]):
    """Head and projection are the recipe's, by torch's own modules."""
    state = torch.load(files["whole"], weights_only=True)
    model = hp.SpeechModel.from_pretrained(files["whole"])
    embedding = torch.randn(4, 5)
    norm = torch.nn.BatchNorm1d(5).eval()
    norm.load_state_dict({name[19:]: value for name, value in state.items() if name.startswith("projection.trans.0.")})
    hidden = norm(embedding).relu() @ state["projection.trans.2.weight"].T + state["projection.trans.2.bias"]
    torch.testing.assert_close(model.classifier(embedding), hidden)
    frames = torch.randn(4, 2, 9, 32)
    centred = frames - frames.mean(-1, keepdim=True)
    assert model.head.feature_mean
    found = model.head(hp.Hidden(frames, None))
    model.head.feature_mean = False
    torch.testing.assert_close(model.head(hp.Hidden(centred, None)), found)


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        change(content := torch.load(file, weights_only=True))
        torch.save(content, file)

    return damage


def configured(**changes: Any) -> Callable[[Path], None]:
    return rewritten(lambda content: content["config"].update(changes))


def weighted(name: str, tensor: torch.Tensor | None) -> Callable[[Path], None]:
    def change(content: dict[str, Any]) -> None:
        state = content.get("state_dict", content)
        state.pop(name, None)
        state.update({} if tensor is None else {name: tensor})

    return rewritten(change)


def described(**changes: Any) -> Callable[[Path], None]:
    return lambda file: (file.parents[1] / "config.yaml").write_text(yaml.safe_dump({**RECIPE, **changes})) and None


FFN = "encoder.transformer.layers.1.feed_forward.intermediate_dense.weight"
LAYER_KEY = "encoder_ff_interm_features"
ENCODER_DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {  # others: bad_artifacts.tsv
    "empty": (lambda file: file.write_bytes(b""), "damaged"),
    "a list": (lambda file: torch.save([1, 2], file), "holds a list"),
    "of another program": (lambda file: torch.save({"conv.weight": torch.zeros(3)}, file), "conv.weight: not a file"),
    "no tensors": (lambda file: torch.save({"epoch": 3}, file), "holds epoch: not a file that can be converted"),
    "neurons without end": (configured(encoder_ff_interm_features=[10**13] * 3), "0000 heads or neurons in a layer"),
    "a width out of bounds": (configured(encoder_embed_dim=10**7), "hidden_size 10000000"),
    "a config that is none": (rewritten(lambda c: c.update(config=3)), "'config' is no mapping"),
    "a weight missing": (weighted(FFN, None), f"'{FFN}' is missing, which {LAYER_KEY}"),
    "a weight too many": (weighted("encoder.more", torch.zeros(1)), "'encoder.more' is not of the encoder"),
    "a weight of another size": (weighted(FFN, torch.zeros(7, 32)), rf"\[7, 32\], {LAYER_KEY} .* \[48, 32\]"),
    "not finite": (weighted(FFN, torch.full((48, 32), float("nan"))), f"'{FFN}' holds values that are not finite"),
    "other heads": (configured(encoder_remaining_heads=[[0, 1], [0], [1]]), "encoder_remaining_heads .* asks for"),
    "heads that are not there": (configured(encoder_remaining_heads=[[0, 9]] * 3), "makes no sense .*head.0"),
    "other layers": (configured(encoder_num_layers=4), "is of 3 layers, encoder_num_layers says 4"),
    "other channels": (
        configured(extractor_conv_layer_config=[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2),
        "extractor_conv_layer_config in the config asks for",
    ),
    "another mode": (configured(extractor_mode="batch"), "extractor_mode 'batch'"),
    "a config without a key": (rewritten(lambda c: c["config"].pop(LAYER_KEY)), f"lacks '{LAYER_KEY}'"),
    "a width of text": (configured(encoder_embed_dim="wide"), "config cannot be understood"),
    "no heads at all": (configured(encoder_total_num_heads=[0, 0, 0]), "config cannot be understood"),
}
WHOLE_DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a head's weight missing": (weighted("att_head.weight", None), "'att_head.weight' is missing"),
    "a head's weight too many": (weighted("more", torch.zeros(1)), "'more' is of no MHFA head"),
    "a head of another width": (weighted("cmp_linear_k.weight", torch.zeros(4, 9)), r"'cmp_linear_k.weight' is \[4, 9"),
    "three classes": (weighted("projection.trans.2.weight", torch.zeros(3, 5)), "two classes ask for"),
    "a recipe of another head": (described(model_args={"head_nb": 64}), "says head_nb 64, the weights are of 3"),
    "variances": (described(dataset_args={"cmvn": True, "cmvn_args": {"norm_var": True}}), "norm_var true"),
    "a recipe that is none": (lambda file: (file.parents[1] / "config.yaml").write_text("[1"), "config.yaml: cannot"),
}


@pytest.mark.parametrize("name", [*ENCODER_DAMAGES, *WHOLE_DAMAGES])
def test_a_damaged_file_is_refused_in_one_line(name: str, files: dict[str, Path], tmp_path: Path):
    kind, load = ("encoder", hp.load_backbone) if name in ENCODER_DAMAGES else ("whole", hp.SpeechModel.from_pretrained)
    damage, message = {**ENCODER_DAMAGES, **WHOLE_DAMAGES}[name]
    damage(files[kind])
    with refused(message, tmp_path):
        load(files[kind])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    file, bomb = tmp_path / "pytorch_model.bin", {"encoder_num_layers": Bomb()}
    for content in (Bomb(), {"state_dict": {}, "config": bomb}, {"state_dict": bomb, "config": {}}):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        for read in (hp.load_backbone, hp.SpeechModel.from_pretrained):
            with pytest.raises(InputError, match="never run"):
                read(file)
    assert files_below(tmp_path) == [file]


def test_an_encoder_alone_is_no_model(files: dict[str, Path]):
    for place in (files["encoder"], files["encoder"].parent):
        with pytest.raises(InputError, match="an encoder alone"):
            hp.SpeechModel.from_pretrained(place)


def test_lost_heads_need_a_config(files: dict[str, Path]):
    query = re.compile(r"frontend\.upstream\..*layers\.1\.attention\.[qkv]_proj\..*")
    change = rewritten(lambda state: state.update({name: state[name][:24] for name in state if query.match(name)}))
    change(files["whole"])
    with pytest.raises(InputError, match="only a config says which; put the encoder's"):
        hp.SpeechModel.from_pretrained(files["whole"])


def test_a_gate_of_another_size(tmp_path: Path):
    file = write_whole(tmp_path, head_0=[1])
    name = "frontend.upstream.encoder.transformer.layers.0.attention.hard_concrete_for_heads.log_alpha"
    weighted(name, torch.zeros(9))(file)
    with pytest.raises(InputError, match=r"gate of 'head.0' has 9 units, the encoder 4"):
        hp.SpeechModel.from_pretrained(file)
    weighted(name, None)(file)
    weighted(name.replace("layers.0", "layers.7"), torch.zeros(4))(file)
    with pytest.raises(InputError, match=r"layers\.7"):
        hp.SpeechModel.from_pretrained(file)


@NEEDS_REFERENCE
@pytest.mark.parametrize("family", ["wavlm", "hubert"])
def test_the_generated_files_are_like_the_reference(family: str):
    """Keys and names, so that results on them carry over to real files."""
    content = torch.load(REFERENCE / f"{family}_base_style" / "pytorch_model.bin", weights_only=True)
    model = make_model(family, "base")
    assert set(config_of(model)) <= set(content["config"])
    assert set(content["state_dict"]) - set(encoder_of(model)) == {
        name for name in content["state_dict"] if ".layers.3." in name
    }
