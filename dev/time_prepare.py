"""How long `prepare asvspoof5` takes for an evaluation set of the official size, and what it needs of memory.

Usage: python dev/time_prepare.py [LINES] [--track2] [--durations]

Makes a corpus in the official layout in a temporary folder, LINES utterances as the protocol has them with empty audio
files (with --durations copies of one second of noise, by hard links), and prepares it in a process of its own, which
prints its own seconds and peak resident memory, with those of the imports alone beside it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

LINES = 680_774
TRIALS = 834_536
TARGETS = 367
PREPARE = """
import resource, sys, time
from hybrid_pruning.data.corpora import prepare
from hybrid_pruning.data.checks import add_durations
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
root, out, durations = sys.argv[1:]
print(f"imports: peak {peak():.0f} MiB")
for step in ("prepare", "durations", "durations again")[: 3 if durations == "True" else 1]:
    start = time.perf_counter()
    if step != "durations again":
        prepared = prepare("asvspoof5", root, out, durations=False) if step == "prepare" else prepared
    if step != "prepare":
        for manifest in prepared.manifests.values():
            add_durations(manifest)
    print(f"{step}: {time.perf_counter() - start:.1f} s, peak {peak():.0f} MiB")
print(prepared.counts, len(prepared.warnings), "warnings")
"""


def main() -> None:
    """Make the corpus, prepare it, and print what that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lines", nargs="?", type=int, default=LINES)
    parser.add_argument("--track2", action="store_true", help="trials and enrolment too")
    parser.add_argument("--durations", action="store_true", help="read durations, twice")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        root = Path(folder, "ASVspoof5")
        make_corpus(root, arguments.lines, arguments.track2, arguments.durations)
        print(f"corpus of {arguments.lines:,} utterances made in {time.perf_counter() - start:.0f} s")
        command = [sys.executable, "-c", PREPARE, str(root), str(Path(folder, "manifests")), str(arguments.durations)]
        subprocess.run(command, check=True)


def make_corpus(root: Path, lines: int, track2: bool, real_audio: bool) -> None:
    """Write an evaluation set in the official layout."""
    audio = root / "flac_E_eval"
    audio.mkdir(parents=True)
    names = [f"E_{13 * index:010d}" for index in range(lines)]
    enrolment = [[f"E_A{3 * target + index:09d}" for index in range(3)] for target in range(TARGETS if track2 else 0)]
    noise = root / "noise.flac"
    soundfile.write(noise, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    for index, name in enumerate([*names, *chain.from_iterable(enrolment)]):
        if not real_audio:
            (audio / f"{name}.flac").touch()
        elif index % 50_000 == 0:  # a file has room for some 65,000 names
            source = audio / f"{name}.flac"
            source.write_bytes(noise.read_bytes())
        else:
            os.link(source, audio / f"{name}.flac")
    with (root / "ASVspoof5.eval.track_1.tsv").open("w") as handle:
        for index, name in enumerate(names):
            speaker, codec = (
                f"E_{index % 737:04d}",
                f"C{index % 12:02d} {index % 5} E_0009486171" if index % 12 else "- - -",
            )
            key = "- bonafide bonafide" if index % 5 == 0 else f"AC{1 + index % 3} A{17 + index % 16} spoof"
            handle.write(f"{speaker} {name} {'FM'[index % 2]} {codec} {key} -\n")
    if track2:
        with (root / "ASVspoof5.eval.track_2.enroll.tsv").open("w") as handle:
            handle.writelines(f"E_{target:04d} {','.join(files)}\n" for target, files in enumerate(enrolment))
        with (root / "ASVspoof5.eval.track_2.trial.tsv").open("w") as handle:
            for index in range(TRIALS):
                name, target = names[index % lines], index // lines + index % (TARGETS - 1)
                key = f"bonafide {('target', 'nontarget')[index % 2]}" if index % 4 else "A17 spoof"
                handle.write(f"E_{target:04d} {name} F {key}\n")


if __name__ == "__main__":
    main()
