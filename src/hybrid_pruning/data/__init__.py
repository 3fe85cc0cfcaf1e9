"""Corpora and recordings -> manifests, trials, score files, and batches of crops."""
