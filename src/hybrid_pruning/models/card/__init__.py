"""A model and its figures -> a model card: Markdown with the front matter that the hub reads."""

from hybrid_pruning.models.card.markdown_page import Request, is_edited, render_card, write_card
from hybrid_pruning.models.card.measured import Result, find_results, read_results

__all__ = ["Request", "Result", "find_results", "is_edited", "read_results", "render_card", "write_card"]
