"""Runs -> one page: HTML that needs nothing but itself, with every figure drawn when the page is written."""

from hybrid_pruning.reporting.page import ROUNDS, write_report

__all__ = ["ROUNDS", "write_report"]
