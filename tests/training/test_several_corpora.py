"""A training on several corpora: names kept apart, each validated, resumed and exported as one on a single manifest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from corpus import configure, write_corpus, write_speaker_world
from hybrid_pruning.data.checks import TRAINED_ON
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file
from hybrid_pruning.models.card import describe_training
from hybrid_pruning.training.export import build_export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import Run
from hybrid_pruning.training.validation import measure_corpora
from runs import assert_same_run, final_state, read_log


def sets(recipe, more, key="train"):
    return {"own": recipe["data"][key], "more": str(more)}


def stop_early(run, copy):
    """Copy a run as if it had been stopped within its first epoch."""
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").glob("epoch-*.pt"):
        path.unlink()
    steps = sorted((copy / "checkpoints").glob("step-*.pt"))
    for path in steps[4:]:
        path.unlink()


def test_detection_from_two_corpora(recipe, tmp_path, capsys):
    train_more, dev_more = (write_corpus(tmp_path / name, 8, seed=seed) for name, seed in (("train", 5), ("dev", 6)))
    changes = {"data__train": sets(recipe, train_more), "data__dev": sets(recipe, dev_more, "dev")}
    balanced = {"data__balance": ["corpus", "class"], "data__temperature": 2}
    config = configure(recipe, **changes, **balanced, training__checkpoint_steps=1, training__keep_checkpoints=9)
    run = train(config, tmp_path / "run")

    (*_, last) = (record for record in read_log(run) if "dev" in record)
    rows = [row for _, row in read_rows(run / "dev_scores.tsv", ("filename",))]
    scores, bonafide = (
        np.array(values)
        for values in zip(*((float(r["cm-score"]), r["cm-label"] == "bonafide") for r in rows), strict=True)
    )
    assert rows[0]["filename"].startswith("own/")
    rates = measure_corpora(scores, bonafide, [row["filename"].partition("/")[0] for row in rows])
    assert last["dev_eer"] == rates
    assert set(rates) == {"own", "more"}
    assert last["dev"]["mean_eer"] == pytest.approx((rates["own"] + rates["more"]) / 2)
    assert (
        f"(more {rates['more']:.2%}, own {rates['own']:.2%}, mean {last['dev']['mean_eer']:.2%})"
        in capsys.readouterr().out
    )

    stop_early(run, tmp_path / "stopped")
    assert_same_run(train(config, tmp_path / "stopped", resume=True), run)
    model = build_export(run)
    assert model.provenance[TRAINED_ON] == {name: digest_file(path) for name, path in config.data.train.items()}
    assert dict(describe_training(model))["trained on"] == "train/manifest.tsv, train/manifest.tsv"
    assert model.classes.counts == (16, 16)

    assert {"data.train.own", "data.train.more", "data.dev.own", "data.dev.more"} == set(
        json.loads((run / "data.json").read_text())
    )
    stop_early(run, tmp_path / "other")
    train_more.write_text(train_more.read_text().replace("\tspoof\t", "\tbonafide\t", 1))
    with pytest.raises(InputError, match=r"train/manifest.tsv: data.train.more has changed since .*as many rows"):
        train(config, tmp_path / "other", resume=True)


def test_speakers_of_two_corpora(tmp_path):
    """Of the same names and files in both, which are other people there."""
    world, more = write_speaker_world(tmp_path / "own"), write_speaker_world(tmp_path / "more")
    parts = {key: {"own": world["data"][key], "more": more["data"][key]} for key in ("train", "dev")}
    trials = {"own": world["data"]["trials"]["dev"], "more": more["data"]["trials"]["dev"]}
    changes = {"data__train": parts["train"], "data__dev": parts["dev"], "data__trials": {"dev": trials}}
    config = configure(world, **changes, data__balance=["corpus"], pruning__use_pruning_loss=False, training__epochs=1)
    run = train(config, tmp_path / "run")
    assert final_state(run)["classes"] == [f"{corpus}/s{index}" for corpus in ("more", "own") for index in range(6)]
    (record,) = (record for record in read_log(run) if "dev" in record)
    assert set(record["dev_eer"]) == {"own", "more"}
    lines = (run / "dev_scores.tsv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(Path(path).read_text().splitlines()) for path in trials.values())
    assert lines[-1].startswith("more/d3-02\tmore/d3-03\t")
    Path(trials["more"]).write_text("1 d0-00 d0-01\n0 d0-00 x\n")
    with pytest.raises(InputError, match=r"more/dev.trials: 'x' is no utt_id of .*own/dev/manifest.tsv, .*more/dev/"):
        train(config, tmp_path / "again")
    assert not Run(tmp_path / "again").config.exists()
