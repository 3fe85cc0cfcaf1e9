"""Command lines with every mistake."""

import os
from functools import partial
from pathlib import Path

from world import Case

SCORE = "score model dev/manifest.tsv --workers 0 --out"


def locked(name: str, world: Path) -> None:
    """Make a place that nobody, not even root, can write to: a link to nowhere in the system's own tables."""
    (world / name).symlink_to("/proc/self/nowhere")


def file_named_new(world: Path) -> None:
    (world / "new").write_text("here first")


def odd_name(world: Path) -> None:
    """A file whose name would command the terminal, and one that is no text."""
    (world / "model\x1b[2J").mkdir()
    Path(os.fsdecode(os.fsencode(world) + b"/\xff")).mkdir()


def edited_card(world: Path) -> None:
    (world / "model" / "README.md").write_text("# mine\n")


def job_of_another(world: Path) -> None:
    """A job whose training was another one."""
    (world / "job" / "run").mkdir(parents=True)
    (world / "job" / "evaluation").mkdir()
    recipe = (world / "run" / "config.yaml").read_text()
    (world / "job" / "run" / "config.yaml").write_text(recipe.replace("seed: 42", "seed: 43"))
    (world / "job" / "evaluation" / "dev.json").write_text('{"eer": 0.1}')


COMMANDS: dict[str, Case] = {
    "train into a file": Case(file_named_new, "train recipe.yaml --out new", "new: is a file"),
    "export into a file": Case(file_named_new, "export run --out new", "new: is a file"),
    "score where nobody can write": Case(
        partial(locked, "lock"), f"{SCORE} lock/new.tsv", r"lock/new.tsv\S*: cannot be written"
    ),
    "a card over one that somebody edited": Case(edited_card, "card model", "model/README.md: was written or edited"),
    "a card with another job": Case(job_of_another, "card model --run job", "config.yaml: is not the recipe that"),
    "a name that commands the terminal": Case(
        odd_name, "inspect model\x1b[2J", r"model\\x1b\[2J/config.json: cannot be"
    ),
    "a name that is no text": Case(odd_name, "inspect \udcff", r"\\udcff/config.json: cannot be read"),
}
