"""Command lines with every mistake."""

import os
from functools import partial
from pathlib import Path

from world import Case

SCORE = "score model dev/manifest.tsv --workers 0 --out"


def nothing(world: Path) -> None:
    """Leave the world as it is: the command line itself is wrong."""


LONG = "n" * 300


def typed(command: str, expected: str) -> Case:
    return Case(nothing, command, expected)


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
    "a verb that there is not": typed("trian recipe.yaml", "No such command 'trian'"),
    "an option that there is not": typed("train recipe.yaml --out new --target 0.5", "No such option.*--target"),
    "an option without its value": typed("train recipe.yaml --out", "--out.*requires an argument"),
    "an argument too many": typed("train recipe.yaml other.yaml --out new", "unexpected extra argument.*other.yaml"),
    "an option missing": typed("train recipe.yaml", "Missing option '--out'"),
    "an argument missing": typed("score --out new.tsv", "Missing argument '(?i:model)'"),
    "no manifest to audit": typed("audit", "Missing argument"),
    "a word for a number of utterances": typed(f"{SCORE} new.tsv --batch-size many", "batch-size.*integer"),
    "no utterance in a batch": typed(f"{SCORE} new.tsv --batch-size 0", "batch-size.*greater than or equal to 1"),
    "workers below 0": typed("audit dev/manifest.tsv --workers -1", "--workers.*greater than or equal to 0"),
    "no checkpoint to average": typed("export run --out new --average 0", "--average.*greater than or equal to 1"),
    "train into a run": typed("train recipe.yaml --out run", "run: is not empty"),
    "train into a file": Case(file_named_new, "train recipe.yaml --out new", "new: is a file"),
    "resume nothing": typed("train recipe.yaml --out new --resume", "new: (is no training run|nothing)"),
    "resume another recipe": typed("train recipe.yaml --out run --resume", "run/config.yaml.* differs|run: .*differs"),
    "train on no manifest": typed("train recipe.yaml --out new --set data.train=nowhere.tsv", "nowhere.tsv: cannot be"),
    "sweep at a word": typed("sweep recipe.yaml --sparsity half --out new", "--sparsity: 'half', expected fractions"),
    "sweep at a percentage": typed(
        "sweep recipe.yaml --sparsity 0,50 --out new", "--sparsity: '50', expected fractions"
    ),
    "sweep at everything": typed("sweep recipe.yaml --sparsity 1 --out new", "--sparsity: '1', .*to below 1"),
    "sweep at one value twice": typed("sweep recipe.yaml --sparsity 0.5,.5 --out new", "hp50 stands twice"),
    "sweep at nothing": typed("sweep recipe.yaml --sparsity , --out new", "--sparsity: '', expected fractions"),
    "sweep below the recipe's least": typed(
        "sweep recipe.yaml --sparsity 0,0.1 --out new --set pruning.min_sparsity=0.2",
        r"the recipe at sparsity 0.1: pruning.min_sparsity 0.2 is above pruning.target_sparsity 0.1",
    ),
    "sweep a family": typed(
        "sweep recipe.yaml --sparsity 0.5 --out new --set pruning.export_at=[0.2]", "sweep: the recipe has pruning.exp"
    ),
    "run verification without a set's trials": typed(
        "run recipe.yaml --out new --set task=speaker-verification --set data.trials.dev=voices/trials "
        "--set data.eval.test=voices/manifest.tsv",
        "data.trials.test is missing: give the trials over voices/manifest.tsv",
    ),
    "export over a model": typed("export run --out model", "model: is not empty"),
    "export into a file": Case(file_named_new, "export run --out new", "new: is a file"),
    "export a snapshot that there is not": typed(
        "export run --out new --at 0.3", "run: --at 0.3: no such model in this run; it has 0.4"
    ),
    "export a snapshot of a word": typed("export run --out new --at half", "--at.*number"),
    "export a family of one": typed("export run --out new --family", "run: has no family; give pruning.export_at"),
    "export one and all": typed("export run --out new --family --at 0.4", "--family writes all members, --at one"),
    "export a model": typed("export model --out new", "model: is an exported model already; .*--onnx"),
    "benchmark of too little": typed("benchmark model --seconds 0.01", "--seconds takes numbers from 0.1 on"),
    "more workers than threads": typed(f"{SCORE} new.tsv --workers 1000000", "--workers.*256"),
    "a batch of a billion": typed(f"{SCORE} new.tsv --batch-size 1000000000", "--batch-size.*4096"),
    "a window without end": typed(f"{SCORE} new.tsv --window-seconds inf", "--window-seconds.*3600"),
    "a window that is no number": typed(f"{SCORE} new.tsv --window-seconds nan", "--window-seconds.*3600"),
    "a model of 300 letters": typed(f"inspect {LONG}", "File name too long; check this path"),
    "a run of 300 letters": typed(f"card model --run {LONG} --out new", "File name too long; check this path"),
    "scores of 300 letters": typed(f"{SCORE} {LONG}", "File name too long; check this path"),
    "recordings of 300 letters": typed(f"audit {LONG}", "cannot be read .File name too long"),
    "an output below a file": typed("export run --out scores.tsv/new", "cannot be written .Not a directory"),
    "a threshold without end": typed("detect dev --model model --threshold=-inf", "--threshold.*-inf is not a finite"),
    "resamples without end": typed(
        "evaluate scores.tsv dev/manifest.tsv --track1 --bootstrap 1000000000", "1000000000 rounds.*at most 100,000"
    ),
    "resamples of a report": typed("report run --out new.html --bootstrap 1000000000", "at most 100,000"),
    "a seed below 0": typed("prepare folder --root dev --out new --seed -1", "--seed.*0"),
    "a length that is none": typed("benchmark model --seconds nan", "--seconds nan: expected numbers above 0"),
    "benchmark of nobody": typed("benchmark model --batch 0", "--batch 0: expected numbers above 0"),
    "score into a folder": typed(f"{SCORE} model", "model: is a folder"),
    "score below a file": typed(f"{SCORE} recipe.yaml/new.tsv", r"recipe.yaml/new.tsv\S*: cannot be written"),
    "score where nobody can write": Case(
        partial(locked, "lock"), f"{SCORE} lock/new.tsv", r"lock/new.tsv\S*: cannot be written"
    ),
    "score with a file for a model": typed(
        f"{SCORE.replace('model', 'scores.tsv', 1)} new.tsv", "scores.tsv: is a file; give the folder"
    ),
    "score with an id that is none": typed(
        f"{SCORE.replace('model', '../..//x', 1)} new.tsv", "../..//x: (neither|cannot|des)"
    ),
    "evaluate no scores": typed("evaluate nowhere.tsv dev/manifest.tsv --track1", "nowhere.tsv: cannot be read"),
    "evaluate a folder": typed("evaluate model dev/manifest.tsv --track1", "model: cannot be read"),
    "evaluate a model's weights": typed(
        "evaluate model/model.safetensors dev/manifest.tsv --track1", "model.safetensors: is no(t UTF-8| table)"
    ),
    "evaluate by no measure": typed("evaluate scores.tsv dev/manifest.tsv", "choose one of --track1"),
    "evaluate by two measures": typed("evaluate scores.tsv dev/manifest.tsv --track1 --sv", "choose one of --track1"),
    "evaluate into a folder": typed("evaluate scores.tsv dev/manifest.tsv --track1 --json model", "model: is a folder"),
    "inspect nothing": typed("inspect /no/where", "/no/where: neither a folder"),
    "inspect a run": typed("inspect run", "run/config.json: cannot be read"),
    "a card of nothing": typed("card /no/where --out new", "/no/where: neither a folder"),
    "a card of an id, into nowhere": typed("card me/small", "me/small: is no folder here; say with --out"),
    "a card of a run": typed("card run", "run/config.json: cannot be read"),
    "a card over one that somebody edited": Case(edited_card, "card model", "model/README.md: was written or edited"),
    "a card into a folder": typed("card model --out dev", "dev: is a folder"),
    "a card below a file": typed("card model --out recipe.yaml/new.md", r"recipe.yaml/new.md\S*: cannot be written"),
    "a card with no evaluation": typed("card model --evaluation nowhere.json", "nowhere.json: cannot be read"),
    "a card with scores for an evaluation": typed("card model --evaluation a=scores.tsv", "scores.tsv: is not valid"),
    "a card with a model for an evaluation": typed(
        "card model --evaluation model/config.json", "model/config.json: holds no figures"
    ),
    "a card with an evaluation twice": typed(
        "card model --evaluation table.json --evaluation table.json", "two evaluations are named 'table'"
    ),
    "a card with no job": typed("card model --run dev", "dev/evaluation: holds no evaluations"),
    "a card with another job": Case(job_of_another, "card model --run job", "config.yaml: is not the recipe that"),
    "published under no id": typed("card model --push a/b/c", "'a/b/c' is no id of the hub"),
    "a commit without publishing": typed("card model --message hello", "--message go with --push"),
    "prepare a corpus that there is not": typed(
        "prepare asvspoof6 --root . --out new", "corpus 'asvspoof6' is unknown"
    ),
    "prepare from a folder without protocols": typed("prepare asvspoof5 --root dev --out new", "dev: "),
    "prepare from no folder": typed("prepare asvspoof5 --root nowhere --out new", "nowhere: "),
    "prepare speakers from a file": typed("prepare speaker-folder --root recipe.yaml --out new", "recipe.yaml: holds"),
    "prepare VoxCeleb from no folder": typed("prepare voxceleb --root nowhere --out new", "nowhere: is not there"),
    "prepare CN-Celeb from other data": typed("prepare cnceleb --root dev --out new", "dev: holds nothing to prepare"),
    "hold speakers out where there is one": typed(
        "prepare speaker-folder --root . --out new --dev-share 0.01", "a share of 0.01 for dev is 0 of"
    ),
    "audit no manifest": typed("audit nowhere.tsv", "nowhere.tsv: cannot be read"),
    "audit audio": typed("audit dev/bonafide-00.flac", "bonafide-00.flac: is not UTF-8 text|00.flac:1: "),
    "a name that commands the terminal": Case(
        odd_name, "inspect model\x1b[2J", r"model\\x1b\[2J/config.json: cannot be"
    ),
    "a name that is no text": Case(odd_name, "inspect \udcff", r"\\udcff/config.json: cannot be read"),
}
