"""`sweep`: one recipe at several sparsities, from raw corpus to a table and a plot of errors over size."""

from hybrid_pruning.jobs.sweep.cells import run_sweep
from hybrid_pruning.jobs.sweep.values import parse_sparsities

__all__ = ["parse_sparsities", "run_sweep"]
