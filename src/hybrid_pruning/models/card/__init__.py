"""A model and its results -> a model card: Markdown with the front matter that the hub reads."""

from hybrid_pruning.models.card.measured import Result, find_results, read_results
from hybrid_pruning.models.card.publishing import card, is_edited, write_card
from hybrid_pruning.models.card.rendering import render_card

__all__ = ["Result", "card", "find_results", "is_edited", "read_results", "render_card", "write_card"]
