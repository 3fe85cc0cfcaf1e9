"""What gates cost in training and what shrinking saves in use: ratios, each measured side by side in one run."""
