"""A command killed at any of its writes completes when it is called again, with the result of one left alone."""

import random
from functools import partial

import pytest
import yaml

from corpus import (
    configure,
    describe_asvspoof5,
    describe_voxceleb,
    settings,
    write_asvspoof5,
    write_voxceleb,
    write_wavlm,
)
from foreign_files import write_whole
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.files import UNFINISHED
from kills import kill_and_complete, kill_until_complete
from runs import another
from world import STAGES, copy_world

COMMANDS = {
    "train": "train recipe.yaml --out new",
    "export": "export run --out new",
    "onnx": "export model --out new --onnx",
    "onnx beside": "export model --out model --onnx --int8",
    "openvino": "export model --out new --openvino",
    "transformers": "convert model --to transformers --out new",
    "calibrate": "calibrate model good.tsv dev/manifest.tsv --out new",
    "calibrate in place": "calibrate model good.tsv dev/manifest.tsv",
    "score": "score model dev/manifest.tsv --out new.tsv --batch-size 3",
    "cohort": "cohort verifier speakers/manifest.tsv --top-n 2 --out new",
    "cohort in place": "cohort verifier speakers/manifest.tsv --top-n 2",
    "embed": "embed model dev/manifest.tsv --out new.npz --batch-size 3 --picture new.png",
    "evaluate": "evaluate scores.tsv dev/manifest.tsv --track1 --json new.json --det new.png",
    "fuse": "fuse good.tsv --keys dev/manifest.tsv --out new.json",
    "card": "card model --evaluation table.json",
    "report": "report run --out new.html --bootstrap 0",
    "inspect": "inspect model --out new.svg",
    "audit": "audit dev/manifest.tsv --workers 0",
    "prepare": "prepare folder --root dev/manifest.tsv --out new",
}


def some(total):
    """In the first writes, in the middle of one, and when all but the clean-up is done."""
    return [(3, False), (total // 2, True), (total - 2, False)]


def every(total):
    return [(point, half) for point in range(1, total + 1) for half in (False, True)]


def copy(pristine, folder):
    """Copy the world, and write scores that separate its recordings, but for one."""
    copy_world(pristine, folder)
    names = [utterance.utt_id for utterance in read_manifest(folder / "dev" / "manifest.tsv")]
    rows = (
        f"{name}\t{name.startswith('bona') - (name == names[0]) + place / 10}\n" for place, name in enumerate(names)
    )
    (folder / "good.tsv").write_text("filename\tcm-score\n" + "".join(rows))


def job(folder, **changes):
    write_asvspoof5(folder / "corpus", clips=8)
    write_wavlm(folder / "wavlm")
    config = configure(describe_asvspoof5(folder), **{"training__epochs": 1, **changes})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))


def verification(folder):
    write_voxceleb(folder / "corpus")
    write_wavlm(folder / "wavlm")
    recipe = settings(describe_voxceleb(folder), {"stages": STAGES})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def family(folder):
    snapshot = {"pruning__export_at": [0.2], "pruning__export_hold_epochs": 0.0, "pruning__sparsity_warmup_epochs": 4}
    job(folder, **snapshot, training__epochs=4)


@pytest.mark.parametrize("name", ["export", "cohort in place"])
def test_a_killed_command_completes(name, pristine, tmp_path):
    kill_and_complete(partial(copy, pristine), tmp_path / "here", COMMANDS[name], some)


def test_a_second_process_in_a_folder_is_refused(cli, world):
    commands = {
        "train recipe.yaml --out new": "new",
        "run recipe.yaml --out new": "new",
        "sweep recipe.yaml --sparsity 0.5 --out new": "new/hp50",
        "train recipe.yaml --set training.epochs=1 --out run --resume": "run",
        "quickstart --out quick": "quick",
        "score model dev/manifest.tsv --out new.tsv": "new.tsv.partial",
        "export run --out model2": f"model2/{UNFINISHED}",
    }
    held = ", ".join(f"hold({folder!r})" for folder in dict.fromkeys(commands.values()))
    with another(f"with {held}:", world) as process:
        for typed, folder in commands.items():
            found = cli(*typed.split())
            holder = f"{folder}: is in use by process {process.pid} on "
            assert (found.code, holder in found.err, found.err.count("\n")) == (2, True, 1), (typed, found)
    assert cli(*["export", "run", "--out", "model2"]).code == 0


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_completes_wherever_it_was_killed(name, pristine, tmp_path):
    print(name, kill_and_complete(partial(copy, pristine), tmp_path / "here", COMMANDS[name], every))


@pytest.mark.soak
@pytest.mark.timeout(14400)
@pytest.mark.parametrize(
    ("make", "command"),
    [(verification, "prepare voxceleb --root corpus --out new"), (write_whole, "convert . --out new")],
)
def test_outputs_made_of_other_files_too(make, command, tmp_path):
    print(command, kill_and_complete(make, tmp_path / "here", command, every))


@pytest.mark.soak
@pytest.mark.timeout(14400)
@pytest.mark.parametrize(
    ("make", "command"),
    [
        (family, "run recipe.yaml --out out"),
        (verification, "run recipe.yaml --out out"),
        (partial(job, stages=STAGES), "sweep recipe.yaml --sparsity 0,0.5 --out out"),
    ],
)
def test_a_job_completes_after_many_kills(make, command, tmp_path):
    for seed in range(10):
        print(command, seed, kill_until_complete(make, tmp_path / "here", command, random.Random(seed), 80))
