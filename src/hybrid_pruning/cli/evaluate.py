"""Verbs that judge scores and make more of them: evaluate, calibrate, fuse."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_pruning.cli.app import LARGEST_SEED, app, finite
from hybrid_pruning.console import say, warn
from hybrid_pruning.errors import InputError

if TYPE_CHECKING:
    from hybrid_pruning.evaluation import Evaluation
    from hybrid_pruning.metrics.measures import Measure

Keys = Annotated[Path, typer.Argument(help="key file, manifest, or the corpus's own protocol or trial list")]
Prior = Annotated[
    float, typer.Option(callback=finite, help="of bona fide speech, or of the same speaker; 0.5 as in the Cllr")
]
Pair = tuple[Path, Path]


@app.command()
def evaluate(
    scores: Annotated[Path, typer.Argument(help="score file")],
    keys: Keys,
    track1: Annotated[bool, typer.Option("--track1", help="anti-spoofing: EER, minDCF, actDCF, Cllr")] = False,
    track2: Annotated[bool, typer.Option("--track2", help="spoofing-robust verification: a-DCF, t-DCF, t-EER")] = False,
    sv: Annotated[bool, typer.Option("--sv", help="speaker verification: EER, minDCF at 0.01 and 0.05")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="also write the figures here, as fractions")] = None,
    bootstrap: Annotated[int | None, typer.Option(help="resamples for 95% intervals, such as 1000")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="of the resamples")] = 0,
    against: Annotated[Path | None, typer.Option(help="another system's score file, to compare with")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="key column for a table, or two: codec,attack; repeatable")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE of the keys, such as phase=eval")] = None,
    speakers: Annotated[
        Path | None, typer.Option(help="with --sv and --bootstrap: manifest that tells who speaks in the recordings")
    ] = None,
    det: Annotated[Path | None, typer.Option(help="draw the DET curve: .png, .svg or .pdf")] = None,
    tdcf2019: Annotated[Path | None, typer.Option(help="ASVspoof 2019: the organisers' ASV scores")] = None,
    tdcf2021: Annotated[Pair | None, typer.Option(help="ASVspoof 2021: the organisers' ASV scores, their keys")] = None,
) -> None:
    """Compare scores with the truth: EER, minDCF and their kin, as the challenges define them.

    Intervals (--bootstrap) resample whole speakers where the keys tell them, or
    --speakers does. With --against, both systems are measured on the same resamples.

    Score files have the header `filename cm-score`, `enrol test score` or `spk
    filename sasv-score`, or none and the columns `ID SCORE`, AASIST's `ID ATTACK
    LABEL SCORE`, or WeSpeaker's `ENROL TEST SCORE LABEL`; tabs, commas or spaces
    between them; ids with or without .wav, .flac and the like.
    """
    from hybrid_pruning import evaluation

    if track1 + track2 + sv != 1:
        raise InputError("evaluate: choose one of --track1, --track2, --sv")
    if (tdcf2019 or tdcf2021) and not track1:
        raise InputError("evaluate: --tdcf2019 and --tdcf2021 go with --track1, the countermeasure's scores")
    if speakers and not (sv and bootstrap):
        raise InputError("evaluate: --speakers goes with --sv and --bootstrap, which resamples them")
    chosen = dict(_split(pair) for pair in only or ())
    request = evaluation.Request(
        rounds=_count_rounds(bootstrap),
        seed=seed,
        by=tuple(tuple(columns.split(",")) for columns in by or ()),
        only=chosen,
        against=against,
        measures=_tandem_measures(tdcf2019, tdcf2021, chosen),
        speakers=speakers,
    )
    task = evaluation.TRACK1 if track1 else evaluation.TRACK2 if track2 else evaluation.SV
    found = evaluation.evaluate(task, scores, keys, request)
    _write(found, json_, det)
    evaluation.print_evaluation(found)
    for warning in evaluation.find_warnings(found.metrics):
        warn(warning)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="exported model: a folder, or a hub id with --out")],
    scores: Annotated[Path, typer.Argument(help="what MODEL, as it is now, scored: a development set")],
    keys: Keys,
    out: Annotated[Path | None, typer.Option(help="write the calibrated model here and leave MODEL as it is")] = None,
    prior: Prior = 0.5,
    check: Annotated[
        Pair | None, typer.Option(help="further scores of MODEL and their keys, to see the effect")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="SCORES are older than MODEL's calibration: drop it")
    ] = False,
) -> None:
    """Make a model's scores log-likelihood ratios: a scale and an offset, kept in the model.

    Both are by logistic regression, each class weighted as its prior. Scores that
    tell the classes apart without error have no best scale: it is then kept low
    (Jeffreys' prior), with a warning.

    Their order never changes. A model that is calibrated already is calibrated
    further: SCORES hold its calibrated scores. Scores that a calibration in the
    model was fitted on are known again, and fitted anew from there.

    Of speaker verification, SCORES are those of `score --trials` with what MODEL
    itself has (not --cohort or --no-norm). With --qualities there, durations,
    lengths of embeddings and closeness of the cohort are weighed too; the order
    of scores may then change.
    """
    from hybrid_pruning import evaluation
    from hybrid_pruning.evaluation import fitting
    from hybrid_pruning.files import new_folder, require_new_folder
    from hybrid_pruning.models import artifact
    from hybrid_pruning.models.calibration import Calibration
    from hybrid_pruning.models.speech_model import read_calibration

    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the calibrated model goes")
    folder = artifact.locate(model)
    config = artifact.read_config(folder)
    target = folder if out is None else require_new_folder(out)
    verifies = config.get("task") == "speaker-verification"
    task = fitting.VERIFICATION if verifies else evaluation.TRACK1
    sets = {str(s): evaluation.read_trials(s, k, task) for s, k in ((scores, keys), *([check] if check else []))}
    if verifies:
        for name, trials in sets.items():
            fitting.require_same_cohort(trials, name, "cohort" in config)
    fit = fitting.fit_calibration(sets[str(scores)], task, scores, keys, prior)
    earlier = read_calibration(config, folder) or Calibration()
    whole = (Calibration() if replace else earlier).then(fit)
    rows = {}
    for name, trials in sets.items():
        given = trials.scores[task.scores]
        calibrated = Calibration((fit,)).apply(given, fitting.find_qualities(trials, fit, name))
        rows[name, "as they are"] = evaluation.measure_scores(task, trials, given)
        rows[name, "calibrated"] = evaluation.measure_scores(task, trials, calibrated)
    with nullcontext(folder) if out is None else new_folder(out) as place:
        artifact.write_variant(folder, {**config, "calibration": whole.to_json()}, place)
    evaluation.print_scores(rows)
    for name, weight in fit.qualities.items():
        say(f"weight {weight:.6g}  {name}")
    say(f"scale {fit.scale:.6g}, offset {fit.offset:.6g} at a prior of {prior:g}; {scores} are the scores fitted on")
    more = " --trials TRIALS" if verifies else ""
    say(f"{target}: calibrated ({_count_fits(len(whole.fits))}); next: hybrid-pruning score {target} MANIFEST{more}")


@app.command()
def fuse(
    scores: Annotated[list[Path], typer.Argument(help="score files of the same trials, one for each system")],
    out: Annotated[Path, typer.Option(help="with --keys: the fusion, JSON; with --apply: the fused scores, TSV")],
    keys: Annotated[Path | None, typer.Option(help="fit weights on these keys: of a development set")] = None,
    apply: Annotated[Path | None, typer.Option(help="a fusion to apply, its systems in the same order")] = None,
    sv: Annotated[bool, typer.Option("--sv", help="speaker verification scores: enrol, test, score")] = False,
    sasv: Annotated[
        bool, typer.Option("--sasv", help="SCORES are a verifier's and a countermeasure's: write track 2's file")
    ] = False,
    prior: Prior = 0.5,
) -> None:
    """Fuse systems: a weighted sum of their scores that is a log-likelihood ratio; one system alone is calibrated.

    First fit:   fuse dev_a.tsv dev_b.tsv --keys dev.tsv --out fusion.json

    then apply:  fuse eval_a.tsv eval_b.tsv --apply fusion.json --out eval.tsv

    Spoofing-robust verification:  fuse asv.tsv cm.tsv --sasv --out sasv.tsv

    Nothing is fitted there: both have to be calibrated, the verifier on trials
    without spoofs. The score is -log(r exp(-asv) + (1 - r) exp(-cm)), where
    r = 0.16 is the nontargets' share in what acceptance costs by the a-DCF of
    ASVspoof 5; `evaluate sasv.tsv TRIALS --track2` reads it.
    """
    from hybrid_pruning import evaluation
    from hybrid_pruning.evaluation import fitting

    if sasv:
        _fuse_tandem(scores, out, bool(keys or apply or sv))
        return
    if (keys is None) == (apply is None):
        raise InputError("fuse: choose one of --keys (fit) and --apply")
    if len(set(scores)) < len(scores):
        raise InputError("fuse: a score file is named twice")
    if apply is not None:
        fusion = fitting.Fusion.read(apply)
        fused = fitting.fuse_files(scores, fusion, out)
        _print_weights(scores, fusion.weights, fusion.offset)
        say(f"{out}: {fused:,} fused scores")
        return
    assert keys is not None
    task = evaluation.SV if sv else evaluation.TRACK1
    known = evaluation.read_keys(keys, task)
    systems = {str(path): evaluation.join_scores(path, known, task) for path in scores}
    fusion = fitting.fit_fusion(systems, "sv" if sv else "track1", keys, prior)
    fusion.write(out)
    columns = {name: trials.scores[task.scores] for name, trials in systems.items()}
    columns["fused"] = fusion.apply(list(columns.values()))
    trials = next(iter(systems.values()))
    evaluation.print_scores(
        {(str(keys), name): evaluation.measure_scores(task, trials, column) for name, column in columns.items()}
    )
    _print_weights(scores, fusion.weights, fusion.offset)
    say(f"{out}: fitted on these very trials, at a prior of {prior:g}; next: hybrid-pruning fuse ... --apply {out}")


def _fuse_tandem(scores: list[Path], out: Path, fitted: bool) -> None:
    """Write the file of track 2 of a verifier and a countermeasure."""
    from hybrid_pruning.evaluation.sasv import fuse_tandem_files

    if fitted or len(scores) != 2:
        raise InputError("fuse: --sasv takes two files, ASV.tsv CM.tsv, and neither --keys, --apply nor --sv")
    count = fuse_tandem_files(scores[0], scores[1], out)
    say(f"{out}: {count:,} trials; next: hybrid-pruning evaluate {out} TRIALS --track2")


def _count_rounds(bootstrap: int | None) -> int:
    from hybrid_pruning.metrics.bootstrap import check_rounds

    if bootstrap is not None:
        check_rounds(bootstrap)
    return bootstrap or 0


def _split(pair: str) -> tuple[str, str]:
    column, equals, value = pair.partition("=")
    if not (column and equals and value):
        raise InputError(f"evaluate: --only {pair}, expected COLUMN=VALUE such as phase=eval")
    return column, value


def _tandem_measures(scores_2019: Path | None, files_2021: Pair | None, only: dict[str, str]) -> "dict[str, Measure]":
    """Return the t-DCF beside the organisers' verifier."""
    from hybrid_pruning import evaluation
    from hybrid_pruning.metrics.measures import COUNTERMEASURE, fixed_verifier

    if scores_2019 and files_2021:
        raise InputError("evaluate: choose one of --tdcf2019 and --tdcf2021")
    if scores_2019:
        verifier = evaluation.read_verifier_2019(scores_2019)
        return {
            "min_t_dcf": fixed_verifier(COUNTERMEASURE, verifier),
            "min_t_dcf_2019": fixed_verifier(COUNTERMEASURE, verifier, legacy=True),
        }
    if files_2021:
        return {"min_t_dcf": fixed_verifier(COUNTERMEASURE, evaluation.read_verifier_2021(*files_2021, only))}
    return {}


def _write(found: "Evaluation", json_: Path | None, det: Path | None) -> None:
    if det is not None:
        from hybrid_pruning.evaluation import curves
        from hybrid_pruning.metrics import ASVSPOOF5, VERIFICATION
        from hybrid_pruning.reporting.plots import draw_det, save_figure

        save_figure(draw_det(curves(found), VERIFICATION[0] if found.task.repeats else ASVSPOOF5), det)
    if json_ is not None:
        from hybrid_pruning.files import write_json

        write_json(json_, found.as_json())


def _print_weights(scores: list[Path], weights: tuple[float, ...], offset: float) -> None:
    for path, weight in zip(scores, weights, strict=True):
        say(f"weight {weight:.6g}  {path}")
    say(f"offset {offset:.6g}")
    if min(weights) < 0:
        warn("a weight below 0 turns that system's scores around; is it inverted, or of no use?")


def _count_fits(count: int) -> str:
    return "1 fit" if count == 1 else f"{count} fits, each on the scores of those before"
