"""Time evaluation at the size of ASVspoof 5's evaluation set: `python dev/time_evaluation.py`.

Every figure is processor time, also as a multiple of sorting as many scores in the same run: seconds alone say as much
about the machine and what else it does. Scores are of two classes (three in track 2) of overlapping normals, spoken by
737 speakers.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hybrid_pruning import metrics
from hybrid_pruning.data.tracks import TRACK1
from hybrid_pruning.data.trials import join_scores, read_keys
from hybrid_pruning.metrics import bootstrap, measures

BONAFIDE, SPOOF, SPEAKERS, ROUNDS = 138_688, 542_086, 737, 100
MEANS = {"target": (2.0, 2.0, 2.0), "nontarget": (2.0, -2.0, -2.0), "spoof": (-1.0, 1.0, -1.5)}
"""Of the countermeasure, the verifier, and both together."""


def measure(work: Callable[[], object], repeats: int = 1) -> tuple[float, float]:
    """Return the least processor time and wall time of some work, in seconds."""
    least = (float("inf"), float("inf"))
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        work()
        least = min(least, (time.process_time() - start[0], time.perf_counter() - start[1]))
    return least


def write_files(folder: Path, classes: np.ndarray, scores: np.ndarray, speakers: np.ndarray) -> tuple[Path, Path]:
    """Write a score file, and a protocol as ASVspoof 5 has it."""
    with (folder / "scores.tsv").open("w") as out, (folder / "protocol.txt").open("w") as keys:
        out.write("filename\tcm-score\n")
        for index, (kind, score, speaker) in enumerate(zip(classes, scores.tolist(), speakers, strict=True)):
            out.write(f"E_{index:010d}\t{score!r}\n")
            keys.write(f"{speaker} E_{index:010d} F C01 1 - AC1 A17 {kind} -\n")
    return folder / "scores.tsv", folder / "protocol.txt"


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat(["bonafide", "spoof"], [BONAFIDE, SPOOF]))
    scores = rng.normal(0, 1.25, classes.size) + np.where(classes == "bonafide", 2.0, -2.0)
    speakers = np.array([f"E_{index:04d}" for index in rng.integers(SPEAKERS, size=classes.size)])
    track2 = np.array(list(MEANS))[rng.choice(3, classes.size, p=[0.15, 0.25, 0.6])]
    means = np.select([track2 == kind for kind in MEANS], [np.array(MEANS[kind])[:, None] for kind in MEANS])
    columns = dict(zip(("cm-score", "asv-score", "sasv-score"), means + rng.normal(0, 1.2, means.shape), strict=True))
    sort = measure(lambda: np.sort(scores), 5)[0]

    def tell(what: str, work: Callable[[], object]) -> None:
        spent, wall = measure(work)
        print(f"{what:62} {spent:7.2f} s {wall:7.2f} s on the wall {spent / sort:8.1f} sorts", flush=True)

    print(f"{classes.size:,} trials, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; a sort: {sort:.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        score_file, protocol = write_files(Path(folder), classes, scores, speakers)
        tell("read a protocol", lambda: read_keys(protocol, TRACK1))
        keys = read_keys(protocol, TRACK1)
        tell("read the scores and join them", lambda: join_scores(score_file, keys, TRACK1))
    one = {"cm-score": scores}
    tell(
        "track 1: EER, minDCF, actDCF, Cllr, minimum Cllr",
        lambda: measures.Sample(one, classes).measure(measures.TRACK1),
    )
    tell("track 2: a-DCF, t-DCF, t-EER", lambda: measures.Sample(columns, track2).measure(measures.TRACK2_TANDEM))
    asv = [columns["asv-score"][track2 == kind] for kind in MEANS]
    human, spoof = (columns["cm-score"][(track2 == "spoof") == fake] for fake in (False, True))
    tell("t-EER alone", lambda: metrics.t_eer(human, spoof, *asv))
    for name, table, kinds, systems in (
        ("track 1", measures.TRACK1, classes, one),
        ("track 2", measures.TRACK2_TANDEM, track2, columns),
    ):
        for resampling in (bootstrap.resample_speakers(kinds, speakers), bootstrap.resample_trials(kinds)):
            tell(
                f"{ROUNDS} resamples of {resampling.count:,} {resampling.drawn}, {name}",
                lambda t=table, k=kinds, s=systems, r=resampling: bootstrap.intervals(t, k, s, r, ROUNDS),
            )


if __name__ == "__main__":
    main()
