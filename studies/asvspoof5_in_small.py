"""Lay out clips of any anti-spoofing manifests as ASVspoof 5 was released: folders, protocols, codecs in eval only.

For rehearsals of the whole way, from raw corpus to table, where the real corpus is not at hand:

    python studies/asvspoof5_in_small.py --train TRAIN.tsv --dev DEV.tsv --eval EVAL.tsv --out ROOT [--columns 6]

Codecs are those of `hybrid_pruning.data.augment.codec`. Encodec (C04, C07) is a network of its own and C11 a set of
devices: something else stands in their places. What stands for codecs that this machine's ffmpeg lacks is printed.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.data.augment.codec import CODECS, Codec
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

PARTS = {
    "train": ("T", "flac_T", "ASVspoof5.train.tsv"),
    "dev": ("D", "flac_D", "ASVspoof5.dev.track_1.tsv"),
    "eval": ("E", "flac_E_eval", "ASVspoof5.eval.track_1.tsv"),
}
CONDITIONS = {
    "C01": "opus",
    "C02": "amr-wb",
    "C03": "speex",
    "C04": "mp3",  # Encodec's place
    "C05": "mp3",
    "C06": "m4a",
    "C07": "mp3",  # MP3 and Encodec's place
    "C08": "opus-nb",
    "C09": "amr-nb",
    "C10": "speex-nb",
    "C11": "narrowband",  # the devices' place
}
STAND_IN = "narrowband"
QUALITIES = 5
FIRST_ATTACK = {"train": 1, "dev": 9, "eval": 17}

Wave = np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in PARTS:
        parser.add_argument(f"--{part}", type=Path, required=True, help=f"manifest to take the {part} part from")
    parser.add_argument("--out", type=Path, required=True, help="the corpus's root")
    parser.add_argument("--clips", type=int, default=300, help="clips a part at most, half of them bona fide")
    parser.add_argument("--columns", type=int, choices=(10, 6), default=10, help="of the protocols")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    codecs = load_codecs()
    for part in PARTS:
        clips = choose(read_manifest(getattr(options, part)), options.clips, options.seed)
        count = write_part(part, clips, options.out, options.columns, codecs)
        print(f"{part}: {count} clips")


def load_codecs() -> dict[str, Codec]:
    """Return the codec of every condition, and say what stands in for what this machine lacks."""
    found = {}
    for condition, name in CONDITIONS.items():
        try:
            found[condition] = Codec([name])
        except InputError as error:
            print(f"{condition}: {STAND_IN} stands in for {name} ({error})")
            found[condition] = Codec([STAND_IN])
    return found


def choose(utterances: Sequence[Utterance], clips: int, seed: int) -> list[Utterance]:
    """Return up to `clips` utterances, half of each class, in a random order."""
    rng = np.random.default_rng(seed)
    chosen: list[Utterance] = []
    for label in Label:
        mine = [utterance for utterance in utterances if utterance.label == label]
        chosen += [mine[index] for index in rng.permutation(len(mine))[: clips // 2]]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def write_part(part: str, clips: Sequence[Utterance], root: Path, columns: int, codecs: dict[str, Codec]) -> int:
    """Write a part's audio and protocol; return how many clips it has."""
    letter, folder, protocol = PARTS[part]
    (root / folder).mkdir(parents=True, exist_ok=True)
    speakers = number(sorted({clip.speaker for clip in clips}), f"{letter}_{{:04d}}", 1)
    attacks = number(sorted({clip.attack for clip in clips} - {UNKNOWN}), "A{:02d}", FIRST_ATTACK[part])
    lines = []
    for index, clip in enumerate(clips):
        name = f"{letter}_{index:010d}"
        wave, codec, quality = read_audio(clip.path), "-", "-"
        condition = index % (len(CONDITIONS) + 1)
        if part == "eval" and condition:
            codec = f"C{condition:02d}"
            coder = codecs[codec]
            setting = index % len(CODECS[coder.names[0]][1])
            wave, quality = coder.recode(wave, coder.names[0], setting), str(1 + setting % QUALITIES)
        soundfile.write(root / folder / f"{name}.flac", np.clip(wave, -1, 1), SAMPLE_RATE_HZ)
        gender, attack = "FM"[index % 2], attacks.get(clip.attack, "-")
        speaker, key = speakers[clip.speaker], clip.label
        released = (speaker, name, gender, codec, quality, "-", "AC1" if attack != "-" else "-", attack, key, "-")
        challenge = (speaker, name, gender, "-", attack, key)
        lines.append(" ".join(map(str, released if columns == 10 else challenge)) + "\n")
    (root / protocol).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def number(names: Sequence[str], pattern: str, first: int) -> dict[str, str]:
    """Return each name's place in the corpus's own style."""
    make: Callable[[int], str] = pattern.format
    return {name: make(first + index) for index, name in enumerate(names)}


if __name__ == "__main__":
    main()
