"""Whole jobs: a corpus -> a table; one recipe at several sparsities; the embedded real job."""
