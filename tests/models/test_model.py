"""The artifact is the model: written, it is read back exactly; damaged, it is refused in one line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hybrid_pruning as hp
from corpus import files_below, write_wavlm
from damage import described, refused
from encoders import KINDS, WHISPER, close, shuffle
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import CONFIG, WEIGHTS, is_artifact
from hybrid_pruning.models.backbone import Backbone, load_transformers
from hybrid_pruning.models.heads import Classes, log_likelihood_ratio
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Gates, shape_of
from hybrid_pruning.training.export import shrink_model
from hybrid_pruning.training.objective import Objective

HEAD = HeadConfig(heads=3, compression=4, embedding=5)
CLASSES = Classes(("spoof", "bonafide"), (30, 10))


def build(backbone: Backbone, **about: Any) -> SpeechModel:
    torch.manual_seed(3)
    return SpeechModel.build(backbone, HEAD, CLASSES, **about).eval()


SHAPES: dict[str, Callable[[Gates], None] | None] = {
    "dense": None,
    "half": lambda gates: shuffle(gates, seed=5),
    "empty layers": lambda gates: close(gates, "attlayer.0", "ffnlayer.0", "head.1", "interm.1"),
    "nothing left": lambda gates: close(gates, "*"),
}
CASES = [*((*kind, "half") for kind in KINDS), *(("wavlm", "base", shape) for shape in SHAPES if shape != "half")]


def shaped(backbone: Backbone, shape: str) -> SpeechModel:
    """Return a model whose backbone was cut to the kept units of a shape's gates."""
    model, change = build(backbone, provenance={"why": "test"}), SHAPES[shape]
    if change is None:
        return model
    gates = hp.pruning.attach(model.backbone, seconds=0.5)
    change(gates)
    size = gates.accounting.exact_kept(gates.kept())
    small = shrink_model(Objective(model, gates), float(size.sparsity))
    small.provenance = model.provenance
    assert sum(p.numel() for p in small.backbone.parameters()) < size.dense_params
    return small.eval()


@pytest.mark.parametrize(("family", "style", "shape"), [*CASES, (*WHISPER, "nothing left")])
def test_artifact_roundtrip(make_backbone, tmp_path, wave, lengths, shape):
    model = shaped(make_backbone(normalize=True), shape)
    model.save_pretrained(tmp_path / "model")
    found = SpeechModel.from_pretrained(tmp_path / "model")
    assert {path.name for path in files_below(tmp_path)} == {CONFIG, WEIGHTS}
    expected_state, found_state = model.state_dict(), found.state_dict()
    assert list(found_state) == list(expected_state)
    for name, tensor in expected_state.items():
        assert torch.equal(found_state[name], tensor), name
    assert found.embed(wave, lengths).shape == (len(wave), HEAD.embedding)
    assert torch.equal(found(wave, lengths), model.classifier(model.head(model.backbone(wave, lengths))))
    assert torch.equal(found.score(wave, lengths), model.score(wave, lengths))
    assert torch.equal(found.score(wave, lengths), log_likelihood_ratio(found(wave, lengths), CLASSES))
    assert (found.classes, found.provenance) == (CLASSES, {"why": "test"})
    assert shape_of(found.backbone) == shape_of(model.backbone)
    assert found.backbone.normalize
    assert not found.training
    backbone = hp.load_backbone(str(tmp_path / "model"))
    assert torch.equal(backbone(wave).frames, model.backbone(wave).frames)
    found.save_pretrained(tmp_path / "again")
    before = tmp_path / "model"
    if found.backbone.config.model_type == "whisper":  # the decoder's keys of its config are not kept
        before = tmp_path / "twice"
        SpeechModel.from_pretrained(tmp_path / "again").save_pretrained(before)
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (before / name).read_bytes()


def test_load_backbone_takes_a_transformers_folder(tmp_path: Path, wave: torch.Tensor):
    folder = write_wavlm(tmp_path)
    first, second, fresh = hp.load_backbone(folder), hp.load_backbone(folder), hp.load_backbone(folder, random=True)
    weights = load_file(folder / "model.safetensors")
    name = "feature_projection.projection.weight"
    assert torch.equal(first.state_dict()[name], weights[name])
    assert torch.equal(first(wave).frames, second(wave).frames)
    assert not torch.equal(fresh.state_dict()[name], weights[name])
    assert not first.training
    assert not fresh.training


@pytest.mark.parametrize("labels", [("spoof", "bonafide"), ("bonafide", "spoof")])
def test_scores_are_log_likelihood_ratios_freed_from_the_priors(labels: tuple[str, str]):
    """By Bayes' rule, from likelihoods chosen by hand; higher is more bona fide whatever the order of the classes."""
    counts = {"spoof": 30, "bonafide": 10}
    likelihood = {"spoof": 0.02, "bonafide": 0.5}
    posterior = [math.log(likelihood[label] * counts[label]) + 1.7 for label in labels]  # logits have no origin
    classes = Classes(labels, tuple(counts[label] for label in labels))
    found = log_likelihood_ratio(torch.tensor([posterior]), classes)
    torch.testing.assert_close(found, torch.tensor([math.log(0.5 / 0.02)]))


UNKNOWN = f"{CONFIG}: cannot be understood"
DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {  # of a description; others: bad_artifacts.tsv
    "no backbone": (lambda c: c.pop("backbone"), f"{UNKNOWN} .*backbone"),
    "backbone a list": (lambda c: c.update(backbone=[]), UNKNOWN),
    "labels a number": (lambda c: c.update(labels=2), UNKNOWN),
    "kept a list": (lambda c: c["backbone"].update(kept=[]), UNKNOWN),
    "kept no ranges": (lambda c: c["backbone"]["kept"].update({"head.0": 3}), UNKNOWN),
    "slot missing": (lambda c: c["backbone"]["kept"].pop("head.0"), "head.0"),
    "other units": (lambda c: c["backbone"].update(units=["lungs"]), "lungs"),
    "another head": (lambda c: c["head"].update(embedding=6), "do not belong together: .*size mismatch"),
    "other kept units": (lambda c: c["backbone"]["kept"].update({"interm.0": "0-1"}), "belong .*feed_forward"),
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a shrunk WavLM's artifact."""
    folder = tmp_path_factory.mktemp("artifact")
    write_wavlm(folder / "wavlm")
    shaped(load_transformers(folder / "wavlm"), "half").save_pretrained(folder / "model")
    SpeechModel.from_pretrained(folder / "model")
    return {name: (folder / "model" / name).read_bytes() for name in (CONFIG, WEIGHTS)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_refused_in_one_line(artifact: dict[str, bytes], tmp_path: Path, damage: str):
    for name, content in artifact.items():
        (tmp_path / name).write_bytes(content)
    change, expected = DAMAGES[damage]
    described(change, tmp_path, CONFIG)
    with refused(expected, tmp_path):
        SpeechModel.from_pretrained(tmp_path)


def test_other_folders_are_no_artifacts(tmp_path: Path):
    write_wavlm(tmp_path / "wavlm")
    assert not is_artifact(tmp_path / "wavlm")
    assert not is_artifact(tmp_path / "missing")
    with pytest.raises(InputError, match="no hybrid-pruning artifact"):
        SpeechModel.from_pretrained(tmp_path / "wavlm")
    with pytest.raises(InputError, match="neither a folder here nor a model"):
        SpeechModel.from_pretrained(tmp_path / "missing")


def test_saving_over_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").touch()
    backbone = load_transformers(write_wavlm(tmp_path / "wavlm"), random=True)
    with pytest.raises(InputError, match="cannot be written"):
        build(backbone).save_pretrained(tmp_path / "taken")
