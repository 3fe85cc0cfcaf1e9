"""hybrid-pruning: compress self-supervised speech models while they learn their task."""

from pathlib import Path

from hybrid_pruning import metrics, pruning
from hybrid_pruning.artifact import is_artifact
from hybrid_pruning.backbone import Backbone, Hidden, load_transformers
from hybrid_pruning.errors import InputError
from hybrid_pruning.model import SpeechModel

__version__ = "0.1.0"
__all__ = ["Backbone", "Hidden", "InputError", "SpeechModel", "__version__", "load_backbone", "metrics", "pruning"]


def load_backbone(name_or_path: str | Path, random: bool = False) -> Backbone:
    """Load an SSL encoder, whatever form it comes in.

    Args:
        name_or_path: a hub id (``microsoft/wavlm-base``), a local transformers folder, or one of our artifacts.
        random: take the architecture alone, with fresh weights.

    Returns:
        The encoder in evaluation mode; ``backbone(wave, lengths)`` gives all hidden states.

    Raises:
        InputError: it cannot be found or read, is of an unsupported family, or lacks weights.
    """
    if is_artifact(name_or_path):
        return SpeechModel.from_pretrained(name_or_path).backbone
    return load_transformers(name_or_path, random).eval()
