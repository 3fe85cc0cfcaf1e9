"""The cells of a grid: their names, recipes and options; axes that do not go together."""

import pytest

from corpus import MINUTE, configure, settings
from hybrid_pruning.config import expand_stages
from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.grid import Axes, choose, lay_out, parse_axes
from world import STAGES

MANIFESTS = {"data.train": "train.tsv", "data.dev": "dev.tsv", "backbone.source": "wavlm"}
DENSE = {"pruning": {"use_pruning_loss": False}}
THREE = {"first": DENSE, "joint": {"training": {"epochs": 1}}, "large": DENSE}


def recipe(**changes):
    return configure(settings(MINUTE, MANIFESTS), **changes)


def grid(config, sparsities="0,0.5", methods=(), seeds=(), vary=()):
    return lay_out(config, parse_axes(sparsities, methods, seeds, vary))


def names(cells):
    return [cell.name for cell in cells]


def prunings(config):
    trainings = list(expand_stages(config).values()) or [config]
    return [(one.pruning.use_pruning_loss, one.pruning.target_sparsity) for one in trainings]


def test_sparsities_are_sorted_and_checked():
    for values in ("0.7,0, 0.5", [0.7, 0, 0.5]):
        assert parse_axes(values, (), (), ()) == Axes((0.0, 0.5, 0.7))
    assert names(grid(recipe(), "0.5,0,0.725")) == ["dense", "hp50", "hp72.5"]
    for values in ("", "half", "0,,0.5", "1", "50", "-0.1", "nan", "0.5,0.50", [], [1.0], [0, 0]):
        with pytest.raises(InputError, match="--sparsity"):
            parse_axes(values, (), (), ())


def test_axes_that_are_no_axes_are_refused():
    for wrong, why in {
        ("seeds", "one"): "--seed: 'one', expected whole numbers",
        ("seeds", "1,2,1"): "--seed: 1 stands twice",
        ("methods", ""): "--method: '', expected values of pruning.method",
        ("vary", ("training.lr",)): "--vary training.lr: expected KEY=A,B",
        ("vary", ("training.lr=",)): "expected KEY=A,B",
        ("vary", ("training.lr=[1,2",)): "expected KEY=A,B",
        ("vary", ("training.lr=0.1,0.1",)): "--vary training.lr: 0.1 stands twice",
        ("vary", ("training.lr=1", "training.lr=2")): "--vary training.lr stands twice",
        ("vary", ("seed=1,2",)): "--vary seed: has an option of its own, --seed",
        ("vary", ("pruning.target_sparsity=0.1",)): "has an option of its own, --sparsity",
        ("vary", ("training.lrr=1,2",)): "cell dense-lrr-1: key 'training.lrr' is unknown; did you mean 'lr'",
        ("vary", ("stages.heal.seed=1,2",)): "there is no stage 'heal'",
        ("vary", ("backbone.source=a/b,a-b",)): "dense-source-a-b would be two cells",
        ("methods", "joint,../x"): "cell ../x-hp50: pruning.method: input should be 'joint'",
        ("seeds", "-1"): "cell dense-s-1: seed: input should be greater",
    }.items():
        axis, values = wrong
        with pytest.raises(InputError, match=why):
            grid(recipe(), **{axis: values})


def test_a_grid_is_a_cell_for_each_combination_and_one_dense_for_each_seed():
    cells = grid(recipe(), "0,0.5,0.7", seeds=[1, 2], vary=["pruning.constraint=params,macs", "training.lr=1e-3,2e-3"])
    assert len(cells) == 2 * 2 * (1 + 2 * 2)
    assert names(cells)[:4] == [
        "dense-lr-1e-3-s1",
        "hp50-constraint-params-lr-1e-3-s1",
        "hp70-constraint-params-lr-1e-3-s1",
        "dense-lr-2e-3-s1",
    ]
    for cell in cells:
        assert cell.config.seed == int(cell.name[-1])
        assert cell.config.training.lr == (1e-3 if "1e-3" in cell.name else 2e-3)
        assert cell.config.pruning.use_pruning_loss == ("dense" not in cell.name)
        if cell.target:
            assert cell.config.pruning.constraint in cell.name
            assert cell.dense == f"dense-lr-{cell.values['training.lr']}-s{cell.config.seed}"
            assert cell.group == cell.name[:-3]
            assert cell.line == f"constraint-{cell.values['pruning.constraint']}-lr-{cell.values['training.lr']}"
    methods = grid(recipe(stages=THREE), "0,0.5", methods="joint,taylor", seeds="1,2")
    assert names(methods)[:4] == ["dense-s1", "joint-hp50-s1", "taylor-hp50-s1", "dense-s2"]
    for cell in methods:
        first, joint, _ = expand_stages(cell.config).values()
        assert (first.pruning.method, joint.pruning.method) == ("joint", cell.values.get("method", "joint"))
        assert (cell.line, cell.dense) == (cell.values.get("method", ""), f"dense-s{cell.config.seed}")
    assert grid(recipe(), "0.5", seeds="3")[0].name == "hp50-s3", "an axis of one value is one"


def test_the_options_of_a_cell_give_that_cell_alone():
    vary = ("distillation=null,{teacher: runs/a b, layers: [1, 2]}", "pruning.units=[conv],[head, interm]")
    for cell in grid(recipe(), "0,0.5", ["random", "small"], "1,2", vary):
        asked = {option: [] for option in ("--sparsity", "--method", "--seed", "--vary")}
        for option, value in zip(cell.options[::2], cell.options[1::2], strict=True):
            asked[option].append(value)
        sparsity, methods, seeds, varied = asked.values()
        assert grid(recipe(), sparsity, methods, seeds, varied) == [cell]


def test_values_of_pruning_count_where_a_stage_prunes():
    for prunes in (True, False):
        config = recipe(pruning__use_pruning_loss=prunes)
        assert [prunings(cell.config) for cell in grid(config, "0,0.7")] == [[(False, 0.4)], [(True, 0.7)]]
    config = recipe(stages=THREE)
    dense, cell = grid(config, "0,0.7", vary=["pruning.constraint=macs"])
    assert [on for on, _ in prunings(dense.config)] == [False] * 3
    assert prunings(cell.config) == [(False, 0.4), (True, 0.7), (False, 0.4)]
    stages = expand_stages(cell.config)
    assert [stage.pruning.constraint for stage in stages.values()] == ["params", "macs", "params"]
    assert stages["joint"].training.epochs == 1
    with pytest.raises(InputError, match="none of the stages head, large prunes"):
        grid(recipe(stages={"head": STAGES["head"], "large": DENSE}))


def test_values_that_every_stage_overrules_are_refused():
    stages = {name: {**stage, "training": {"epochs": 1, "lr": 1e-3}} for name, stage in THREE.items()}
    with pytest.raises(InputError, match=r"hp50-lr-0\.1 and hp50-lr-0\.2 have the same recipe"):
        grid(recipe(stages=stages), "0.5", vary=["training.lr=0.1,0.2"])
    assert len(grid(recipe(stages=stages), "0.5", vary=["stages.joint.training.lr=0.1,0.2"])) == 2


def test_cells_are_chosen_by_their_names():
    cells = grid(recipe(), "0,0.5", seeds="1,2")
    assert names(choose(cells, ())) == names(cells)
    assert names(choose(cells, "*-s2")) == ["dense-s2", "hp50-s2"]
    assert names(choose(cells, "hp50-s1, dense-s?")) == ["dense-s1", "hp50-s1", "dense-s2"]
    with pytest.raises(InputError, match="--only hp70-s1: no cell has that name; there are dense-s1, hp50-s1,"):
        choose(cells, "hp50-s1,hp70-s1")
    with pytest.raises(InputError, match="--only : no cell"):
        choose(cells, "")
