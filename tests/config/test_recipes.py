"""Every recipe that comes with the project is one that the program reads; a table's rows differ in one thing."""

import re
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

from hybrid_pruning.config import expand_stages, load_config, save_config
from hybrid_pruning.data.corpora import CORPORA

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for folder in ("recipes", "examples") for path in (ROOT / folder).rglob("*.y*ml"))
ANTISPOOFING = ("asvspoof5", "spoofceleb", "asvspoof2019-la")
VERIFICATION = ("voxceleb", "cnceleb")
ROWS = [
    path
    for name in (*ANTISPOOFING, *VERIFICATION)
    for path in sorted((ROOT / "recipes" / name).glob("*.yaml"))
    if re.fullmatch(r"base|dense|hp\d\d", path.stem)
]
PUBLIC_BLOCK = """
    use_pruning_loss: True                    # Enable pruning loss
    target_sparsity: 0.1                     # Final sparsity level (10% parameters remaining)
    initial_reg_lr: 5.0e-2                   # Learning rate for regularization parameters
    sparsity_warmup_epochs: 5                # Number of warmup epochs
    sparsity_schedule: "cosine"              # Progressive schedule type
    min_sparsity: 0.0                        # Initial sparsity level
"""


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", ROWS, ids=name)
def test_a_row_is_named_after_the_part_it_removes_and_differs_in_nothing_else(path):
    base, config = load_config(path.with_name("base.yaml")), load_config(path)
    if path.stem == "dense":
        assert not config.pruning.use_pruning_loss
    elif path.stem != "base":
        removed = re.fullmatch(r"hp(\d\d)", path.stem)
        assert removed
        assert config.pruning.target_sparsity == int(removed[1]) / 100
        assert config.pruning.use_pruning_loss
    changed = {"target_sparsity": base.pruning.target_sparsity, "use_pruning_loss": base.pruning.use_pruning_loss}
    assert config.model_copy(update={"pruning": config.pruning.model_copy(update=changed)}) == base


def test_the_rows_of_the_tables_are_there():
    large = {f"large-{name}" for name in ("base", "dense", "hp30", "hp70")}
    for folder, rows, more in (
        ("asvspoof5", (10, 30, 50, 70), set()),
        ("spoofceleb", (10, 30, 40, 50, 70), set()),
        ("voxceleb", (50, 60, 70, 80, 90), large | {"hp50-lm"}),
        ("cnceleb", (40, 70), set()),
    ):
        expected = {"base", "dense", *(f"hp{removed}" for removed in rows)} | more
        assert {path.stem for path in (ROOT / "recipes" / folder).glob("*.yaml")} == expected


@pytest.mark.parametrize("folder", [*ANTISPOOFING, *VERIFICATION])
def test_a_recipe_reads_the_files_of_prepare(folder):
    config, manifests = load_config(ROOT / "recipes" / folder / "base.yaml"), Path("manifests") / folder
    assert config.corpus.name == folder
    assert folder in CORPORA
    assert (config.data.train, config.data.dev) == (manifests / "train.tsv", manifests / "dev.tsv")
    sets = {f"vox1-{list_}": "vox1.tsv" for list_ in "OEH"} if folder == "voxceleb" else {"eval": "eval.tsv"}
    assert config.data.eval == {name: manifests / file for name, file in sets.items()}
    lists = ("dev", *sets) if folder in VERIFICATION else ()
    assert config.data.trials == {name: manifests / f"{name}.trials" for name in lists}
    share = f" --dev-share {config.corpus.dev_share:g}" if config.corpus.dev_share else ""
    text = (ROOT / "recipes" / folder / "base.yaml").read_text()
    assert f"prepare {folder} --root {config.corpus.root} --out {manifests}{share}\n" in text, "the comment has it"


def test_values_for_verification_are_those_of_the_public_branch():
    """Section 3 of arXiv 2508.16232, and the author's branch for VoxCeleb."""
    config = load_config(ROOT / "recipes" / "voxceleb" / "base.yaml")
    stages = expand_stages(config)
    assert list(stages) == ["head", "dense", "joint", "heal"]
    head, dense, joint, _ = stages.values()
    read = attrgetter("optimizer", "epochs", "lr", "final_lr")
    assert (read(head.training), read(dense.training)) == (("sgd", 15, 0.1, 5e-3), ("adamw", 12, 1e-4, 1e-6))
    assert {stage.training.lr_batch for stage in stages.values()} == {64}
    assert [stage.pruning.use_pruning_loss for stage in stages.values()] == [False, False, True, False]
    assert [stage.distillation is not None for stage in stages.values()] == [False, False, True, True]
    assert head.backbone.frozen
    assert not head.pruning.use_pruning_loss
    assert (joint.pruning.sparsity_schedule, joint.pruning.sparsity_warmup_epochs) == ("linear", 5)
    assert joint.backbone.extractor_gradient == 0.1
    objective = config.objective
    assert (objective.kind, objective.scale, objective.margin) == ("aam", 32, 0.2)
    assert (objective.inter_top_k, objective.inter_margin, objective.sub_centres) == (5, 0.06, 3)
    assert (config.augment.probability, config.augment.speed) == (0.6, None)
    assert load_config(ROOT / "recipes" / "voxceleb" / "large-base.yaml").training.epochs == 8


def test_both_corpora_of_speakers_are_trained_on_in_the_same_way():
    voxceleb, cnceleb = (load_config(ROOT / "recipes" / folder / "base.yaml") for folder in VERIFICATION)
    assert cnceleb.model_copy(update={"data": voxceleb.data, "corpus": voxceleb.corpus}) == voxceleb


def test_replicas_of_a_task_differ_between_corpora_in_the_data_alone():
    for one, other, names in (
        ("asvspoof5", "spoofceleb", {"base", "s0", "s10", "s30"}),
        ("voxceleb", "cnceleb", {"frozen", "s0", "s70"}),
    ):
        for name in names:
            found, expected = (load_config(ROOT / "recipes" / f / "paper" / f"{name}.yaml") for f in (other, one))
            assert found.model_copy(update={"data": expected.data, "corpus": expected.corpus}) == expected
            assert found.data == load_config(ROOT / "recipes" / other / "base.yaml").data
            assert expected.data == load_config(ROOT / "recipes" / one / "base.yaml").data


def test_a_large_margin_comes_after_all_else():
    stages = expand_stages(load_config(ROOT / "recipes" / "voxceleb" / "hp50-lm.yaml"))
    assert list(stages) == ["head", "dense", "joint", "heal", "large-margin"]
    last = stages["large-margin"]
    assert (last.data.crop_seconds, last.objective.margin, last.pruning.use_pruning_loss) == (6.0, 0.5, False)


def test_data_head_and_augmentation_are_those_of_the_public_recipe():
    """The s10 configuration for WavLM Base of `v15_ssl_mhfa_pruning`, and section 2 of arXiv 2508.16232."""
    config = load_config(ROOT / "recipes" / "asvspoof5" / "hp10.yaml")
    assert config.seed == 42
    assert config.data.crop_seconds == 150 * 0.020
    assert attrgetter("kind", "heads", "compression", "embedding")(config.head) == ("mhfa", 32, 128, 256)
    assert list(expand_stages(config)) == ["dense", "joint", "heal"]
    assert config.training.lr * config.training.backbone_lr_ratio == pytest.approx(4.98e-5, rel=0.01)
    augment = config.augment
    assert (augment.probability, augment.choose) == (0.8, "one")
    musan = [kind.probability for kind in (augment.noise, augment.music, augment.babble) if kind is not None]
    assert sum(musan) == pytest.approx(augment.reverberation.probability), "half reverberation, half MUSAN"
    assert musan == pytest.approx([files / 2016 / 2 for files in (930, 660, 426)], abs=0.006)
    assert config.pruning.units == ("conv", "head", "attlayer", "interm", "ffnlayer")


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_loads_and_takes_the_public_block_in_place_of_its_own(path, tmp_path):
    config = load_config(path)
    save_config(config, tmp_path / "whole.yaml")
    assert load_config(tmp_path / "whole.yaml") == config
    tree = yaml.safe_load((tmp_path / "whole.yaml").read_text())
    del tree["pruning"]
    (tmp_path / "pasted.yaml").write_text(f"{yaml.safe_dump(tree)}pruning:\n{PUBLIC_BLOCK}")
    if path in ROWS:
        pruning = load_config(tmp_path / "pasted.yaml").pruning
        for key, value in yaml.safe_load(PUBLIC_BLOCK).items():
            assert getattr(pruning, key) == value
