"""A comparison as tables: sizes, then latencies case by case."""

from collections.abc import Sequence

from hybrid_pruning.benchmarks import timing
from hybrid_pruning.benchmarks.models import Case, Comparison, Measured
from hybrid_pruning.console import Table, say, say_table
from hybrid_pruning.markdown import to_markdown


def describe(comparison: Comparison) -> list[Table]:
    """Return the tables of a comparison."""
    return [_sizes(comparison), *(_latencies(comparison, case) for case in comparison.cases)]


def describe_machine(comparison: Comparison) -> str:
    """Return what the figures were measured on, a line."""
    before, after = comparison.load
    return f"{timing.machine()}; {comparison.threads} threads; load average {before} before, {after} after"


def print_section(table: Table, markdown: bool) -> None:
    """Print a table, for a terminal or in Markdown for README and dev/LOG.md."""
    if not markdown:
        say_table(table)
        return
    for line in [*to_markdown(table).splitlines(), ""]:
        say(line)


def _sizes(comparison: Comparison) -> Table:
    longest = max(case.seconds for case in comparison.cases)
    note = (
        "Parameters and MACs (for 4 s) are the backbone's. Peak memory is that of a whole process that loads the model "
        f"and computes one utterance of {longest:g} s."
    )
    header = ("model", "engine", "params", "MACs", "on disk", "peak memory")
    return Table(header, [_size(found) for found in comparison.measured], "size", note)


def _size(found: Measured) -> tuple[str, ...]:
    one = found.contestant
    counts = ("-" if count is None else f"{count / scale:.3g} {unit}" for count, scale, unit in _counts(found))
    return one.model, one.engine, *counts, _megabytes(found.disk_bytes), _megabytes(found.peak_bytes)


def _counts(found: Measured) -> Sequence[tuple[int | None, float, str]]:
    one = found.contestant
    return (one.params, 1e6, "M"), (one.macs, 1e9, "G")


def _latencies(comparison: Comparison, case: Case) -> Table:
    reference = comparison.measured[0]
    note = (
        f"Median and quartiles of {comparison.rounds} rounds, all models in turn. Times faster: than "
        f"{reference.contestant.model} in {reference.contestant.engine}, which gives hidden states where the others "
        "give embeddings, round by round. Real-time factor: seconds of computing for a second of audio."
    )
    header = ("model", "engine", "ms", "times faster", "real-time factor")
    return Table(header, [_latency(found, case) for found in comparison.measured], f"latency, {case}", note)


def _latency(found: Measured, case: Case) -> tuple[str, ...]:
    one, it = found.contestant, found.latencies[case]
    spread = f"{it.median * 1e3:.1f} ({it.low * 1e3:.1f}-{it.high * 1e3:.1f})"
    return one.model, one.engine, spread, str(it.speedup), f"{it.real_time_factor:.4f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
