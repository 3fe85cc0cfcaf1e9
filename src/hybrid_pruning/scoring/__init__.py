"""Files through any model, resumable: embeddings, scores, verdicts, verification."""
