"""A recipe -> a run -> an exported model."""
