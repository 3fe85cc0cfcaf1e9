"""The card itself: front matter and page from one template, written so that no edited card is lost."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from hybrid_pruning.console import printable
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.markdown import Markdown, escape, python, shell
from hybrid_pruning.metrics.measures import TITLES, find_warnings, show_value
from hybrid_pruning.models.card import facts
from hybrid_pruning.models.card.facts import Base, Described
from hybrid_pruning.models.card.measured import COUNTS, Result
from hybrid_pruning.trees import section

TEMPLATE = "card.md.j2"
SEAL = "\n<!-- written by hybrid-pruning card {} -->\n"
PIPELINES = {"anti-spoofing": "audio-classification", "speaker-verification": "feature-extraction"}
TAGS = {
    "anti-spoofing": ("anti-spoofing", "audio-deepfake-detection"),
    "speaker-verification": ("speaker-verification", "speaker-embedding"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a card says that the model does not know.

    Args:
        name: of the model: the repository's id, or any other.
        results: figures of its evaluations.
        licence: the weights', as the hub names licences (`apache-2.0`, `cc-by-4.0`); unknown by default.
        datasets: ids of the hub's data sets that it was trained on.
    """

    name: str
    results: Sequence[Result] = ()
    licence: str | None = None
    datasets: Sequence[str] = ()


def render_card(model: Described, request: Request) -> str:
    """Return a model's card; the same input gives the same text.

    Args:
        model: the model.
        request: what it does not know itself.
    """
    base = facts.find_base(model)
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
    text = environment.get_template(TEMPLATE).render(_describe(model, request, base))
    return text + SEAL.format(_digest(text))


def write_card(text: str, out: str | Path, force: bool = False) -> None:
    """Write a card where there is none, or one that nobody has touched since.

    Args:
        text: what `render_card` gave.
        out: the file.
        force: write over a card that somebody edited.

    Raises:
        InputError: a file is there that somebody wrote or edited, or it cannot be written.
    """
    out = Path(out)
    if not force and is_edited(out):
        raise InputError(f"{out}: was written or edited by somebody; give another --out, or --force to replace it")
    with atomic_write(out) as handle:
        handle.write(text)


def is_edited(path: Path) -> bool:
    """Whether a file is there that holds anything but a card as `render_card` gave it."""
    if not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return path.is_file()  # a folder is refused in words of its own
    body, _, seal = text.rstrip("\n").rpartition("\n")
    return seal != SEAL.format(_digest(body)).strip("\n")


def _describe(model: Described, request: Request, base: Base) -> dict[str, Any]:
    """Return all that the template shows."""
    metrics = [metric for metric in TITLES if any(metric in result.metrics for result in request.results)]
    kinds = [kind for kind in COUNTS.values() if any(kind in result.trials for result in request.results)]
    return {
        "front_matter": Markdown(_front_matter(model, request, base)),
        "request": request,
        "task": model.task,
        "base": base,
        "pruning": facts.describe_pruning(model),
        "sizes": facts.measure_sizes(model),
        "metrics": metrics,
        "titles": TITLES,
        "kinds": kinds,
        "resampled": next((result.resampled for result in request.results if result.resampled), ""),
        "has_recipe": bool(section(model.provenance, "recipe")),
        "data": facts.describe_data(model),
        "training": facts.describe_training(model),
        "warn": find_warnings,
        "fits": () if model.calibration is None else model.calibration.fits,
        "fitted": [result.name for result in request.results if result.name in facts.calibrated_on(model)],
    }


def _front_matter(model: Described, request: Request, base: Base) -> str:
    tags = ["hybrid-pruning", "speech", *TAGS[model.task], str(model.backbone.config.model_type)]
    if facts.describe_pruning(model):
        tags.append("pruned")
    metrics = [metric for metric in TITLES if any(metric in result.metrics for result in request.results)]
    about = ModelCardData(
        license=request.licence and printable(request.licence),
        library_name="hybrid-pruning",
        pipeline_tag=PIPELINES[model.task],
        tags=tags,
        base_model=base.name if base.is_on_hub and not base.random else None,
        datasets=list(map(printable, request.datasets)) or None,
        metrics=metrics or None,
        model_name=printable(request.name).rpartition("/")[2] if metrics else None,
        eval_results=[one for result in request.results for one in _entries(result, PIPELINES[model.task])] or None,
    )
    return about.to_yaml()


def _entries(result: Result, task: str) -> list[EvalResult]:
    """Return a set's figures as the hub's model index has them; error rates in percent, as their titles say."""
    kind = re.sub(r"[^\w.-]+", "-", printable(result.name)).strip("-") or "evaluation"
    return [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=printable(result.name),
            metric_type=metric,
            metric_name=TITLES[metric],
            metric_value=float(show_value(metric, value)),
        )
        for metric, value in result.metrics.items()
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
