"""hybrid-pruning: compress self-supervised speech models while they learn their task."""

from hybrid_pruning import pruning

__version__ = "0.1.0"
__all__ = ["pruning"]
