import re

import pytest
import torch

from encoders import TINY, close, make_config, shuffle
from hybrid_pruning import SpeechModel, inspect_model, pruning
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.models.backbone import skeleton
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.reporting import inspection

HEAD = HeadConfig(heads=2, compression=4, embedding=8)
CLASSES = Classes(("spoof", "bonafide"), (2580, 420))
RECIPE = {
    "seed": 7,
    "backbone": {"source": "a [bracketed] folder", "random": True},
    "pruning": {"use_pruning_loss": True, "target_sparsity": 0.5, "constraint": "params"},
}


def tiny():
    torch.manual_seed(0)
    return skeleton(make_config("wavlm", "base"), False).eval()


def pruned(*closed):
    backbone = tiny()
    gates = pruning.attach(backbone)
    shuffle(gates, seed=0)
    for unit in ("attlayer", "ffnlayer"):
        for index in range(TINY["num_hidden_layers"]):
            gates[f"{unit}.{index}"].log_alpha.data.fill_(20.0)
    close(gates, *closed)
    small = pruning.shrink(backbone, gates, gates.kept())
    return SpeechModel.build(small, HEAD, CLASSES, provenance={"recipe": RECIPE, "averaged_checkpoints": 2})


def rows(text, title):
    """The lines below the header that begins with `title`, up to the next empty one."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(index for index, line in enumerate(lines) if line.startswith(title))
    return lines[start + 1 : lines.index("", start)]


def test_heat_map(capsys, tmp_path):
    pruned("attlayer.0", "ffnlayer.1", "head.2", "interm.2").save_pretrained(tmp_path)
    found = inspect_model(tmp_path)
    inspection.print_inspection(found)
    text = capsys.readouterr().out
    assert max(map(len, rows(text, "conv") + rows(text, "layer"))) <= 80
    kept = found.units.kept
    for index, row in enumerate(rows(text, "conv")):
        assert re.match(rf"{index} +{kept[f'conv.{index}']}/{TINY['conv_dim'][index]} ", row)
    first, second, third = rows(text, "layer")
    assert re.search(rf"0 +- +closed +{kept['interm.0']}/48 .+ open", first)
    assert re.search(rf"1 +{kept['head.1']}/4 .+ open +- +closed", second)
    assert re.search(r"2 +0/4 .+ bias only +0/48 .+ bias only", third)
    assert "spoof (2580), bonafide (420)" in text
    assert "random weights in the shape of a [bracketed] folder; target: 0.5 of the params removed; seed 7" in text


def test_size_table(capsys):
    model = pruned()
    budget = count_kept(model.backbone).budget
    inspection.print_inspection(inspect_model(model))
    params, macs, head = rows(capsys.readouterr().out, "now")
    assert params.endswith(f"{budget.sparsity:.1%}")
    assert macs.endswith(f"{budget.macs_sparsity:.1%}")
    assert f"{budget.params / 1e3:.2f} k" in params
    assert "head parameters" in head


def test_dense(capsys):
    inspection.print_inspection(inspect_model(SpeechModel.build(tiny(), HEAD, CLASSES)))
    text = capsys.readouterr().out
    assert "state   dense: everything is kept" in text
    assert "not recorded" in text
    assert not re.search("[░.]{2}|closed|bias only", text)
    assert text.count(" 0.0%") == 2


def test_the_weights_of_the_hidden_states_are_shown_with_sublayers_that_are_gone(capsys):
    model = pruned("attlayer.0", "interm.2")
    model.head.key_mix.data = torch.tensor([0.0, 1.0, 2.0, 3.0]).log1p()
    found = inspect_model(model)
    inspection.print_inspection(found)
    lines = rows(capsys.readouterr().out, "hidden state")
    assert [line.split()[1] for line in lines] == ["10.0%", "20.0%", "30.0%", "40.0%"]
    assert all("25.0%" in line for line in lines), "the values' weights are as they began"
    assert [line.partition("attention")[1] or line.partition("FFN")[1] for line in lines] == [
        "",
        "attention",
        "",
        "FFN",
    ]
    table = found.as_json()["hidden_states"]
    assert table[1] == {"keys": pytest.approx(0.2), "values": 0.25, "without_units": ["attlayer"]}
    assert table[3]["without_units"] == ["ffnlayer"]
    statistics = SpeechModel.build(tiny(), HeadConfig(kind="statistics", embedding=8), CLASSES)
    assert inspect_model(statistics).mixtures == {"mixture": [0.25] * 4}


@pytest.mark.parametrize("recipe", [None, "text", {}, {"pruning": None, "backbone": []}], ids=str)
def test_provenance_is_free_form(recipe):
    assert inspection._origin({"recipe": recipe})


def test_bar_is_full_or_empty_only_at_the_ends():
    bars = ["".join(text for text, _ in inspection.share_bar(share)) for share in (0.0, 0.001, 0.5, 0.999, 1.0)]
    assert [bar.count("█") for bar in bars] == [0, 1, 5, 9, 10]
    assert {len(bar) for bar in bars} == {10}
