"""`init` writes a recipe that can be trained, from what the manifests hold."""

from pathlib import Path

import pytest

from corpus import write_corpus
from hybrid_pruning import init
from hybrid_pruning.config import expand_stages, load_config
from hybrid_pruning.data.manifest import read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label
from speakers import write_speakers, write_voxceleb_trials


def gather(folder: Path, **parts: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, manifest in parts.items():
        write_manifest(folder / f"{name}.tsv", read_manifest(manifest))
    return folder


def test_a_detector(tmp_path: Path, cli):
    made = [write_corpus(tmp_path / name, clips, seed) for seed, (name, clips) in enumerate({"a": 24, "b": 6}.items())]
    folder = gather(tmp_path / "m", **{"train": made[0], "dev": made[1], "2021: LA": made[1]})
    write_manifest(folder / "enrol.tsv", [one for one in read_manifest(made[1]) if one.label == Label.BONAFIDE])
    found = cli("init", "m", "--out", "first.yaml", "--backbone", "encoder")
    assert (found.code, found.out) == (0, "first.yaml: read it, then: hybrid-pruning run first.yaml --out JOB\n")
    recipe = load_config(tmp_path / "first.yaml")
    assert (recipe.task, recipe.backbone.source) == ("anti-spoofing", "encoder")
    assert recipe.data.eval == {"2021: LA": Path("m/2021: LA.tsv")}
    assert (recipe.data.crop_seconds, recipe.training.epochs, recipe.data.balance) == (1.0, 20, ())
    assert [stage.pruning.use_pruning_loss for stage in expand_stages(recipe).values()] == [False, True, False]
    assert "12 bona fide, 12 spoofed" in (tmp_path / "first.yaml").read_text()
    with pytest.raises(InputError, match="is there already"):
        init(folder, tmp_path / "first.yaml")


def test_uneven_classes_are_balanced(tmp_path: Path):
    utterances = read_manifest(write_corpus(tmp_path / "a", 24))
    few = [one for place, one in enumerate(utterances) if one.label == Label.SPOOF or place < 3]
    write_manifest(tmp_path / "train.tsv", few)
    write_manifest(tmp_path / "dev.tsv", utterances)
    assert load_config(init(tmp_path, tmp_path / "r.yaml")).data.balance == ("class",)


def test_a_verifier(tmp_path: Path):
    speakers = [write_speakers(tmp_path / name, 3, 2, prefix=name) for name in ("a", "b")]
    folder = gather(tmp_path / "m", train=speakers[0], dev=speakers[1], vox1=speakers[1])
    for name in ("dev", "vox1-O"):
        write_voxceleb_trials(folder / f"{name}.trials", 3, 2)
    recipe = load_config(init(folder, tmp_path / "r.yaml"))
    assert (recipe.task, recipe.objective.kind) == ("speaker-verification", "aam")
    assert recipe.data.eval == {"vox1-O": folder / "vox1.tsv"}
    assert recipe.data.trials == {name: folder / f"{name}.trials" for name in ("dev", "vox1-O")}


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"has no train.tsv; make it with `prepare`"):
        init(tmp_path, tmp_path / "r.yaml")
    utterances = [one for one in read_manifest(write_corpus(tmp_path / "a", 6)) if one.label == Label.BONAFIDE]
    for name in ("train", "dev"):
        write_manifest(tmp_path / f"{name}.tsv", utterances)
    with pytest.raises(InputError, match="neither spoofed speech nor several speakers"):
        init(tmp_path, tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()
