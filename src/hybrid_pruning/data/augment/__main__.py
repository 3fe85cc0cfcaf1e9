"""`python -m hybrid_pruning.data.augment CLIP --out SHEET.png`: a picture of every augmentation, or its cost."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybrid_pruning.audio import SAMPLE_RATE_HZ, read_audio
from hybrid_pruning.console import say
from hybrid_pruning.data.augment.cost import measure_costs
from hybrid_pruning.data.augment.demonstration import demonstrate
from hybrid_pruning.data.augment.sheet import draw_sheet
from hybrid_pruning.data.augment.transform import limit
from hybrid_pruning.errors import InputError

SECONDS = 3.0
SEED = 4  # with notches that are easy to see


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the sheet, or print the costs."""
    options = _parse(arguments)
    try:
        _run(options)
    except InputError as error:
        say(str(error))
        sys.exit(2)


def _run(options: argparse.Namespace) -> None:
    wave = read_audio(options.clip, 0, round(SECONDS * SAMPLE_RATE_HZ))
    with tempfile.TemporaryDirectory() as folder:
        transforms, missing = demonstrate(options.clip, Path(folder))
        for reason in missing:
            say(f"left out: {reason}")
        if options.cost:
            for title, ratio in measure_costs(wave, transforms, Path(folder)).items():
                say(f"{ratio:7.1f}  {title}")
        else:
            changed = {title: limit(each(wave, np.random.default_rng(SEED))) for title, each in transforms.items()}
            draw_sheet({"the clip": wave, **changed}, options.out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hybrid_pruning.data.augment", description=__doc__.split(": ")[1])
    parser.add_argument("clip", type=Path, help="a recording of speech; the others in its folder become babble")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--out", type=Path, help="the PNG file to draw spectrograms into")
    wanted.add_argument(
        "--cost", action="store_true", help="print each kind's processor time over that of decoding the clip"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
