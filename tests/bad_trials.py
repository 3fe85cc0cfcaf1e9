"""Speaker verification with every mistake: trials, enrolment, cohorts, embeddings, and models for another task."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bad_artifacts import cut, described, written
from bad_commands import typed
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.cohort import Cohort
from voices import EMBEDDING
from world import Case

SCORE = "score verifier voices/manifest.tsv --workers 0 --out new.tsv --trials voices/trials"
VERIFY = "verify voices/id00000/00.wav voices/id00000/01.wav --model verifier"
EVALUATE = "evaluate sv.tsv voices/trials --sv --bootstrap 40 --speakers voices/manifest.tsv"
COHORT = "verifier/cohort.safetensors"


def trials(text: str) -> partial[None]:
    return partial(written, "voices/trials", text)


def enrolled(text: str) -> partial[None]:
    return partial(written, "enrol", text)


def with_cohort(world: Path) -> None:
    """Give the model a cohort of three speakers."""
    vectors = np.eye(3, EMBEDDING, dtype=np.float32)
    cohort = Cohort(np.zeros(EMBEDDING, dtype=np.float32), vectors, 2, "train.tsv")
    cohort.write(world / "verifier")
    described(lambda about: about.update(cohort=cohort.to_json()), world, "verifier/config.json")


def with_damaged_cohort(world: Path) -> None:
    with_cohort(world)
    cut(COHORT, world)


def without_cohort_file(world: Path) -> None:
    with_cohort(world)
    (world / COHORT).unlink()


def with_cohort_of(world: Path, **changes: object) -> None:
    with_cohort(world)
    described(lambda about: about["cohort"].update(changes), world, "verifier/config.json")


def with_cohort_as_a_list(world: Path) -> None:
    with_cohort(world)
    described(lambda about: about.update(cohort=[1]), world, "verifier/config.json")


def with_cohort_not_finite(world: Path) -> None:
    with_cohort(world)
    vectors = np.full((3, EMBEDDING), np.nan, dtype=np.float32)
    save_file({"mean": vectors[0], "speakers": vectors}, world / COHORT)


def weighing_a_cohort(world: Path) -> None:
    """Calibrate by a cohort that is not there."""
    calibration = Calibration((Fit(1.0, 0.0, 0.5, "s", "k", "", 1, 1, {"impostor-mean-max": 1.0}),))
    described(lambda about: about.update(calibration=calibration.to_json()), world, "verifier/config.json")


def weighing_nonsense(world: Path) -> None:
    calibration = Calibration((Fit(1.0, 0.0, 0.5, "s", "k", "", 1, 1, {"mood": 1.0}),))
    described(lambda about: about.update(calibration=calibration.to_json()), world, "verifier/config.json")


def scored(world: Path, qualities: bool = False, inverted: bool = False) -> None:
    """Write scores of the trials, as they might be."""
    rows = ["enrol\ttest\tscore" + "\timpostor-mean-min" * qualities]
    for place, line in enumerate((world / "voices/trials").read_text().splitlines()):
        label, enrol, test = line.split()
        score = (0.5 - int(label) if inverted else int(label)) + 0.01 * (place % 15)
        rows.append(f"{enrol}\t{test}\t{score}" + f"\t{place % 3}.5" * qualities)
    (world / "sv.tsv").write_text("".join(f"{row}\n" for row in rows))


def scored_by_manifest(old: str, new: str, world: Path) -> None:
    """Have a speaker called otherwise in the manifest."""
    scored(world)
    manifest = world / "voices/manifest.tsv"
    manifest.write_text(manifest.read_text().replace(f"\t{old}\t", f"\t{new}\t"))


def scored_twice(world: Path) -> None:
    scored(world)
    (world / "cm.tsv").write_text("filename\tcm-score\nid00000/00\t1\n")


def scored_once(world: Path) -> None:
    scored(world)
    lines = (world / "sv.tsv").read_text().splitlines()
    (world / "sv.tsv").write_text("".join(f"{line}\n" for line in lines[:-1]))
    (world / "cm.tsv").write_text("filename\tcm-score\nid00000/00\t1\n")


def other_embeddings(world: Path) -> None:
    vectors = {"vectors": np.ones((1, EMBEDDING), dtype=np.float32), "seconds": np.ones(1)}
    about = {"format": "hybrid-pruning embeddings", "model": "another", "ids": ["x"], "paths": ["x"]}
    save_file(vectors, world / "e", {"about": json.dumps(about)})


TRIALS: dict[str, Case] = {
    "a verifier without trials": typed(
        SCORE.partition(" --trials")[0], "verifier: is for speaker verification; say with --trials which"
    ),
    "trials for a detector": typed(SCORE.replace("verifier", "model"), "is for anti-spoofing: it has no voices"),
    "a cohort for a detector": typed("cohort model dev/manifest.tsv --out new", "is for anti-spoofing"),
    "a detector that verifies": typed(VERIFY.replace("model verifier", "model model"), "is for anti-spoofing"),
    "a verifier that detects": typed(
        "detect dev/bonafide-00.flac --model verifier --workers 0", "verifier: is for speaker verification"
    ),
    "enrolment without trials": typed(
        f"{SCORE.partition(' --trials')[0]} --enrol voices/trials", "--enrol goes with --trials"
    ),
    "top-n without a cohort": typed(f"{SCORE} --top-n 3", "--top-n goes with --cohort"),
    "no AS-norm without a cohort": typed(f"{SCORE} --no-norm", "there is no AS-norm to leave out"),
    "a top-n of one": typed(f"{SCORE} --cohort voices/manifest.tsv --top-n 1", "--top-n.*greater than or equal to 2"),
    "trials that are not there": typed(SCORE.replace("voices/trials", "nowhere"), "nowhere: cannot be read"),
    "a folder for trials": typed(SCORE.replace("voices/trials", "voices"), "voices: cannot be read"),
    "audio for trials": typed(SCORE.replace("voices/trials", "dev/bonafide-00.flac"), "is not UTF-8 text"),
    "empty trials": Case(trials(""), SCORE, "voices/trials:1: 0 columns, expected a header"),
    "trials with a header alone": Case(trials("enrol\ttest\tlabel\n"), SCORE, "voices/trials: no trials"),
    "trials of one column": Case(trials("id00000/00\n"), SCORE, "voices/trials:1: 1 columns"),
    "a trial with a column too few": Case(
        trials("1 id00000/00 id00000/01\n1 id00000/00\n"), SCORE, "voices/trials:2: 2 columns, expected 3"
    ),
    "trials of another set": Case(
        trials("1 id00000/00 x\n0 y id00001/00\n1 id00000/00 z\n"),
        SCORE,
        "voices/trials: 1 of 3 trials name what is not in voices/manifest.tsv, first 'y'",
    ),
    "no enrolment": typed(f"{SCORE} --enrol nowhere", "nowhere: cannot be read"),
    "an enrolment of nobody": Case(enrolled(""), f"{SCORE} --enrol enrol", "enrol: nobody is enrolled"),
    "a speaker without recordings": Case(enrolled("A\n"), f"{SCORE} --enrol enrol", "enrol:1: speaker 'A' has no rec"),
    "a speaker enrolled twice": Case(
        enrolled("A id00000/00\nA id00000/01\n"), f"{SCORE} --enrol enrol", "enrol:2: speaker 'A' stands twice"
    ),
    "speakers that are not enrolled": Case(
        enrolled("A id00000/00\n"),
        f"{SCORE} --enrol enrol",
        "16 of 16 trials name what is not in enrol, first 'id00000",
    ),
    "a cohort smaller than top-n": typed(
        f"{SCORE} --cohort voices/manifest.tsv", "voices/manifest.tsv: top-n 300, but this cohort has 3 speakers"
    ),
    "a cohort smaller than top-n, to be kept": typed(
        "cohort verifier voices/manifest.tsv --workers 0 --out new", "top-n 300, but this cohort has 3 speakers"
    ),
    "a cohort without speakers": typed(
        f"{SCORE} --cohort dev/manifest.tsv --top-n 2", "dev/manifest.tsv: top-n 2, but this cohort has 1 speakers"
    ),
    "a cohort with an unknown speaker": Case(
        partial(scored_by_manifest, "id00001", "-"),
        f"{SCORE} --cohort voices/manifest.tsv --top-n 2",
        "'id00001/00' has no speaker; a cohort needs",
    ),
    "a cohort for no folder": typed("cohort no/where voices/manifest.tsv", "no/where: is no folder here; say with"),
    "half a cohort": Case(with_damaged_cohort, SCORE, f"{COHORT}: cannot be read"),
    "a cohort that is gone": Case(without_cohort_file, SCORE, f"{COHORT}: cannot be read"),
    "a cohort of another size": Case(
        partial(with_cohort_of, speakers=4), SCORE, f"{COHORT}: does not belong to config.json"
    ),
    "a cohort of no size": Case(
        partial(with_cohort_of, speakers="many"), SCORE, f"{COHORT}: does not belong to config.json"
    ),
    "a cohort with too large a top-n": Case(partial(with_cohort_of, top_n=4), SCORE, "top-n 4, but this cohort has 3"),
    "a cohort that is not finite": Case(with_cohort_not_finite, SCORE, f"{COHORT}: does not belong to config.json"),
    "a cohort that is described by a list": Case(
        with_cohort_as_a_list,
        SCORE,
        f"{COHORT}: does not belong to config.json",
    ),
    "a calibration by a cohort that is not there": Case(
        weighing_a_cohort, SCORE, "calibrated by how close its cohort comes, but has none"
    ),
    "a calibration by what is no quality": Case(
        weighing_nonsense, SCORE, "config.json: calibration cannot be understood .*'mood' is unknown"
    ),
    "text for embeddings": Case(
        partial(written, "e", "text"), f"{SCORE} --embeddings e", "e: holds no embeddings of ours"
    ),
    "embeddings of another model": Case(
        other_embeddings, f"{SCORE} --embeddings e", "e: holds embeddings of another model"
    ),
    "calibrate a verifier on scores turned around": Case(
        partial(scored, inverted=True), "calibrate verifier sv.tsv voices/trials", "sv.tsv: lower scores speak for tar"
    ),
    "calibrate a verifier on a detector's scores": typed(
        "calibrate verifier scores.tsv dev/manifest.tsv", "dev/manifest.tsv:1: column|columns, expected a header"
    ),
    "calibrate a verifier on another's cohort": Case(
        partial(scored, qualities=True), "calibrate verifier sv.tsv voices/trials", "sv.tsv: was made with a cohort"
    ),
    "verify nothing": typed("verify nowhere.wav voices/id00000/01.wav --model verifier", "nowhere.wav: "),
    "verify text": Case(
        partial(written, "a.wav", "text"), "verify a.wav voices/id00000/01.wav --model verifier", "a.wav: cannot be dec"
    ),
    "verify one recording": typed("verify a.wav --model verifier", "Missing argument '(?i:enrol)"),
    "no verdict to fail on": typed(
        f"{VERIFY} --fail-on-different", "verifier: is not calibrated, and without --thresh"
    ),
    "a manifest of other speakers": Case(
        partial(scored_by_manifest, "id00001", "id00000"), EVALUATE, "voices/manifest.tsv: '.*' is of .* in the keys"
    ),
    "a manifest without a speaker": Case(
        partial(scored_by_manifest, "id00001", "-"), EVALUATE, "tells no speaker of 'id00001/00.wav', which is in"
    ),
    "speakers that are not resampled": Case(
        scored, EVALUATE.replace("--bootstrap 40 ", ""), "--speakers goes with --sv and --bootstrap"
    ),
    "a tandem of one": Case(scored, "fuse sv.tsv --sasv --out new.tsv", "--sasv takes two files"),
    "a tandem that is fitted": Case(
        scored_once, "fuse sv.tsv cm.tsv --sasv --keys voices/trials --out new.tsv", "--sasv takes two files.*neither"
    ),
    "a tandem with a trial twice": Case(
        scored_twice, "fuse sv.tsv cm.tsv --sasv --out new.tsv", "sv.tsv: 'id00002/00.wav id00002/01.wav' stands twice"
    ),
    "a tandem without all cm-scores": Case(
        scored_once,
        "fuse sv.tsv cm.tsv --sasv --out new.tsv",
        r"sv.tsv: 'id00000/01.wav' has no cm-score in cm.tsv \(and 4 more rec",
    ),
    "a tandem the other way round": Case(
        scored_once,
        "fuse cm.tsv sv.tsv --sasv --out new.tsv",
        "cm.tsv:1: .* in none of the forms",
    ),
    "a verifier's task unknown": Case(
        partial(described, lambda about: about.update(task="singing"), name="verifier/config.json"),
        SCORE,
        "verifier/config.json: cannot be understood",
    ),
}
