"""Processor time of a training crop, by augmentation: python dev/time_loading.py MANIFEST [--crops 400].

Crops of 3 s from the manifest's files, as a worker of a training loads them; noise and voices are the manifest's own
folder, room responses are made (0.2 to 1 s of decaying noise). The page cache is warm: a slow disk comes on top.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import AugmentConfig
from hybrid_pruning.data.augment import build_augmentation
from hybrid_pruning.data.batches import Crops
from hybrid_pruning.data.manifest import read_manifest

CODECS = ("opus", "mp3", "mulaw", "amr-nb", "m4a", "g722")
SECONDS, BATCH = 3, 16
MIX = {"reverberation": 0.5, "noise": 0.39, "babble": 0.11}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--crops", type=int, default=400)
    options = parser.parse_args()
    utterances = read_manifest(options.manifest)
    indices = np.random.default_rng(0).integers(len(utterances), size=options.crops)
    with tempfile.TemporaryDirectory() as rooms:
        write_rooms(Path(rooms))
        speech = str(utterances[0].path.parent)
        noise = {"folder": speech, "snr_db": [5, 15]}
        kinds: dict[str, dict[str, object]] = {"none": {}, "speed": {"speed": {}}, "volume": {"volume": {}}}
        kinds |= {"reverberation": {"reverberation": {"folder": rooms}}, "noise": {"noise": noise}}
        kinds |= {"babble, 3 to 7 voices": {"babble": noise | {"speakers": [3, 7]}}, "rawboost": {"rawboost": {}}}
        kinds |= {f"codec {name}": {"codec": {"codecs": [name]}} for name in CODECS}
        one_voice = {"babble": noise | {"speakers": [1, 1]}}
        kinds["the recipes' mix, 80%"] = {
            "reverberation": kinds["reverberation"]["reverberation"],
            "noise": noise,
            **one_voice,
        }
        print("| augmentation | ms | crops a second |\n|---|---|---|")
        for name, kind in kinds.items():
            mix = len(kind) > 1
            section = {key: value | {"probability": MIX[key] if mix else 1.0} for key, value in kind.items()}  # type: ignore[operator]
            whole = {"probability": 0.8 if mix else 1.0, "choose": "one", **section}
            augment = build_augmentation(AugmentConfig.model_validate(whole)) if kind else None
            crops = Crops(utterances, [0] * len(utterances), SECONDS * SAMPLE_RATE_HZ, 0, augment, ())
            seconds = []
            for epoch in range(2):  # the first warms the caches
                began = time.process_time()
                for start in range(0, options.crops, BATCH):
                    crops.load([(epoch, int(index)) for index in indices[start : start + BATCH]])
                seconds.append(time.process_time() - began)
            print(
                f"| {name} | {1000 * seconds[1] / options.crops:.1f} | {options.crops / seconds[1]:.0f} |", flush=True
            )


def write_rooms(folder: Path) -> None:
    """Write room responses."""
    rng = np.random.default_rng(0)
    for index in range(64):
        samples = int(rng.uniform(0.2, 1.0) * SAMPLE_RATE_HZ)
        wave = rng.normal(size=samples) * np.exp(-6.9 * np.arange(samples) / samples)
        wave[0] = 3.0
        soundfile.write(folder / f"{index:02d}.wav", wave / np.abs(wave).max(), SAMPLE_RATE_HZ)


if __name__ == "__main__":
    main()
