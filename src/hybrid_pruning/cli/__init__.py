"""The command line: each verb calls one function of the library, imported in it, so that `--help` answers at once."""

from hybrid_pruning.cli import card, detect, evaluate, inspect, prepare, score, serve, train  # noqa: F401  registers the verbs
from hybrid_pruning.cli.app import app, main, order_verbs

__all__ = ["app", "main"]

order_verbs(
    *("quickstart", "run", "sweep", "prepare", "audit", "init", "train", "export", "score", "cohort", "embed"),
    *(
        "evaluate",
        "calibrate",
        "fuse",
        "detect",
        "verify",
        "serve",
        "web",
        "convert",
        "report",
        "card",
        "inspect",
        "probe",
    ),
    *("benchmark", "doctor"),
)
