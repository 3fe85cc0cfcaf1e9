"""One small file per corpus: its protocol files -> manifests (pure text, no audio)."""

from hybrid_pruning.corpora import asvspoof5

PREPARE = {"asvspoof5": asvspoof5.prepare}
"""Corpus name -> (root, out) -> the manifests written, by part."""
