"""`python -m hybrid_pruning.cli`, the same as `hybrid-pruning`."""

from hybrid_pruning.cli import main

main()
