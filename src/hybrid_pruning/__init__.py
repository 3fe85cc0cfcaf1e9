"""hybrid-pruning: compress self-supervised speech models while they learn their task."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_pruning import metrics, pruning
    from hybrid_pruning.benchmarks.comparison import benchmark
    from hybrid_pruning.data.checks import audit
    from hybrid_pruning.data.corpora import prepare
    from hybrid_pruning.errors import InputError
    from hybrid_pruning.evaluation.fitting import calibrate
    from hybrid_pruning.evaluation.fusion import fuse
    from hybrid_pruning.evaluation.results import evaluate
    from hybrid_pruning.jobs.quickstart import quickstart
    from hybrid_pruning.jobs.run import run
    from hybrid_pruning.jobs.sweep import sweep
    from hybrid_pruning.models.backbone import Backbone, Hidden
    from hybrid_pruning.models.card.publishing import card
    from hybrid_pruning.models.conversion import convert
    from hybrid_pruning.models.onnx.runtime import OnnxModel
    from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
    from hybrid_pruning.reporting.inspection import inspect_model
    from hybrid_pruning.reporting.page import report
    from hybrid_pruning.scoring.embeddings import embed
    from hybrid_pruning.scoring.scores import embed_paths, score, score_paths
    from hybrid_pruning.scoring.trial_scores import add_cohort
    from hybrid_pruning.scoring.verdicts import detect, verify
    from hybrid_pruning.training.export import export, export_snapshots
    from hybrid_pruning.training.launch import train

__version__ = "0.1.0"
__all__ = [
    "Backbone",
    "Hidden",
    "InputError",
    "OnnxModel",
    "SpeechModel",
    "__version__",
    "add_cohort",
    "audit",
    "benchmark",
    "calibrate",
    "card",
    "convert",
    "detect",
    "embed",
    "embed_paths",
    "evaluate",
    "export",
    "export_snapshots",
    "fuse",
    "inspect_model",
    "load_backbone",
    "metrics",
    "prepare",
    "pruning",
    "quickstart",
    "report",
    "run",
    "score",
    "score_paths",
    "sweep",
    "train",
    "verify",
]

_PLACES = {
    "Backbone": "models.backbone",
    "Hidden": "models.backbone",
    "InputError": "errors",
    "OnnxModel": "models.onnx.runtime",
    "SpeechModel": "models.speech_model",
    "add_cohort": "scoring.trial_scores",
    "audit": "data.checks",
    "benchmark": "benchmarks.comparison",
    "calibrate": "evaluation.fitting",
    "card": "models.card.publishing",
    "convert": "models.conversion",
    "detect": "scoring.verdicts",
    "embed": "scoring.embeddings",
    "embed_paths": "scoring.scores",
    "evaluate": "evaluation.results",
    "export": "training.export",
    "export_snapshots": "training.export",
    "fuse": "evaluation.fusion",
    "inspect_model": "reporting.inspection",
    "load_backbone": "models.speech_model",
    "prepare": "data.corpora",
    "quickstart": "jobs.quickstart",
    "report": "reporting.page",
    "run": "jobs.run",
    "score": "scoring.scores",
    "score_paths": "scoring.scores",
    "sweep": "jobs.sweep",
    "train": "training.launch",
    "verify": "scoring.verdicts",
}
"""Module of each public name, imported at the first use of the name: torch is loaded where it is needed alone."""


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
