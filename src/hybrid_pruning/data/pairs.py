"""Lists of verification trials, labelled or not -> which two names each trial compares."""

from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_pruning.data.keys import recognise
from hybrid_pruning.data.protocols import SV, TRACK2, Form
from hybrid_pruning.data.tables import read_lines, take_columns
from hybrid_pruning.errors import InputError

LISTS = replace(
    SV,
    classes={**TRACK2.classes, **SV.classes},
    headers=(*SV.headers, *TRACK2.headers),
    layouts=(Form(SV.trial, "", SV.trial), *SV.layouts, *TRACK2.layouts),
)
"""Every form of `evaluate --sv` and `--track2`, and two names alone."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What a list's trials compare, in its order; a trial that stands twice is there twice.

    Args:
        path: the list.
        enrol: [T] names of a recording or of an enrolled speaker.
        test: [T] names of a recording.
    """

    path: Path
    enrol: list[str]
    test: list[str]


def read_pairs(path: str | Path) -> Pairs:
    """Read a list of trials; what it says about them, if anything, is not looked at.

    Args:
        path: VoxCeleb's `label enrol test`, Kaldi's `enrol test label`, ASVspoof's trials, `enrol test` alone, or a TSV
            whose header has enrol and test, or spk and filename.

    Raises:
        InputError: it cannot be read, has none of the forms, or no trials.
    """
    text = read_lines(Path(path))
    form, header, separator = recognise(text, LISTS, labelled=False)
    rows = text if form.columns else text.below()
    cells = take_columns(rows, header, form.trial, separator)
    enrol, test = (cells[name] for name in form.trial)
    if not enrol:
        raise InputError(f"{path}: no trials")
    return Pairs(Path(path), enrol, test)
