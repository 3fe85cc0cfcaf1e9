"""Speaker verification with every mistake: trials, enrolment, cohorts, embeddings, and models for another task."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from damage import changed, cut, described, written
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.cohort import Cohort
from speakers import EMBEDDING
from world import Case

ALONE = "score verifier speakers/manifest.tsv --workers 0 --out new.tsv"
SCORE = f"{ALONE} --trials speakers/trials"
ENROL = f"{SCORE} --enrol enrol"
VERIFY = "verify speakers/id00000/00.wav speakers/id00000/01.wav --model verifier"
SPEAKERS = "--speakers speakers/manifest.tsv"
EVALUATE = f"evaluate sv.tsv speakers/trials --sv --bootstrap 40 {SPEAKERS}"
CALIBRATE = "calibrate verifier sv.tsv speakers/trials"
TANDEM = "fuse sv.tsv cm.tsv --sasv --out new.tsv"
COHORT = "verifier/cohort.safetensors"

Damage = Callable[[Path], object]


def verifier(**changes: Any) -> Damage:
    """Change the model's description."""
    return lambda world: described(lambda about: about.update(changes), world, "verifier/config.json")


def cohort(damage: Damage = lambda _: None, **changes: Any) -> Damage:
    """Give the model a cohort of three speakers, then change its description, or damage it."""

    def write(world: Path) -> None:
        vectors = np.eye(3, EMBEDDING, dtype=np.float32)
        cohort = Cohort(np.zeros(EMBEDDING, dtype=np.float32), vectors, 2, "train.tsv")
        cohort.write(world / "verifier")
        verifier(cohort=cohort.to_json() | changes)(world)
        damage(world)

    return write


def without_numbers(world: Path) -> None:
    vectors = np.full((3, EMBEDDING), np.nan, dtype=np.float32)
    save_file({"mean": vectors[0], "speakers": vectors}, world / COHORT)


def weighing(quality: str) -> Damage:
    return verifier(calibration=Calibration((Fit(1.0, 0.0, 0.5, "s", "k", "", 1, 1, {quality: 1.0}),)).to_json())


def scored(qualities: bool = False, inverted: bool = False, rows: int | None = None) -> Damage:
    """Write scores of the trials, as they might be, and one of a countermeasure."""

    def write(world: Path) -> None:
        lines = ["enrol\ttest\tscore" + "\timpostor-mean-min" * qualities]
        for place, line in enumerate((world / "speakers/trials").read_text().splitlines()[:rows]):
            label, enrol, test = line.split()
            score = (0.5 - int(label) if inverted else int(label)) + 0.01 * (place % 15)
            lines.append(f"{enrol}\t{test}\t{score}" + f"\t{place % 3}.5" * qualities)
        (world / "sv.tsv").write_text("".join(f"{line}\n" for line in lines))
        (world / "cm.tsv").write_text("filename\tcm-score\nid00000/00\t1\n")

    return write


def renamed(new: str) -> Damage:
    """Have a speaker called otherwise in the manifest."""

    def write(world: Path) -> None:
        scored()(world)
        changed("speakers/manifest.tsv", lambda text: text.replace("\tid00001\t", f"\t{new}\t"), world)

    return write


def other_embeddings(world: Path) -> None:
    vectors = {"vectors": np.ones((1, EMBEDDING), dtype=np.float32), "seconds": np.ones(1)}
    about = {"format": "hybrid-pruning embeddings", "model": "another", "ids": ["x"], "paths": ["x"]}
    save_file(vectors, world / "e", {"about": json.dumps(about)})


TRIALS: dict[str, Case] = {
    "empty trials": Case(
        partial(written, "speakers/trials", ""), SCORE, "speakers/trials:1: 0 columns, expected a header"
    ),
    "a trial with a column too few": Case(
        partial(written, "speakers/trials", "1 id00000/00 id00000/01\n1 id00000/00\n"),
        SCORE,
        "speakers/trials:2: 2 columns",
    ),
    "a speaker without recordings": Case(partial(written, "enrol", "A\n"), ENROL, "enrol:1: speaker 'A' has no rec"),
    "speakers that are not enrolled": Case(
        partial(written, "enrol", "A id00000/00\n"), ENROL, "16 of 16 trials name what is not in enrol, first 'id00000"
    ),
    "a cohort with an unknown speaker": Case(
        renamed("-"), f"{SCORE} --cohort speakers/manifest.tsv --top-n 2", "'id00001/00' has no speaker; a cohort needs"
    ),
    "half a cohort": Case(cohort(partial(cut, COHORT)), SCORE, f"{COHORT}: cannot be read"),
    "a cohort that is gone": Case(cohort(lambda world: (world / COHORT).unlink()), SCORE, f"{COHORT}: cannot be read"),
    "a cohort of another size": Case(cohort(speakers=4), SCORE, f"{COHORT}: does not belong to config.json"),
    "a cohort of no size": Case(cohort(speakers="many"), SCORE, f"{COHORT}: does not belong to config.json"),
    "a cohort with too large a top-n": Case(cohort(top_n=4), SCORE, "top-n 4, but this cohort has 3"),
    "a cohort that is not finite": Case(cohort(without_numbers), SCORE, f"{COHORT}: does not belong to config.json"),
    "a cohort that is described by a list": Case(
        cohort(verifier(cohort=[1])), SCORE, f"{COHORT}: does not belong to config.json"
    ),
    "a calibration by a cohort that is not there": Case(
        weighing("impostor-mean-max"), SCORE, "calibrated by how close its cohort comes, but has none"
    ),
    "a calibration by what is no quality": Case(
        weighing("mood"), SCORE, "config.json: calibration cannot be understood .*'mood' is unknown"
    ),
    "text for embeddings": Case(
        partial(written, "e", "text"), f"{SCORE} --embeddings e", "e: holds no embeddings of ours"
    ),
    "embeddings of another model": Case(
        other_embeddings, f"{SCORE} --embeddings e", "e: holds embeddings of another model"
    ),
    "calibrate a verifier on scores turned around": Case(
        scored(inverted=True), CALIBRATE, "sv.tsv: lower scores speak for tar"
    ),
    "calibrate a verifier on another's cohort": Case(
        scored(qualities=True), CALIBRATE, "sv.tsv: was made with a cohort"
    ),
    "verify text": Case(
        partial(written, "a.wav", "text"),
        "verify a.wav speakers/id00000/01.wav --model verifier",
        "a.wav: cannot be dec",
    ),
    "a manifest of other speakers": Case(
        renamed("id00000"), EVALUATE, "speakers/manifest.tsv: '.*' is of .* in the keys"
    ),
    "a manifest without a speaker": Case(renamed("-"), EVALUATE, "has no speaker of 'id00001/00.wav', which is in"),
    "speakers that are not resampled": Case(
        scored(), EVALUATE.replace("--bootstrap 40 ", ""), "--speakers goes with --sv and --bootstrap"
    ),
    "a tandem that is fitted": Case(scored(), f"{TANDEM} --keys speakers/trials", "--sasv takes two files.*neither"),
    "a tandem with a trial twice": Case(scored(), TANDEM, "sv.tsv: 'id00002/00.wav id00002/01.wav' stands twice"),
    "a tandem without all cm-scores": Case(
        scored(rows=-1), TANDEM, r"sv.tsv: 'id00000/01.wav' has no cm-score in cm.tsv \(and 4 more rec"
    ),
    "a tandem the other way round": Case(
        scored(rows=-1), "fuse cm.tsv sv.tsv --sasv --out new.tsv", "cm.tsv:1: .* in none of the forms"
    ),
    "a verifier's task unknown": Case(verifier(task="singing"), SCORE, "verifier/config.json: cannot be understood"),
}
