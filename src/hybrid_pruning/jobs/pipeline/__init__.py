"""`run`: from a raw corpus to its table in one go; what is done already and still current is not done again."""

from hybrid_pruning.jobs.pipeline.job import Job, run_recipe
from hybrid_pruning.jobs.pipeline.judge import DEV

__all__ = ["DEV", "Job", "run_recipe"]
