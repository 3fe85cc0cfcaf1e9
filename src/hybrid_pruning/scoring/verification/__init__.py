"""Speaker verification: embeddings of recordings -> scores of trials, or of one pair."""
