"""Time AS-norm on generated embeddings of the size of VoxCeleb1-H: python dev/time_verification.py [--short].

Prints what each step costs as a share of the whole and of a product of matrices of the same size, in one run, and what
memory the process came to. A straightforward loop over some of the trials stands beside it for scale.
"""

import argparse
import resource
import time

import numpy as np

from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.scoring.backend import Backend, EnrolmentModels
from hybrid_pruning.scoring.embeddings import Embeddings

TRIALS, RECORDINGS, SPEAKERS, WIDTH, TOP_N, LOOPED = 550_894, 137_924, 5_994, 256, 300, 200
"""VoxCeleb1-H cleaned against the speakers of VoxCeleb2 dev."""


def generate(trials: int, recordings: int, speakers: int) -> tuple[Embeddings, Cohort, np.ndarray]:
    """Return embeddings, a cohort and pairs of voices, all random."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((recordings, WIDTH), dtype=np.float32)
    embeddings = Embeddings([str(place) for place in range(recordings)], vectors, rng.uniform(4, 20, recordings))
    voices = rng.standard_normal((speakers, WIDTH), dtype=np.float32)
    voices /= np.linalg.norm(voices, axis=1, keepdims=True)
    mean = np.full(WIDTH, 0.01, dtype=np.float32)
    return embeddings, Cohort(mean, voices, TOP_N, "generated"), rng.integers(0, recordings, (trials, 2))


def score_in_loops(embeddings: Embeddings, cohort: Cohort, pairs: np.ndarray) -> np.ndarray:
    """Return AS-norm scores as one would write them down."""
    scores = []
    for pair in pairs:
        one, other = ((v := embeddings.vectors[place] - cohort.mean) / np.linalg.norm(v) for place in pair)
        closest = [np.sort(cohort.speakers @ side)[-cohort.top_n :].astype(np.float64) for side in (one, other)]
        scores.append(np.mean([(one @ other - near.mean()) / near.std() for near in closest]))
    return np.array(scores)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a hundredth of the size")
    share = 100 if parser.parse_args().short else 1
    embeddings, cohort, pairs = generate(TRIALS // share, RECORDINGS // share, SPEAKERS // (10 if share > 1 else 1))
    voices = EnrolmentModels.of([[place] for place in range(len(embeddings.ids))], embeddings.ids)
    started = time.perf_counter()
    scores, _ = Backend(cohort).score(embeddings, voices, pairs)
    whole = time.perf_counter() - started
    started = time.perf_counter()
    for start in range(0, len(embeddings.ids), 1024):
        embeddings.vectors[start : start + 1024] @ cohort.speakers.T
    product = time.perf_counter() - started
    started = time.perf_counter()
    looped = score_in_loops(embeddings, cohort, pairs[:LOOPED])
    loops = (time.perf_counter() - started) / LOOPED * len(pairs)
    error = abs(looped - scores[:LOOPED]).max()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(pairs):,} trials of {len(embeddings.ids):,} recordings, {len(cohort.speakers):,} speakers, E = {WIDTH}"
    )
    print(f"AS-norm and qualities  {whole:6.1f} s   {whole / product:.2f} times the product of matrices alone")
    print(f"in loops, extrapolated {loops:6.0f} s   {loops / whole:.0f} times as long; largest difference {error:.1e}")
    print(f"memory                 {memory:6.2f} GiB at most")


if __name__ == "__main__":
    main()
