"""The cost of gates in training and the savings of shrinking in use: ratios, measured side by side in one run."""
