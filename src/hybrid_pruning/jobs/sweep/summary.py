"""What the jobs of a sweep came to: sizes and figures, as a table for people and as one for programs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_pruning.console import Cell, Table, say, say_table
from hybrid_pruning.data.tables import open_table
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.markdown import to_markdown
from hybrid_pruning.metrics.titles import TITLES
from hybrid_pruning.models.card.measured import FOLDER as EVALUATION
from hybrid_pruning.models.card.measured import Result, read_results
from hybrid_pruning.models.size import SECONDS, count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting.overview import METRICS, count
from hybrid_pruning.reporting.published import Published, is_of_set

UNCALIBRATED = "*: not calibrated, since lower dev scores speak for the positive class or all are the same."
HEADINGS = ("set", "model", "cut %", "size", "MACs")


@dataclass(frozen=True, slots=True)
class Swept:
    """One job of a sweep.

    Args:
        name: of its folder.
        target: the fraction that was to be removed; 0 for the dense model.
        removed: the fraction of the encoder's parameters that is gone.
        params: of encoder and head.
        macs: multiply-accumulates of the encoder, for `SECONDS` of audio.
        results: figures of each evaluation set, by its name.
        metrics: the names of those to show.
        calibrated: whether its scores are; not where those of the dev set were inverted or all the same.
    """

    name: str
    target: float
    removed: float
    params: int
    macs: int
    results: dict[str, Result]
    metrics: tuple[str, ...]
    calibrated: bool = True


def read_swept(job: Path, target: float, sets: Sequence[str]) -> Swept:
    """Read a finished job.

    Args:
        job: its folder.
        target: the fraction that was to be removed.
        sets: names of the evaluation sets, in the order to show them in.

    Raises:
        InputError: its model or a table of figures cannot be read.
    """
    model = SpeechModel.from_pretrained(job / "model")
    budget = count_kept(model.backbone).budget
    params = int(budget.params) + count_parameters(model.head) + count_parameters(model.classifier)
    files = [f"{name}={job / EVALUATION / name}.json" for name in sets]
    results = {result.name: result for result in read_results(files)}
    metrics = SV.main if model.task == "speaker-verification" else TRACK1.main
    return Swept(
        job.name,
        target,
        float(budget.sparsity),
        params,
        int(budget.macs),
        results,
        metrics,
        model.calibration is not None,
    )


def print_table(swept: Sequence[Swept]) -> None:
    """Print the table, intervals below their figures."""
    say_table(_lay_out(swept), box="rule")
    say(_explain(swept))


def write_markdown(swept: Sequence[Swept], published: Sequence[Published] = ()) -> str:
    """Return the table in Markdown, intervals behind their figures, and below it the paper's on the same sets."""
    text = to_markdown(replace(_lay_out(swept), note=_explain(swept)))
    theirs = [
        (name, row.system, *(_given(value, form) for value, form in _figures(row)))
        for name in swept[0].results
        for row in published
        if is_of_set(row, name)
    ]
    if theirs:
        columns = ("set", "system", "removed %", "parameters, M", "FLOPs, G", "EER %", "minDCF")
        text += "\nAs the paper has them (arXiv 2508.16232), not measured here:\n\n"
        text += to_markdown(Table(columns, theirs))
    return text


def write_tsv(swept: Sequence[Swept], path: Path) -> None:
    """Write the figures as fractions and counts, each metric with the ends of its 95% interval.

    Raises:
        InputError: the file cannot be written.
    """
    metrics = swept[0].metrics
    ends = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    with open_table(
        path, ("set", "model", "target_sparsity", "sparsity", "params", "macs", *ends, "calibrated")
    ) as write:
        for name in swept[0].results:
            for job in swept:
                result = job.results[name]
                values = [v for metric in metrics for v in (result.metrics[metric], *result.intervals[metric])]
                write(
                    (
                        name,
                        job.name,
                        job.target,
                        job.removed,
                        job.params,
                        job.macs,
                        *values,
                        str(job.calibrated).lower(),
                    )
                )


def _lay_out(swept: Sequence[Swept]) -> Table:
    """Return the table, the rows of one evaluation set together."""
    metrics = swept[0].metrics
    rows = [
        [name, _mark(job), f"{100 * job.removed:.1f}", count(job.params), count(job.macs)]
        + [_show(job.results[name], metric) for metric in metrics]
        for name in swept[0].results
        for job in swept
    ]
    return Table([*HEADINGS, *(TITLES[metric] for metric in metrics)], rows, left=2)


def _show(result: Result, metric: str) -> Cell:
    """Return a figure and its interval, with the decimals of the report."""
    _, factor, digits = METRICS[metric]
    value, *ends = (f"{factor * part:.{digits}f}" for part in (result.metrics[metric], *result.intervals[metric]))
    return Cell(value, "–".join(ends))


def _explain(swept: Sequence[Swept]) -> str:
    found = {name: result.resampled for name, result in swept[0].results.items()}
    told = "; ".join(f"{name}: {resampled}" for name, resampled in found.items())
    told = next(iter(found.values())) if len(set(found.values())) == 1 else told
    return (
        f"Cut: of the encoder's parameters. Size: parameters of encoder and head. MACs: the encoder's, {SECONDS:g} s. "
        f"Below or behind each figure its 95% interval, by resampling {told}."
        + ("" if all(job.calibrated for job in swept) else f" {UNCALIBRATED}")
    )


def _mark(job: Swept) -> str:
    return job.name if job.calibrated else f"{job.name} *"


def _figures(row: Published) -> tuple[tuple[float | None, str], ...]:
    removed = None if row.sparsity is None else 100 * row.sparsity
    size = (removed, ".0f"), (row.params_m, ".1f"), (row.flops_g, ".1f")
    return (*size, (100 * row.eer, ".2f" if row.eer > 0.001 else ".3f"), (row.min_dcf, ".3f"))


def _given(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
