"""The verbs of scores with keys: evaluate, calibrate, fuse."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

import hybrid_pruning as hp
from hybrid_pruning.cli.app import HUB_ID, LARGEST_SEED, app, finite
from hybrid_pruning.cli.score import Device
from hybrid_pruning.console import say, say_table, warn
from hybrid_pruning.errors import InputError

if TYPE_CHECKING:
    from hybrid_pruning.jobs.own_files import Bound

FEW_PEOPLE = 30
OptionalKeys = Annotated[
    Path | None, Argument(help="key file, manifest, or the corpus's own protocol or trial list", show_default=False)
]
Prior = Annotated[
    float, Option(callback=finite, help="of bona fide speech, or of the same speaker; 0.5 as in the Cllr")
]
Pair = tuple[Path, Path]


@app.command()
def evaluate(
    scores: Annotated[Path, Argument(help="score file; with --many a table of them")],
    keys: OptionalKeys = None,
    track1: Annotated[bool, Option("--track1", help="anti-spoofing: EER, minDCF, actDCF, Cllr")] = False,
    track2: Annotated[bool, Option("--track2", help="spoofing-robust verification: a-DCF, t-DCF, t-EER")] = False,
    sv: Annotated[bool, Option("--sv", help="speaker verification: EER, minDCF at 0.01 and 0.05")] = False,
    bootstrap: Annotated[int | None, Option(help="resamples for 95% intervals, such as 1000")] = None,
    seed: Annotated[int, Option(min=0, max=LARGEST_SEED, help="of the resamples")] = 0,
    against: Annotated[Path | None, Option(help="another system's score file, to compare with")] = None,
    by: Annotated[list[str] | None, Option(help="key columns for a table: codec,attack; repeatable")] = None,
    only: Annotated[list[str] | None, Option(help="COLUMN=VALUE of the keys, such as phase=eval")] = None,
    speakers: Annotated[Path | None, Option(help="for --sv --bootstrap: manifest with the speakers")] = None,
    det: Annotated[Path | None, Option(help="draw the DET curve: .png, .svg or .pdf")] = None,
    many: Annotated[bool, Option("--many", help="several test sets: SCORES has columns set, scores, keys")] = False,
    tdcf2019: Annotated[Path | None, Option(help="ASVspoof 2019: the organisers' ASV scores")] = None,
    tdcf2021: Annotated[Pair | None, Option(help="ASVspoof 2021: the organisers' ASV scores, their keys")] = None,
) -> dict[str, Any]:
    """Evaluate scores by their keys: EER, minDCF and the like, as the challenges define them.

    Intervals (--bootstrap) resample whole speakers where the keys or --speakers have them. With --against, both
    systems are measured on the same resamples.

    Score files have the header `filename cm-score`, `enrol test score` or `spk filename sasv-score`, or none and the
    columns `ID SCORE`, AASIST's `ID ATTACK LABEL SCORE`, or WeSpeaker's `ENROL TEST SCORE LABEL`; tabs, commas or
    spaces between them; ids with or without .wav, .flac and the like.

    With --many a table (tab-separated, paths relative to it) names several test sets of one system: a row each, their
    mean, and all trials together at one threshold. With --by, miss and false alarm rates of groups at the threshold of
    the EER of all show whom one threshold treats worse.
    """
    from hybrid_pruning import evaluation
    from hybrid_pruning.metrics.measures import find_warnings

    if track1 + track2 + sv != 1:
        raise InputError("evaluate: choose one of --track1, --track2, --sv")
    track, part = "track1" if track1 else "track2" if track2 else "sv", dict(map(_split, only or ()))
    options: dict[str, Any] = {"rounds": bootstrap, "seed": seed, "against": against, "speakers": speakers}
    options |= {"tdcf2019": tdcf2019, "tdcf2021": tdcf2021}
    if many:
        if keys or by or det or tdcf2019 or tdcf2021 or against or speakers:
            raise InputError("evaluate: with --many go a track, --bootstrap, --seed, --only and --json alone")
        return _evaluate_many(scores, track, rounds=bootstrap, seed=seed, only=part)
    if keys is None:
        raise InputError("evaluate: KEYS is missing; or give a table of several test sets with --many")
    found = hp.evaluate(scores, keys, track, by=by or (), only=part, **options)
    if det is not None:
        from hybrid_pruning.reporting.plots import draw_det, save_figure

        save_figure(draw_det(evaluation.curves(found), evaluation.operating_point(found.track)), det)
    evaluation.print_evaluation(found)
    for warning in find_warnings(found.metrics):
        warn(warning)
    return found.as_json()


def _evaluate_many(table: Path, track: str, **options: Any) -> dict[str, Any]:
    """Evaluate the test sets in a table, print them as one, and return them as plain values."""
    from hybrid_pruning.data.tables import read_rows
    from hybrid_pruning.evaluation import pool, tabulate

    found: dict[str, Any] = {}
    for line, row in read_rows(table, ("set", "scores", "keys")):
        if row["set"] in found:
            raise InputError(f"{table}:{line}: set '{row['set']}' stands there twice")
        found[row["set"]] = hp.evaluate(table.parent / row["scores"], table.parent / row["keys"], track, **options)
    if not found:
        raise InputError(f"{table}: no test sets below the header")
    say_table(tabulate(found))
    say("pooled: all trials at one threshold; where it is above the mean, the sets' scores lie apart")
    pooled = pool([*found.values()]) if track != "track2" else {}
    return {"sets": {name: one.as_json() for name, one in found.items()}, **pooled}


@app.command()
def calibrate(
    model: Annotated[str, Argument(help=f"exported model: a folder, or with --out a {HUB_ID}")],
    scores: Annotated[Path | None, Argument(help="development set scores by MODEL as it is now")] = None,
    keys: Annotated[
        Path | None, Argument(help="key file, manifest, or the corpus's own protocol or trial list")
    ] = None,
    out: Annotated[Path | None, Option(help="write the calibrated model here and leave MODEL as it is")] = None,
    prior: Prior = 0.5,
    check: Annotated[Pair | None, Option(help="further scores of MODEL and keys, to see the effect")] = None,
    replace: Annotated[bool, Option("--replace", help="drop MODEL's calibration, which SCORES lack")] = False,
    enrol: Annotated[Path | None, Option(metavar="DIR", help="of a verifier: recordings in a folder a person")] = None,
    bonafide: Annotated[Path | None, Option(metavar="DIR", help="of a detector: genuine recordings alone")] = None,
    rate: Annotated[float, Option(callback=finite, help="of errors past the threshold of DIR, at most")] = 0.01,
    confidence: Annotated[float, Option(callback=finite, help="that the rate holds")] = 0.95,
    device: Device = "auto",
) -> dict[str, Any]:
    """Make a model's scores log-likelihood ratios: a scale and an offset, kept in the model.

    Both are by logistic regression, each class weighted as its prior. Scores that separate the classes without error
    have no best scale: it is then kept low (Jeffreys' prior), with a warning.

    Their order never changes. A model that is calibrated already is calibrated further: SCORES hold its calibrated
    scores. Scores that a calibration in the model was fitted on are known again, and fitted anew from there.

    Of speaker verification, SCORES are those of `score --trials` with MODEL's own cohort (not --cohort or --no-norm).
    With --qualities there, durations, lengths of embeddings and closeness of the cohort are weighed too; the order of
    scores may then change.

    Without scores and keys, from recordings of your own:

    --enrol DIR calibrates a verifier on all pairs of recordings of people, each with a folder in DIR, and finds a
    threshold that at most --rate of the comparisons of two people reach.

    --bonafide DIR finds a threshold of a detector below which at most --rate of genuine recordings fall, whatever
    their scores' distribution; 299 recordings are the fewest for 1%, 59 for 5%. It leaves MODEL as it is, and says
    nothing of fakes that pass.
    """
    own = [one for one in (enrol, bonafide) if one is not None]
    if len(own) + (scores is not None and keys is not None) != 1:
        raise InputError("calibrate: give SCORES and KEYS, or --enrol DIR, or --bonafide DIR")
    if own and (check or replace):
        raise InputError("calibrate: --check and --replace go with SCORES and KEYS")
    if bonafide is not None:
        if out is not None:
            raise InputError("calibrate: --bonafide changes no model, so there is no --out; the threshold is printed")
        return _show_bound(hp.calibrate_bonafide(model, bonafide, rate, confidence, device=device), model, bonafide)
    bound = None
    if enrol is not None:
        found, bound = hp.calibrate_enrol(model, enrol, out, rate, confidence, prior, device=device)
    elif scores is not None and keys is not None:
        found = hp.calibrate(model, scores, keys, out, prior=prior, check=check, replace=replace)
    from hybrid_pruning.evaluation import print_scores

    print_scores(found.comparison)
    fits = found.calibration.fits
    for name, weight in fits[-1].qualities.items():
        say(f"weight {weight:.6g}  {name}")
    line = f"scale {fits[-1].scale:.6g}, offset {fits[-1].offset:.6g} at a prior of {prior:g}"
    say(f"{line}; {scores or enrol} are the {'scores' if scores else 'recordings'} fitted on")
    count = "1 fit" if len(fits) == 1 else f"{len(fits)} fits, each on the scores of those before"
    more = " --trials TRIALS" if found.track.sides else ""
    say(f"{found.folder}: calibrated ({count}); next: hybrid-pruning score {found.folder} MANIFEST{more}")
    comparison = [{"trials": trials, "scores": which, **row} for (trials, which), row in found.comparison.items()]
    result = {"model": str(found.folder), **found.calibration.to_json(), "comparison": comparison}
    return result if bound is None else result | _show_bound(bound, found.folder, enrol)


def _show_bound(bound: "Bound", model: str | Path, source: Path | None) -> dict[str, Any]:
    """Print a threshold and how sure it is, and return it as plain values."""
    kind, verb = ("false accepts", "verify TEST ENROL") if bound.people else ("false alarms", "detect FILE")
    of = f"pairs of {bound.people} people" if bound.people else "genuine recordings"
    say(f"threshold {bound.threshold:.4f}: at most {bound.rate:.2%} {kind} at a confidence of {bound.confidence:.0%}")
    say(f"  on these {bound.scores:,} {of} {bound.found:.2%}; it holds for recordings like them, each drawn by itself")
    if bound.people and bound.people < FEW_PEOPLE:
        warn(f"{source}: {bound.people} people are few; by resampling them the bound is rough below {FEW_PEOPLE}")
    say(f"next: hybrid-pruning {verb} --model {model} --threshold {bound.threshold:.4f}")
    return {"model": str(model), "source": str(source), **asdict(bound)}


@app.command()
def fuse(
    scores: Annotated[list[Path], Argument(help="score files of the same trials, one for each system")],
    out: Annotated[Path, Option(help="with --keys: the fusion, JSON; with --apply: the fused scores, TSV")],
    keys: Annotated[Path | None, Option(help="fit weights on these keys: of a development set")] = None,
    apply: Annotated[Path | None, Option(help="a fusion to apply, its systems in the same order")] = None,
    sv: Annotated[bool, Option("--sv", help="speaker verification scores: enrol, test, score")] = False,
    sasv: Annotated[bool, Option("--sasv", help="of a verifier and a countermeasure: track 2's file")] = False,
    prior: Prior = 0.5,
) -> None:
    """Fuse systems: a weighted sum of their scores that is a log-likelihood ratio; one system alone is calibrated.

    First fit:   fuse dev_a.tsv dev_b.tsv --keys dev.tsv --out fusion.json

    then apply:  fuse eval_a.tsv eval_b.tsv --apply fusion.json --out eval.tsv

    Spoofing-robust verification:  fuse asv.tsv cm.tsv --sasv --out sasv.tsv

    Nothing is fitted there: both have to be calibrated, the verifier on trials without spoofs. The score is
    -log(r exp(-asv) + (1 - r) exp(-cm)), where r = 0.16 is the nontargets' share of the false alarm costs in the a-DCF
    of ASVspoof 5; `evaluate sasv.tsv TRIALS --track2` reads it.
    """
    if sasv and sv:
        raise InputError("fuse: choose one of --sv and --sasv")
    track = "sasv" if sasv else "sv" if sv else "track1"
    found = hp.fuse(scores, out, keys=keys, apply=apply, track=track, prior=prior)
    if found.fusion is None:
        say(f"{out}: {found.trials:,} trials; next: hybrid-pruning evaluate {out} TRIALS --track2")
        return
    if found.comparison:
        from hybrid_pruning.evaluation import print_scores

        print_scores(found.comparison)
    for path, weight in zip(scores, found.fusion.weights, strict=True):
        say(f"weight {weight:.6g}  {path}")
    say(f"offset {found.fusion.offset:.6g}")
    if min(found.fusion.weights) < 0:
        warn("a weight below 0 turns that system's scores around; is it inverted, or of no use?")
    if apply is not None:
        say(f"{out}: {found.trials:,} fused scores")
    else:
        say(f"{out}: fitted on these very trials, at a prior of {prior:g}; next: hybrid-pruning fuse ... --apply {out}")


def _split(pair: str) -> tuple[str, str]:
    column, equals, value = pair.partition("=")
    if not (column and equals and value):
        raise InputError(f"evaluate: --only {pair}, expected COLUMN=VALUE such as phase=eval")
    return column, value
