"""hybrid-pruning: compress self-supervised speech models while they learn their task."""

from hybrid_pruning import metrics, pruning
from hybrid_pruning.backbone import Backbone, Hidden
from hybrid_pruning.errors import InputError
from hybrid_pruning.model import SpeechModel, load_backbone
from hybrid_pruning.scoring import score_paths

__version__ = "0.1.0"
__all__ = [
    "Backbone",
    "Hidden",
    "InputError",
    "SpeechModel",
    "__version__",
    "load_backbone",
    "metrics",
    "pruning",
    "score_paths",
]
