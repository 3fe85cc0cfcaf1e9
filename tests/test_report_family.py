"""The table of a run's family: its members with their sizes, and the errors on whatever they were scored on."""

import json
from pathlib import Path

from hybrid_pruning.reporting import write_report
from hybrid_pruning.reporting.family import describe_families
from hybrid_pruning.reporting.remaining import find_remaining
from hybrid_pruning.reporting.run_files import read_runs
from runs_to_look_at import EPOCHS, write_run, write_scores

SIZES = {"sparsity": 0.25, "macs_sparsity": 0.125}


def write_family(folder: Path, epochs: int = EPOCHS) -> Path:
    """Write a run that has left one snapshot, and whose last validation tells of its size."""
    run = write_run(folder, epochs, pruning__export_at=[0.25])
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "snapshot": {"name": "hp25", "target": 0.25, "eer": 0.2, **SIZES}}) + "\n")
        dev = {"eer": 0.3, "sparsity": 0.4, "macs_sparsity": 0.5}
        log.write(json.dumps({"step": 40, "epoch": epochs, "dev": dev}) + "\n")
    write_scores(run / "evaluation" / "hp25" / "strangers.tsv", labels=True)
    return run


def table(*folders: Path) -> list[tuple[int, list[str], dict[str, list[str]]]]:
    runs = read_runs(folders)
    found = describe_families(runs, [find_remaining(run) for run in runs])
    rows = ({row.title: [cell.value for cell in row.cells] for row in family.rows} for family in found)
    return [(family.run, list(family.sets), cells) for family, cells in zip(found, rows, strict=True)]


def test_members_stand_beside_each_other(tmp_path: Path):
    dense, run = write_run(tmp_path / "dense", pruned=False), write_family(tmp_path / "family")
    [(index, sets, rows)] = table(dense, run)
    assert (index, sets) == (1, ["dev", "strangers"])
    assert list(rows) == ["hp25", "hp40"]
    (params, *sizes, dev, strangers), last = rows["hp25"], rows["hp40"]
    assert (sizes, dev) == (["25.0", "12.5"], "20.00")
    assert params.endswith("k")
    assert 0 < float(strangers) < 50
    assert last[1:] == ["40.0", "50.0", "30.00", "–"]


def test_a_run_that_goes_on_has_its_snapshots_alone(tmp_path: Path):
    [(_, _, rows)] = table(write_family(tmp_path / "run", epochs=2))
    assert list(rows) == ["hp25"]


def test_damaged_scores_of_a_member_are_left_out(tmp_path: Path):
    run = write_family(tmp_path / "run")
    (run / "evaluation" / "hp25" / "strangers.tsv").write_text("filename\tcm-score\n")
    [(_, sets, _)] = table(run)
    assert sets == ["dev"]


def test_the_page_shows_it(tmp_path: Path):
    page = write_report([write_family(tmp_path / "run")], tmp_path / "page.html", rounds=0).read_text()
    assert "models of one training" in page
    assert '<th scope="row">hp25</th>' in page
    assert "EER on strangers, %" in page
    alone = write_report([write_run(tmp_path / "alone")], tmp_path / "alone.html", rounds=0).read_text()
    assert "models of one training" not in alone
