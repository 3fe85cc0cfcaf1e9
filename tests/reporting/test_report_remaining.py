"""The units that the report counts are those that an export keeps."""

from pathlib import Path

import pytest

from corpus import configure, write_world
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.reporting.run_files import count_model, read_runs
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train


@pytest.mark.parametrize("constraint", ["params", "macs"])
def test_the_report_counts_the_units_of_an_export(constraint: str, tmp_path: Path) -> None:
    target = {"params": 0.4, "macs": 0.2}[constraint]
    config = configure(
        write_world(tmp_path),
        pruning__constraint=constraint,
        pruning__target_sparsity=target,
        pruning__initial_reg_lr=0.5,
    )
    train(config, tmp_path / "run")
    model = export(tmp_path / "run", tmp_path / "model")
    (run,) = read_runs([tmp_path / "run"])
    size = count_model(run)
    assert not isinstance(size, str), size
    assert dict(size.units.kept) == dict(count_kept(model.backbone).kept)
    assert size.budget == count_kept(model.backbone).budget
    parts = model.head, model.classifier
    assert size.head_params == sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert not run.missing
    assert run.is_finished
