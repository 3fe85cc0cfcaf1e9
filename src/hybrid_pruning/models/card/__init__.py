"""A model and its results -> a model card: Markdown with the front matter that the hub reads; its publication."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from hybrid_pruning.console import printable, say, warn
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.markdown import Markdown, escape, python, shell
from hybrid_pruning.metrics.measures import TITLES, find_warnings
from hybrid_pruning.models import artifact, hub
from hybrid_pruning.models.card.evaluations import (
    COUNTS,
    Result,
    find_results,
    list_entries,
    read_results,
    write_benchmarks,
)
from hybrid_pruning.models.card.lineage import Origin, find_origins, read_datasets
from hybrid_pruning.models.size import SECONDS, count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.trees import number, portable, section

FAMILY_NAMES = {"wavlm": "WavLM", "hubert": "HuBERT", "wav2vec2": "wav2vec 2.0", "whisper": "Whisper encoder"}
UNITS = {
    "conv": "convolution channels",
    "head": "attention heads",
    "attlayer": "attention layers",
    "interm": "FFN neurons",
    "ffnlayer": "FFN layers",
}
COUNTED = {"params": "parameters", "macs": "MACs"}
TEMPLATE = "card.md.j2"
SEAL = "\n<!-- written by hybrid-pruning card {} -->\n"
PIPELINES = {"anti-spoofing": "audio-classification", "speaker-verification": "feature-extraction"}
TAGS = {
    "anti-spoofing": ("anti-spoofing", "audio-deepfake-detection"),
    "speaker-verification": ("speaker-verification", "speaker-embedding"),
}


def card(
    model: str | Path,
    out: str | Path | None = None,
    evaluations: Sequence[str] = (),
    run: str | Path | None = None,
    name: str | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    force: bool = False,
    push: str | None = None,
    private: bool | None = None,
    message: str | None = None,
    base_licence: str | None = None,
    benchmarks: Sequence[str] = (),
) -> Path:
    """Write a model card and, with `push`, publish model and card on the Hugging Face hub.

    A card that is there is published as it stands, unless there is more to say in it.

    Args:
        model: exported model: a folder, or a hub id with `out`.
        out: the file; README.md of the model's folder by default.
        evaluations: files of `evaluate --json`, each FILE or NAME=FILE.
        run: the job of `run` that made the model, for all its evaluations.
        name: of the model in the card; by default that of `push`, or the folder's.
        licence: of the weights, as the hub names licences.
        datasets: hub ids of the data it was trained on, each ID or ID=LICENCE.
        force: replace a card that was edited by hand.
        push: `user/name` of the repository to publish to.
        private: whether a new repository is private; by default as its owner's settings say.
        message: of the commit.
        base_licence: of the encoder it started from; by default, as that of a data set, what the hub says.
        benchmarks: NAME=DATASET or NAME=DATASET:TASK, an evaluation and its benchmark on the hub: written to
            .eval_results beside the card.

    Returns:
        The card's file.
    """
    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the card goes")
    if push is None and (private is not None or message is not None):
        raise InputError("card: --private, --public and --message go with --push")
    if push is not None:
        hub.check_repo_id(push)
    folder = artifact.locate(model)
    target = folder / hub.CARD if out is None else Path(out)
    found = SpeechModel.from_pretrained(folder)
    results = read_results(evaluations, [] if run is None else find_results(run, found.provenance))
    of_data = read_datasets([*datasets])
    if force or results or licence or datasets or name or push is None or not target.is_file():
        title, base = name or push or (folder.resolve().name if folder == Path(model) else str(model)), find_base(found)
        origins = find_origins("" if base.random else base.name, base_licence, of_data)
        write_card(render_card(found, title, results, licence, [*of_data], origins), target, force)
        for origin in origins:
            if origin.doubt:
                warn(origin.doubt)
        say(f"{target}: written" + ("" if push else f"; next: hybrid-pruning card {model} --push USER/NAME"))
    for path in write_benchmarks(benchmarks, results, target.parent):
        say(f"{path}: written")
    if push is not None:
        if push.encode() not in target.read_bytes():
            warn(f"{target} does not name {push}: commands copied from it may not work")
        if portable(found.provenance) != found.provenance:
            warn(f"{folder / artifact.CONFIG} names places of the machine that trained it")
        files = hub.published(folder, target)
        sizes = ", ".join(f"{name} ({path.stat().st_size:,} bytes)" for name, path in files.items())
        say(f"publishing to {push}: {sizes}")
        say(hub.upload(folder, push, target, private, message or hub.MESSAGE))
    return target


def write_card(text: str, out: str | Path, force: bool = False) -> None:
    """Write a card, but not over one that was edited since `render_card` made it, unless forced."""
    out = Path(out)
    if not force and is_edited(out):
        raise InputError(f"{out}: was written or edited by somebody; give another --out, or --force to replace it")
    with atomic_write(out) as handle:
        handle.write(text)


def is_edited(path: Path) -> bool:
    """Return whether a file is there that holds anything but a card as `render_card` gave it."""
    if not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return path.is_file()  # a folder is refused by the write itself
    body, _, seal = text.rstrip("\n").rpartition("\n")
    return seal != seal_of(body).strip("\n")


def seal_of(text: str) -> str:
    """Return the last line of a card, a comment that holds the digest of the lines before it."""
    return SEAL.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def render_card(
    model: SpeechModel,
    name: str,
    results: Sequence[Result] = (),
    licence: str | None = None,
    datasets: Sequence[str] = (),
    origins: Sequence[Origin] = (),
) -> str:
    """Return a model's card; the same input gives the same text.

    `ModelCard.from_template` would render it without escaping, so the template has an environment of its own.

    Args:
        name: the repository's id, or any other.
        licence: of the weights, as the hub names licences (`apache-2.0`, `cc-by-4.0`); unknown by default.
        datasets: ids of the hub's data sets that it was trained on.
        origins: the backbone and the data with their licences.
    """
    environment = Environment(
        loader=PackageLoader("hybrid_pruning.models.card", "."),
        undefined=StrictUndefined,
        autoescape=False,  # that of HTML; `finalize` is that of Markdown
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"python": python, "shell": shell}
    base, pruning = find_base(model), describe_pruning(model)
    metrics = [metric for metric in TITLES if any(metric in result.metrics for result in results)]
    task, fits = PIPELINES[model.task], () if model.calibration is None else model.calibration.fits
    about = ModelCardData(
        license=licence and printable(licence),
        library_name="hybrid-pruning",
        pipeline_tag=task,
        tags=[
            *("hybrid-pruning", "speech", *TAGS[model.task], str(model.backbone.config.model_type)),
            *(["pruned"] if pruning else []),
        ],
        base_model=base.name if base.is_on_hub and not base.random else None,
        datasets=list(map(printable, datasets)) or None,
        metrics=metrics or None,
        model_name=printable(name).rpartition("/")[2] if metrics else None,
        eval_results=[entry for result in results if result.trials for entry in list_entries(result, task)] or None,
    )
    resampled = [result.resampled for result in results if result.resampled]
    text = environment.get_template(TEMPLATE).render(
        front_matter=Markdown(about.to_yaml()),
        name=name,
        results=results,
        licence=licence,
        origins=origins,
        task=model.task,
        base=base,
        pruning=pruning,
        sizes=measure_sizes(model),
        metrics=metrics,
        titles=TITLES,
        kinds=[kind for kind in COUNTS.values() if any(kind in result.trials for result in results)],
        resampled=resampled[0]
        if len(set(resampled)) == 1
        else f"{', '.join(resampled)}, set by set"
        if resampled
        else "",
        has_recipe=bool(section(model.provenance, "recipe")),
        facts=describe_training(model),
        warn=find_warnings,
        fits=fits,
        fitted=[result.name for result in results if result.name in {Path(fit.keys).stem for fit in fits}],
    )
    return text + seal_of(text)


# --- facts of the model and its provenance; unknown ones are left out ---


@dataclass(frozen=True, slots=True)
class Base:
    """The encoder that a model was made from, or its shape alone; its name is the recipe's, empty where unknown."""

    family: str
    name: str
    is_on_hub: bool
    random: bool


def find_base(model: SpeechModel) -> Base:
    """Return the origin of a model's backbone."""
    backbone = section(model.provenance, "recipe", "backbone")
    source, kind = str(backbone.get("source") or ""), str(model.backbone.config.model_type)
    on_hub = source.count("/") == 1 and hub.is_repo_id(source) and not Path(source).exists()
    name = source if on_hub else Path(source).name
    return Base(FAMILY_NAMES.get(kind, kind), name, on_hub, bool(backbone.get("random")))


def measure_sizes(model: SpeechModel) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table of sizes: title, exact size, size of the dense original, fraction removed."""
    budget = count_kept(model.backbone).budget
    counts = (
        ("backbone parameters", budget.params, budget.dense_params, budget.sparsity),
        (f"backbone MACs for {SECONDS:g} s", budget.macs, budget.dense_macs, budget.macs_sparsity),
    )
    rows = [(title, f"{int(now):,}", f"{int(dense):,}", f"{float(cut):.1%}") for title, now, dense, cut in counts]
    return [*rows, ("head parameters", f"{count_parameters(model.head, model.classifier):,}", "", "")]


def describe_pruning(model: SpeechModel) -> str:
    """Return the kinds of units that could be cut, and the target; empty for a dense model."""
    shape = shape_of(model.backbone)
    if shape is None:
        return ""
    pruning = section(model.provenance, "recipe", "pruning")
    asked = pruning.get("target_sparsity") if pruning.get("use_pruning_loss", True) else None  # by another stage
    goal = number(model.provenance.get("snapshot_at", asked))
    counted = COUNTED.get(str(pruning.get("constraint")))
    aim = f"; the target was {goal:.0%} of the {counted}" if goal and counted else ""
    return f"{', '.join(UNITS.get(unit, unit) for unit in shape.units)} could be cut{aim}"


def describe_training(model: SpeechModel) -> list[tuple[str, str]]:
    """Return the known facts of the data and the training, title and value."""
    recipe = section(model.provenance, "recipe")
    data, augment, training = (section(recipe, part) for part in ("data", "augment", "training"))
    kinds = [name for name, value in augment.items() if isinstance(value, Mapping)]
    augmented = f"{number(augment.get('probability')):.0%} of the examples: {', '.join(kinds)}" if kinds else "none"
    counts = () if model.classes is None else zip(model.classes.labels, model.classes.counts, strict=True)
    rows = {
        "corpus": section(recipe, "corpus").get("name"),
        "trained on": _file(data.get("train")),
        "training utterances": ", ".join(f"{count:,} {label}" for label, count in counts),
        "validated on": _file(data.get("dev")),
        "length of an example": f"{data['crop_seconds']} s" if data.get("crop_seconds") else None,
        "augmentation": augmented if recipe else None,
        "epochs": training.get("epochs"),
        "batch": f"{training['batch_size']} utterances a process" if training.get("batch_size") else None,
        "pruning": describe_pruning(model),
        "seed": recipe.get("seed"),
        "checkpoints averaged": model.provenance.get("averaged_checkpoints"),
    }
    return [(title, str(value)) for title, value in rows.items() if value not in (None, "")]


def _file(path: Any) -> str:
    """Return the last two parts of a path, or of several by name: the others are private to their author."""
    if isinstance(path, Mapping):
        return ", ".join(map(_file, path.values()))
    return "/".join(Path(str(path)).parts[-2:]) if path else ""
