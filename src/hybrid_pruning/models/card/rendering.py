"""A model and its results -> the text of its card: front matter and page from one template."""

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from hybrid_pruning.console import printable
from hybrid_pruning.markdown import Markdown, escape, python, shell
from hybrid_pruning.metrics.measures import TITLES, find_warnings, show_value
from hybrid_pruning.models.card import facts
from hybrid_pruning.models.card.measured import COUNTS, Result
from hybrid_pruning.trees import section

if TYPE_CHECKING:
    from hybrid_pruning.models.speech_model import SpeechModel

TEMPLATE = "card.md.j2"
SEAL = "\n<!-- written by hybrid-pruning card {} -->\n"
PIPELINES = {"anti-spoofing": "audio-classification", "speaker-verification": "feature-extraction"}
TAGS = {
    "anti-spoofing": ("anti-spoofing", "audio-deepfake-detection"),
    "speaker-verification": ("speaker-verification", "speaker-embedding"),
}


def render_card(
    model: "SpeechModel",
    name: str,
    results: Sequence[Result] = (),
    licence: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """Return a model's card; the same input gives the same text.

    `ModelCard.from_template` would render it without escaping, so the template has an environment of its own.

    Args:
        model: the model.
        name: of the model: the repository's id, or any other.
        results: of its evaluations.
        licence: of the weights, as the hub names licences (`apache-2.0`, `cc-by-4.0`); unknown by default.
        datasets: ids of the hub's data sets that it was trained on.
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
    base, pruning = facts.find_base(model), facts.describe_pruning(model)
    metrics = [metric for metric in TITLES if any(metric in result.metrics for result in results)]
    task = PIPELINES[model.task]
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
        eval_results=[entry for result in results for entry in _entries(result, task)] or None,
    )
    text = environment.get_template(TEMPLATE).render(
        front_matter=Markdown(about.to_yaml()),
        name=name,
        results=results,
        licence=licence,
        task=model.task,
        base=base,
        pruning=pruning,
        sizes=facts.measure_sizes(model),
        metrics=metrics,
        titles=TITLES,
        kinds=[kind for kind in COUNTS.values() if any(kind in result.trials for result in results)],
        resampled=next((result.resampled for result in results if result.resampled), ""),
        has_recipe=bool(section(model.provenance, "recipe")),
        data=facts.describe_data(model),
        training=facts.describe_training(model),
        warn=find_warnings,
        fits=() if model.calibration is None else model.calibration.fits,
        fitted=[result.name for result in results if result.name in facts.calibrated_on(model)],
    )
    return text + seal_of(text)


def seal_of(text: str) -> str:
    """Return the last line of a card, a comment that holds the digest of the lines before it."""
    return SEAL.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def _entries(result: Result, task: str) -> list[EvalResult]:
    """Return the metrics of a set as entries of the hub's model index; error rates in percent, as their titles say."""
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
