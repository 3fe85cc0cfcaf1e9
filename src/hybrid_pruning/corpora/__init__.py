"""One small file per corpus: its protocol files -> manifest (pure text, no audio)."""
