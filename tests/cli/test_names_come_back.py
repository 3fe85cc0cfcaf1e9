"""Any name that a manifest may hold goes through every verb and comes out as it was."""

import json
import random
import shutil
from dataclasses import astuple
from html import escape
from pathlib import Path

import numpy as np
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from corpus import MINUTE, ODD, settings, write_corpus, write_wavlm
from hybrid_pruning.data.manifest import TEXT_COLUMNS, UNKNOWN, Utterance, read_manifest, write_manifest
from hybrid_pruning.data.tables import read_rows, write_table
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.data.trials import Pairs, join_scores, join_systems, read_keys, read_pairs, read_trials
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.evaluation.fusion import fuse
from hybrid_pruning.files import find_danger, has_control_characters
from hybrid_pruning.scoring.trial_scores import read_enrolment, write_trials
from hybrid_pruning.tasks import Label
from world import hurry, run_main

TEXT = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
NAMES = st.sampled_from(ODD) | st.text(TEXT, min_size=1, max_size=12).filter(
    lambda name: not has_control_characters(name)
)
IDS = NAMES.filter(lambda name: find_danger(name) is None)


def is_file_name(name):
    return len(name.encode()) < 200 and not {*"/\\"} & {*name} and not name.startswith(".")


@st.composite
def speech(draw, clips=8):
    """Utterances of both labels, oddly named in every way."""
    ids = draw(st.lists(IDS, min_size=clips, max_size=clips, unique=True))
    utterances = []
    for index, name in enumerate(ids):
        known = {column: draw(NAMES) for column in TEXT_COLUMNS}
        label = (Label.BONAFIDE, Label.SPOOF)[index % 2]
        utterances.append(Utterance(name, Path("/x") / name, label, **known))
    return utterances


def values(utterances):
    return [tuple(map(str, astuple(utterance))) for utterance in utterances]


@limits(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(utterances=speech())
def test_names_come_back_from_every_table(tmp_path, utterances):
    manifest, scores, fused = tmp_path / "m.tsv", tmp_path / "s.tsv", tmp_path / "f.tsv"
    write_manifest(manifest, utterances)
    assert values(read_manifest(manifest)) == values(utterances)
    numbers = np.arange(len(utterances)) / 7
    write_table(scores, ("filename", "cm-score"), zip([u.utt_id for u in utterances], numbers.tolist(), strict=True))
    trials = join_scores(scores, read_keys(manifest, TRACK1, TEXT_COLUMNS), TRACK1)
    assert trials.names == [[utterance.utt_id for utterance in utterances]]
    assert trials.scores["cm-score"].tolist() == numbers.tolist()
    for column in TEXT_COLUMNS:
        assert trials.columns[column].tolist() == [getattr(utterance, column) for utterance in utterances]
    found = evaluate(scores, manifest, TRACK1, by=["codec", "speaker,gender"]).as_json()["by"]
    assert {row["codec"] for row in found["codec"]} <= {utterance.codec for utterance in utterances}
    fuse([scores], tmp_path / "fusion.json", keys=manifest)
    fuse([scores], fused, apply=tmp_path / "fusion.json")
    (again,) = join_systems([fused], TRACK1)
    assert again.names == trials.names
    pairs = Pairs(tmp_path, trials.names[0], trials.names[0][::-1])
    write_table(tmp_path / "k", ("enrol", "test", "label"), zip(pairs.enrol, pairs.test, "01010101", strict=True))
    write_trials(tmp_path / "t", pairs, numbers, {})
    assert astuple(read_pairs(tmp_path / "t"))[1:] == (pairs.enrol, pairs.test)
    assert read_trials(tmp_path / "t", tmp_path / "k", SV).scores["score"].tolist() == numbers.tolist()
    write_table(tmp_path / "e", ("speaker", "utt_id"), zip(pairs.enrol, pairs.test, strict=True))
    assert read_enrolment(tmp_path / "e").speakers == {a: [b] for a, b in zip(pairs.enrol, pairs.test, strict=True)}


def odd_corpus(folder, clips, names, seed):
    """Write a table of copies of clips whose ids, values, files and folder have odd names; return what it says."""
    pick = random.Random(seed)
    files = [name for name in names if is_file_name(name)]
    below = folder / pick.choice(files)
    below.mkdir(parents=True)
    rows = []
    for index, name in enumerate(name for name in names if find_danger(name) is None):
        label = (Label.BONAFIDE, Label.SPOOF)[index % 2]
        path = below / f"{pick.choice(files)}{index}.wav"
        shutil.copy(clips[index % len(clips)], path)
        known = {column: pick.choice(names) for column in TEXT_COLUMNS}
        rows.append(Utterance(name, path, label, **known | ({} if index % 2 else {"attack": UNKNOWN})))
    columns = ("utt_id", "path", "label", *TEXT_COLUMNS)
    cells = ((u.utt_id, u.path.relative_to(folder), u.label, *(getattr(u, c) for c in TEXT_COLUMNS)) for u in rows)
    write_table(folder / "table.tsv", columns, cells)
    return rows


def ids(path):
    return [row["filename"] for _, row in read_rows(path, ("filename", "cm-score"))]


def test_odd_names_go_through_every_verb(tmp_path, capsys, monkeypatch):
    """Prepare, train and score oddly named sets and all that follows, and compare what each verb writes."""
    hurry(monkeypatch, report=True)

    def say(*arguments):
        assert run_main([str(argument) for argument in arguments], tmp_path) == 0, arguments

    clips = [utterance.path for utterance in read_manifest(write_corpus(tmp_path / "clips", 12, seed=1))]
    name = random.Random(0).choice([name for name in ODD if is_file_name(name) and "=" not in name])
    said, manifests = {}, {part: tmp_path / "manifests" / part / "all.tsv" for part in ("train", "dev", "eval")}
    for part, manifest in manifests.items():
        said[part] = odd_corpus(tmp_path / part, clips, ODD, 0)
        say("prepare", "folder", "--root", f"{part}/table.tsv", "--out", f"manifests/{part}", "--workers", 1)
        written, expected = (
            [(u.utt_id, u.path.resolve(), *values([u])[0][2:-2]) for u in rows]
            for rows in (read_manifest(manifest), said[part])
        )
        assert written == expected
    changes = {"data.train": str(manifests["train"]), "data.dev": str(manifests["dev"]), "training.epochs": 4}
    changes |= {"pruning.use_pruning_loss": False, "pruning.sparsity_warmup_epochs": 0, "training.lr": 1e-2}
    changes |= {"backbone.source": str(write_wavlm(tmp_path / "wavlm")), "data.eval": {name: str(manifests["eval"])}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings(MINUTE, changes)))
    say("run", "recipe.yaml", "--out", "job")
    wanted = [utterance.utt_id for utterance in said["eval"]]
    assert ids(tmp_path / "job" / "scores" / f"{name}.tsv") == wanted
    evaluated = list(read_rows(tmp_path / "job" / "run" / "evaluation" / f"{name}.tsv", ("filename", "cm-label")))
    assert [row["attack"] for _, row in evaluated] == [utterance.attack for utterance in said["eval"]]
    say("score", "job/exported", manifests["eval"], "--out", f"{name}.tsv", "--workers", 0)
    by = [value for column in ("attack", "codec", "speaker,gender") for value in ("--by", column)]
    say("evaluate", f"./{name}.tsv", manifests["eval"], "--track1", *by, "--json", f"{name}.json")
    groups = json.loads((tmp_path / f"{name}.json").read_text())["by"]
    spoofs = [utterance for utterance in said["eval"] if utterance.label is Label.SPOOF]
    assert {row["attack"] for row in groups["attack"]} == {utterance.attack for utterance in spoofs}
    assert {(row["speaker"], row["gender"]) for row in groups["speaker x gender"]} <= {
        (utterance.speaker, utterance.gender) for utterance in said["eval"]
    }
    say("calibrate", "job/exported", f"./{name}.tsv", manifests["eval"], "--out", "calibrated")
    say("fuse", f"./{name}.tsv", "--keys", manifests["eval"], "--out", "fusion.json")
    say("fuse", f"./{name}.tsv", "--apply", "fusion.json", "--out", "fused.tsv")
    assert ids(tmp_path / "fused.tsv") == wanted
    say("card", "calibrated", "--evaluation", f"{name}={tmp_path / name}.json", "--name", "me/it")
    say("inspect", "calibrated")
    assert escape(name) in (tmp_path / "job" / "report.html").read_text()
    assert "internal error" not in capsys.readouterr().err
