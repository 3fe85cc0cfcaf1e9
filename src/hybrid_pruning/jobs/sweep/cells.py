"""The jobs of a sweep, one after another, and what they come to."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config
from hybrid_pruning.console import say, say_rule
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, hold
from hybrid_pruning.jobs.pipeline import DEV, run_recipe
from hybrid_pruning.jobs.stages import Stage, bring_up_to_date
from hybrid_pruning.jobs.sweep.drawing import draw_sweep
from hybrid_pruning.jobs.sweep.summary import Swept, print_table, read_swept, write_markdown, write_tsv
from hybrid_pruning.jobs.sweep.values import name_job, set_sparsity
from hybrid_pruning.models.card.measured import FOLDER as EVALUATION
from hybrid_pruning.reporting import write_report
from hybrid_pruning.reporting.plots import save_figure
from hybrid_pruning.reporting.published import PAPER, Published, is_known, read_published

NAME = "sweep"


def run_sweep(config: Config, values: Sequence[float], out: str | Path) -> Path:
    """Run a recipe's whole job at each sparsity, and write the table, the plot and the report of all.

    Args:
        config: the recipe.
        values: fractions removed, rising; 0 is the dense model.
        out: folder of the jobs; called again, the sweep goes on there, and finished jobs are skipped.

    Returns:
        The table.

    Raises:
        InputError: the recipe does not go with a value, or a job failed as `run_recipe` does; on a single process the
            others are done and in the table before it is raised.
    """
    processes.start()
    out = Path(out)
    recipes = {name_job(value): set_sparsity(config, value) for value in values}
    with hold(out) if processes.is_main() else nullcontext():
        return _run_jobs(config, recipes, values, out)


def _run_jobs(config: Config, recipes: Mapping[str, Config], values: Sequence[float], out: Path) -> Path:
    """Do the jobs and write what they came to; return the table."""
    failed: dict[str, InputError] = {}
    for name, recipe in recipes.items():
        if processes.is_main():
            say_rule(name)
        try:
            run_recipe(recipe, out / name, out)
        except InputError as error:
            if processes.count() > 1 or len(failed) == len(recipes) - 1:
                raise
            failed[name] = error
            say(f"error: {name}: {error}", error=True)
    table = out / f"{NAME}.md"
    sets = (DEV, *config.data.eval)
    swept = [
        read_swept(out / name, value, sets) for name, value in zip(recipes, values, strict=True) if name not in failed
    ]
    if processes.is_main():
        _write(swept, _known(config), table)
    figures = tuple(out / job / EVALUATION / f"{name}.json" for job in recipes if job not in failed for name in sets)
    page, runs = table.with_suffix(".html"), [out / name / "run" for name in recipes if name not in failed]
    bring_up_to_date([Stage(f"{NAME} report", lambda: write_report(runs, page), (page,), {}, figures)], out)
    if failed:
        reason = next(iter(failed.values()))
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{table}: is without {', '.join(failed)}: {reason}{more}; call again to go on there")
    return table


def _known(config: Config) -> list[Published]:
    """Return the paper's own rows on the recipe's corpus."""
    corpus = config.corpus
    if corpus is None or not is_known(corpus.name):
        return []
    return [row for row in read_published(corpus.name) if row.source.startswith(PAPER)]


def _write(swept: Sequence[Swept], published: Sequence[Published], table: Path) -> None:
    print_table(swept)
    write_tsv(swept, table.with_suffix(".tsv"))
    with atomic_write(table) as handle:
        handle.write(write_markdown(swept, published))
    figure = draw_sweep(swept, published)
    for ending in (".svg", ".png"):
        save_figure(figure, table.with_suffix(ending))
