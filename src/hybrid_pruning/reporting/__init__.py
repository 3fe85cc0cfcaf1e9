"""Runs -> one page: HTML that needs nothing but itself, with every figure drawn when the page is written."""

from hybrid_pruning.metrics.bootstrap import ROUNDS
from hybrid_pruning.reporting.page import report

__all__ = ["ROUNDS", "report"]
