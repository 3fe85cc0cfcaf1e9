"""Lay out clips of any manifests with speakers as VoxCeleb was released: folders of speakers, and lists of trials.

For rehearsals of the whole way, from raw corpus to table, where the real corpus is not at hand:

    python studies/voxceleb_in_small.py --train TRAIN.tsv --dev DEV.tsv --out ROOT [--clips 8] [--trials 4000]
    hybrid-pruning sweep recipes/voxceleb/base.yaml --sparsity 0,0.5 --out SWEEP --set corpus.root=ROOT

TRAIN's speakers become VoxCeleb2's dev part. DEV's are halved: one half is VoxCeleb2's test part, to validate on, the
other VoxCeleb1's test part. Of the lists, O has trials among all of its speakers by chance, and H only nontargets whose
clips have the same `source`. What comes out is no VoxCeleb: its figures do not compare with published ones.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import soundfile

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.data.manifest import Utterance, read_manifest

FIRST = {"vox2/dev/wav": 12, "vox2/test/wav": 9000, "vox1/test/wav": 10_270}
"""Part -> the number of its first speaker."""
LISTS = {"O": "vox1_O_cleaned.txt", "H": "vox1_H_cleaned.txt"}

Clip = tuple[str, Utterance]
"""Its name in the corpus, and what it is."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("train", "dev"):
        parser.add_argument(f"--{part}", type=Path, required=True, help="manifest with speakers")
    parser.add_argument("--out", type=Path, required=True, help="the corpus's root")
    parser.add_argument("--clips", type=int, default=8, help="clips a speaker at most")
    parser.add_argument("--trials", type=int, default=4000, help="trials of each kind in a list at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    train, dev = (by_speaker(read_manifest(path), options.clips) for path in (options.train, options.dev))
    order = np.random.default_rng(options.seed).permutation(len(dev))
    validated, tested = ([dev[place] for place in sorted(half)] for half in np.array_split(order, 2))
    parts = dict(zip(FIRST, (train, validated, tested), strict=True))
    clips = {part: write_part(options.out, part, speakers) for part, speakers in parts.items()}
    for letter, name in LISTS.items():
        lines = draw(clips["vox1/test/wav"], letter == "H", options.trials, options.seed)
        (options.out / name).write_text("".join(lines), encoding="utf-8")
        print(f"list {letter}: {len(lines)} trials")


def by_speaker(utterances: Sequence[Utterance], clips: int) -> list[list[Utterance]]:
    """Return the clips of each speaker, up to so many, those speakers that have two at least."""
    speakers: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker, []).append(utterance)
    return [found[:clips] for found in speakers.values() if len(found) > 1]


def write_part(root: Path, part: str, speakers: Sequence[Sequence[Utterance]]) -> list[Clip]:
    """Write a part's audio; return its clips."""
    written = []
    for number, clips in enumerate(speakers, start=FIRST[part]):
        for index, clip in enumerate(clips, start=1):
            name = f"id{number:05d}/video{index:06d}/00001.wav"
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(root / part / name, np.clip(read_audio(clip.path), -1, 1), SAMPLE_RATE_HZ)
            written.append((name, clip))
    print(f"{part}: {len(speakers)} speakers, {len(written)} clips")
    return written


def draw(clips: Sequence[Clip], hard: bool, most: int, seed: int) -> list[str]:
    """Return lines of a list: as many target as nontarget trials, by chance."""
    pairs = list(combinations(clips, 2))
    targets = [pair for pair in pairs if pair[0][1].speaker == pair[1][1].speaker]
    others = [pair for pair in pairs if pair[0][1].speaker != pair[1][1].speaker]
    if hard:
        others = [pair for pair in others if pair[0][1].source == pair[1][1].source]
    rng, count = np.random.default_rng(seed), min(most, len(targets), len(others))
    return [
        f"{label} {one} {other}\n"
        for label, kind in ((1, targets), (0, others))
        for (one, _), (other, _) in (kind[place] for place in sorted(rng.permutation(len(kind))[:count]))
    ]


if __name__ == "__main__":
    main()
