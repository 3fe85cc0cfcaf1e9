"""`sweep`: one recipe at several sparsities, from raw corpus to a table and a plot of errors over size."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config, check_config, expand_stages, load_config
from hybrid_pruning.console import say, say_rule
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import hold
from hybrid_pruning.jobs.run import run
from hybrid_pruning.jobs.steps import Step, bring_up_to_date
from hybrid_pruning.jobs.sweep_table import read_job, write_sweep
from hybrid_pruning.jobs.task_steps import DEV, ROUNDS
from hybrid_pruning.models.card.measured import FOLDER as EVALUATION
from hybrid_pruning.reporting import report
from hybrid_pruning.reporting.published import PAPER, is_known, read_published
from hybrid_pruning.training.runs import snapshot_name

NAME, DENSE = "sweep", "dense"


def sweep(
    recipe: str | Path | Config, sparsities: str | Sequence[float], out: str | Path, overrides: Sequence[str] = ()
) -> Path:
    """Run a recipe's whole job at each sparsity, and write the table, the plot and the report of all.

    On a single process a job that fails does not stop the others: it is raised when they are done and in the table.

    Args:
        recipe: its file, or a checked one.
        sparsities: fractions removed, numbers or a text with commas; 0 is the dense model.
        out: folder of the jobs; called again, the sweep goes on there, and finished jobs are skipped.
        overrides: `key=value` settings over the recipe's file.

    Returns:
        The table, sweep.md; beside it are sweep.tsv, .svg, .png and .html.
    """
    values, out = parse_sparsities(sparsities), Path(out)
    config = recipe if isinstance(recipe, Config) else load_config(recipe, overrides)
    processes.start()
    jobs = {name_job(value): (value, set_sparsity(config, value)) for value in values}
    with hold(out) if processes.is_main() else nullcontext():
        failed = _run_jobs({name: job for name, (_, job) in jobs.items()}, out)
        done = {name: value for name, (value, _) in jobs.items() if name not in failed}
        sets, table = (DEV, *config.data.eval), out / f"{NAME}.md"
        swept = [read_job(out / name, value, sets) for name, value in done.items()]
        if processes.is_main():
            corpus = config.corpus.name if config.corpus else ""
            rows = read_published(corpus) if is_known(corpus) else []
            write_sweep(swept, [row for row in rows if row.source.startswith(PAPER)], table)
        page, runs = table.with_suffix(".html"), [out / name / "run" for name in done]
        figures = tuple(out / job / EVALUATION / f"{name}.json" for job in done for name in sets)
        make = partial(report, runs, page, rounds=ROUNDS)
        bring_up_to_date([Step(f"{NAME} report", make, (page,), {}, figures)], out)
    if failed:
        reason = next(iter(failed.values()))
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{table}: is without {', '.join(failed)}: {reason}{more}; call again to go on there")
    return table


def _run_jobs(recipes: Mapping[str, Config], out: Path) -> dict[str, InputError]:
    """Run the jobs one after another; return the errors of those that failed, and raise where all did."""
    failed: dict[str, InputError] = {}
    for name, recipe in recipes.items():
        if processes.is_main():
            say_rule(name)
        try:
            run(recipe, out / name, prepared=out)
        except InputError as error:
            if processes.count() > 1 or len(failed) == len(recipes) - 1:
                raise
            failed[name] = error
            say(f"error: {name}: {error}", error=True)
    return failed


def parse_sparsities(values: str | Sequence[float]) -> tuple[float, ...]:
    """Return sparsities in rising order, each from 0 to below 1 and there once."""
    words = [word.strip() for word in values.split(",")] if isinstance(values, str) else [str(one) for one in values]
    found = [_parse(word) for word in words or [""]]
    names = [name_job(value) for value in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--sparsity {','.join(words)}: {twice} stands twice; give each value once")
    return tuple(sorted(found))


def _parse(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise InputError(
            f"--sparsity: '{word}', expected fractions removed, from 0 (dense) to below 1, such as 0,0.5,0.7"
        )
    return value


def name_job(value: float) -> str:
    """Return the name of the job at a sparsity: 0 -> dense, 0.5 -> hp50."""
    return DENSE if value == 0 else snapshot_name(value)


def set_sparsity(config: Config, value: float) -> Config:
    """Return a recipe at another sparsity, 0 for training without pruning; with stages, that of the ones that prune."""
    tree = config.model_dump(mode="json")
    stages = expand_stages(config)
    pruned = {name: stage for name, stage in stages.items() if stage.pruning.use_pruning_loss}
    if stages and not pruned:
        raise InputError(f"sweep: none of the stages {', '.join(stages)} prunes: turn pruning.use_pruning_loss on")
    for stage in pruned.values() if stages else [config]:
        if stage.pruning.export_at:
            raise InputError(
                "sweep: the recipe has pruning.export_at, several sizes from one training: use `run`, or "
                "--set pruning.export_at=[] --set pruning.export_hold_epochs=0"
            )
    changes: dict[str, Any] = {"use_pruning_loss": value > 0, **({"target_sparsity": value} if value > 0 else {})}
    for part in [tree["stages"][name] for name in pruned] if stages else [tree]:
        part["pruning"] = {**part.get("pruning", {}), **changes}
    return check_config(tree, f"the recipe at sparsity {value:g}")
