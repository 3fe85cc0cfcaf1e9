"""Recipes: what may be written, what wins over what, and one clear line for every mistake."""

import copy
import math
import re
from functools import reduce
from operator import attrgetter, getitem
from pathlib import Path

import pytest
import yaml

from hybrid_pruning.config import by_name, check_config, load_config, save_config
from hybrid_pruning.errors import InputError

MINIMAL = "data: {train: train.tsv, dev: dev.tsv}\nbackbone: {source: microsoft/wavlm-base}\n"
PAPER = """
pruning:
    use_pruning_loss: True
    target_sparsity: 0.1
    initial_reg_lr: 5.0e-2
    sparsity_warmup_epochs: 5
    sparsity_schedule: "cosine"
    min_sparsity: 0.0
"""


def write(folder, text, name="recipe.yaml"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_papers_pruning_block_works_and_all_else_has_a_default(tmp_path):
    pruning = load_config(write(tmp_path, MINIMAL + PAPER)).pruning
    found = [getattr(pruning, key) for key in yaml.safe_load(PAPER)["pruning"]]
    assert found == [True, 0.1, 0.05, 5, "cosine", 0.0]
    config = load_config(write(tmp_path, MINIMAL))
    assert (config.head.heads, config.head.compression, config.head.embedding) == (32, 128, 256)
    assert config.data.crop_seconds == 3.0
    assert not config.pruning.use_pruning_loss
    assert config.pruning.units == ("conv", "head", "attlayer", "interm", "ffnlayer")


def test_a_batch_norm_needs_two_utterances_at_a_time(tmp_path):
    recipe, norm = write(tmp_path, MINIMAL), "head.classifier_norm=batch"
    assert load_config(recipe, [norm, "training.accumulate=8"]).training.batch_size == 16
    with pytest.raises(
        InputError, match=r"batch_size 16 / training.accumulate 16 is one utterance, of which head.class"
    ):
        load_config(recipe, [norm, "training.accumulate=16"])


def test_gates_are_clipped_to_a_norm(tmp_path):
    recipe = write(tmp_path, MINIMAL)
    assert load_config(recipe, ["training.clip_norm=null"]).training.clip_norm is None
    with pytest.raises(InputError, match=r"training.clip_gates goes with training.clip_norm, which is null"):
        load_config(recipe, ["training.clip_norm=null", "training.clip_gates=true"])


def test_round_trip(tmp_path):
    overrides = ["pruning.drop_rate={interm: 0.5, conv: 0.01}", "pruning.units=[head, interm]", "training.lr=1e-5"]
    config = load_config(write(tmp_path, MINIMAL + PAPER), overrides)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("seed=7", "seed", 7),
        ("training.lr=1e-5", "training.lr", 1e-5),
        (" pruning.target_sparsity = 0.7", "pruning.target_sparsity", 0.7),
        ("pruning.use_pruning_loss=true", "pruning.use_pruning_loss", True),
        ("backbone.source=a=b", "backbone.source", "a=b"),
        ("pruning.units=[head]", "pruning.units", ("head",)),
        ("pruning.drop_rate={interm: 0.5}", "pruning.drop_rate", {"interm": 0.5}),
        ("pruning.drop_rate.interm=0.5", "pruning.drop_rate", {"interm": 0.5}),
        ("training={epochs: 9}", "training.epochs", 9),
    ],
)
def test_the_last_setting_wins_and_leaves_the_rest(tmp_path, override, key, expected):
    path = write(tmp_path, MINIMAL + "training: {epochs: 3, batch_size: 4}\nseed: 1\n")
    config = load_config(path, ["seed=3", override] if key == "seed" else [override])
    assert attrgetter(key)(config) == expected
    assert config.training.batch_size == 4


def test_a_recipe_builds_on_its_base(tmp_path):
    write(tmp_path, MINIMAL + "seed: 1\ntraining: {epochs: 3, batch_size: 4}\n", "base/bottom.yaml")
    write(tmp_path, "base: base/bottom.yaml\ntraining: {epochs: 5}\n", "middle.yaml")
    top = write(tmp_path, "base: ../middle.yaml\nseed: 2\n", "top/top.yaml")
    config = load_config(top, ["training.accumulate=2"])
    assert (config.seed, config.training.epochs, config.training.batch_size, config.training.accumulate) == (2, 5, 4, 2)


MISTAKES = {
    "typo in a section that may be absent": ("corpus: {nam: a, root: x}", r"key 'corpus.name?' (.*'name'\?|is miss)"),
    "nothing is near": ("head: {zzz: 1}", "key 'head.zzz' is unknown; known there: kind, heads, compression"),
    "a rate per wrong unit": ("pruning: {drop_rate: {heads: 1}}", "pruning.drop_rate.heads: .*'conv'.*found 'heads'"),
    "a rate out of range": ("pruning: {drop_rate: 1}", "pruning.drop_rate: .*less than 1, found 1"),
    "a number as key": ("1: 2", "recipe.yaml: .*1"),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_file_and_key(tmp_path, text, expected):
    recipe = write(tmp_path, f"{MINIMAL}{text}\n")
    with pytest.raises(InputError, match=expected) as caught:
        load_config(recipe)
    assert re.fullmatch(rf"{recipe}[^\n]+", str(caught.value))


def test_bases_in_a_circle_that_the_recipe_is_no_part_of(tmp_path):
    for name, base in ("ab", "bc", "cb"):
        write(tmp_path, f"base: {base}.yaml\n", f"{name}.yaml")
    with pytest.raises(InputError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")


ABSURD = (1e9, -1e9, 1e300, 10**30, math.inf, -math.inf, math.nan, [1e9, 1e9], [-1e9, 0])
KINDS = {
    **{kind: {} for kind in ("speed", "rawboost", "codec", "volume")},
    **{kind: {"folder": "x"} for kind in ("noise", "music", "babble", "reverberation")},
}


def leaves(tree, path=()):
    """Yield the keys that hold numbers, or several."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif isinstance(value, int | float | list) and not isinstance(value, bool):
            yield (*path, key)


def test_every_number_has_bounds():
    """Beyond which it would fill the memory, overflow, or never end."""
    tree = {"data": {"train": "t", "dev": "d"}, "backbone": {"source": "x"}, "corpus": {"name": "a", "root": "b"}}
    whole = check_config({**tree, "augment": KINDS}, "recipe").model_dump(mode="json")
    paths = list(leaves(whole))
    assert len(paths) > 60
    for path in paths:
        for value in ABSURD:
            changed = copy.deepcopy(whole)
            reduce(getitem, path[:-1], changed)[path[-1]] = value
            if (path, value) == (("seed",), 1e9):
                continue
            with pytest.raises(InputError) as caught:
                check_config(changed, "recipe")
            assert re.fullmatch(rf"recipe: {'.'.join(path)}\b.*", str(caught.value)), (path, value)


SETS = "data.train={a: a.tsv, b: b.tsv}"
SV = ("task=speaker-verification", "data.trials={dev: dev.trials}")


def test_several_corpora_by_name(tmp_path):
    recipe = write(tmp_path, MINIMAL)
    assert load_config(recipe).model_dump(mode="json")["data"]["train"] == "train.tsv", "one manifest stays a path"
    config = load_config(recipe, [SETS, "data.balance=[corpus, class]", "data.temperature=3"])
    assert by_name(config.data.train) == {"a": Path("a.tsv"), "b": Path("b.tsv")}
    assert by_name(config.data.dev) == {"": Path("dev.tsv")}
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.train={}"], r"data.train: input is not a valid path .*found {}"),
        (["data.train=3"], r"data.train: input is not a valid path"),
        (["data.train={a: 3}"], r"data.train.a: input is not a valid path"),
        (["data.train={a/b: a.tsv}"], r"data.train.a/b.*pattern"),
        (["data.train={a: x.tsv, b: x.tsv}"], r"data.train: x.tsv, x.tsv: one manifest stands under two names"),
        (["data.temperature=2"], r"data.temperature goes with data.balance, which is empty"),
        (["data.balance=[class, class]"], r"data.balance class, class: name each once"),
        (["data.balance=[speaker]"], r"data.balance.*'corpus' or 'class'"),
        ([SETS, "data.balance=[corpus]", "data.temperature=0.5"], r"data.temperature: .*greater than or equal to 1"),
        ([*SV, "data.sampling=speakers", "data.balance=[class]"], r"both share out over speakers; leave one out"),
        ([*SV, "data.dev={a: a.tsv, b: b.tsv}"], r"data.trials.dev: expected a, b, as data.dev has"),
        ([*SV, "data.trials.dev={a: t}"], r"data.trials.dev: expected one file, as data.dev has"),
        ([*SV, "data.eval={e: e.tsv}", "data.trials.e={a: t}"], r"data.trials.e: expected one file, as data.eval.e"),
    ],
)
def test_corpora_that_do_not_go_together(tmp_path, overrides, expected):
    with pytest.raises(InputError, match=expected) as caught:
        load_config(write(tmp_path, MINIMAL), overrides)
    assert "\n" not in str(caught.value)
