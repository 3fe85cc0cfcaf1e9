"""hybrid-pruning: compress self-supervised speech models while they learn their task."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hybrid_pruning.extras import explain

if TYPE_CHECKING:
    from hybrid_pruning import metrics as metrics
    from hybrid_pruning import pruning as pruning
    from hybrid_pruning.benchmarks.comparison import benchmark as benchmark
    from hybrid_pruning.data.checks import audit as audit
    from hybrid_pruning.data.corpora import prepare as prepare
    from hybrid_pruning.data.first_recipe import init as init
    from hybrid_pruning.errors import InputError as InputError
    from hybrid_pruning.evaluation.fitting import calibrate as calibrate
    from hybrid_pruning.evaluation.fusion import fuse as fuse
    from hybrid_pruning.evaluation.results import evaluate as evaluate
    from hybrid_pruning.jobs.own_files import calibrate_bonafide as calibrate_bonafide
    from hybrid_pruning.jobs.own_files import calibrate_enrol as calibrate_enrol
    from hybrid_pruning.jobs.quickstart import quickstart as quickstart
    from hybrid_pruning.jobs.run import run as run
    from hybrid_pruning.jobs.sweep import sweep as sweep
    from hybrid_pruning.models.backbone import Backbone as Backbone
    from hybrid_pruning.models.backbone import Hidden as Hidden
    from hybrid_pruning.models.card import card as card
    from hybrid_pruning.models.conversion import convert as convert
    from hybrid_pruning.models.onnx.runtime import OnnxModel as OnnxModel
    from hybrid_pruning.models.speech_model import SpeechModel as SpeechModel
    from hybrid_pruning.models.speech_model import load_backbone as load_backbone
    from hybrid_pruning.reporting.inspection import inspect_model as inspect_model
    from hybrid_pruning.reporting.page import report as report
    from hybrid_pruning.reporting.probe import probe as probe
    from hybrid_pruning.scoring.embeddings import embed as embed
    from hybrid_pruning.scoring.scores import embed_paths as embed_paths
    from hybrid_pruning.scoring.scores import score as score
    from hybrid_pruning.scoring.scores import score_paths as score_paths
    from hybrid_pruning.scoring.streams import stream as stream
    from hybrid_pruning.scoring.trial_scores import add_cohort as add_cohort
    from hybrid_pruning.scoring.verdicts import detect as detect
    from hybrid_pruning.scoring.verdicts import verify as verify
    from hybrid_pruning.serving.server import serve as serve
    from hybrid_pruning.serving.site import web as web
    from hybrid_pruning.training.export import export as export
    from hybrid_pruning.training.export import export_snapshots as export_snapshots
    from hybrid_pruning.training.launch import train as train

__version__ = "0.1.0"
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
    "calibrate_bonafide": "jobs.own_files",
    "calibrate_enrol": "jobs.own_files",
    "card": "models.card",
    "convert": "models.conversion",
    "detect": "scoring.verdicts",
    "embed": "scoring.embeddings",
    "embed_paths": "scoring.scores",
    "evaluate": "evaluation.results",
    "export": "training.export",
    "export_snapshots": "training.export",
    "fuse": "evaluation.fusion",
    "init": "data.first_recipe",
    "inspect_model": "reporting.inspection",
    "load_backbone": "models.speech_model",
    "prepare": "data.corpora",
    "probe": "reporting.probe",
    "quickstart": "jobs.quickstart",
    "report": "reporting.page",
    "run": "jobs.run",
    "score": "scoring.scores",
    "score_paths": "scoring.scores",
    "serve": "serving.server",
    "stream": "scoring.streams",
    "sweep": "jobs.sweep",
    "train": "training.launch",
    "verify": "scoring.verdicts",
    "web": "serving.site",
}
"""Module of each public name, imported at the first use of the name: torch is loaded where it is needed alone."""
__all__ = sorted(["__version__", "metrics", "pruning", *_PLACES])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    try:
        module = import_module(f"{__name__}.{_PLACES.get(name, name)}")
    except ModuleNotFoundError as error:
        raise explain(error) from error
    return getattr(module, name) if name in _PLACES else module


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
