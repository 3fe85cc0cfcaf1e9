"""VoxCeleb's official trial lists -> trials under the ids of the manifests.

Source: as in `voxceleb`, second-hand; a line's form is that of the lists as others' recipes read them.
"""

import re
from collections.abc import Container, Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import Preparation, find_file
from hybrid_pruning.data.corpora.trials import COLUMNS, LABELS, Copying, Trial, copy_trials
from hybrid_pruning.data.tables import read_columns
from hybrid_pruning.errors import InputError

SPEAKER = re.compile(r"id([01])\d{4}", re.ASCII)
"""VoxCeleb1's begin with 1, VoxCeleb2's with 0."""
TABLES = ("", "meta/", "trials/", "vox1/", "vox1/meta/", "vox2/", "vox2/meta/")
COLUMNS_OF_LIST = ("label", "enrol", "test")
"""E.g. `1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`."""
LISTS = {  # list -> names, the cleaned one first; trials of the cleaned one and of the first one
    "O": (("veri_test2.txt", "veri_test.txt"), (37_611, 37_720)),
    "E": (("list_test_all2.txt", "list_test_all.txt"), (579_818, 581_480)),
    "H": (("list_test_hard2.txt", "list_test_hard.txt"), (550_894, 552_536)),
}
OTHER_NAMES = ("vox1_{}_cleaned.txt", "vox1-{}-cleaned.txt", "vox1-{}.txt", "vox1_{}.txt")


def find_lists(root: Path) -> dict[str, Path]:
    """Return the trial lists that lie below the root by their letter; of two releases of one the cleaned one."""
    found = {
        letter: find_file(root, (f"{place}{name}" for name in _names(letter) for place in TABLES)) for letter in LISTS
    }
    return {letter: path for letter, path in found.items() if path is not None}


def read_list(path: Path) -> Iterator[Trial]:
    """Yield (enrol, test, label) of a trial list: ids without endings, and target or nontarget.

    Raises:
        InputError: the file cannot be read, or a line is malformed or says the opposite of what its speakers say.
    """
    for line, row in read_columns(path, COLUMNS_OF_LIST):
        enrol, test, label = row["enrol"].rpartition(".")[0], row["test"].rpartition(".")[0], row["label"]
        if label not in LABELS:
            raise InputError(f"{path}:{line}: label '{label}', expected 1 (the same speaker) or 0")
        if not (SPEAKER.match(enrol) and SPEAKER.match(test)):
            raise InputError(f"{path}:{line}: '{row['enrol']} {row['test']}', expected two of id10270/VIDEO/00001.wav")
        if (enrol.partition("/")[0] == test.partition("/")[0]) != (label == "1"):
            raise InputError(
                f"{path}:{line}: label '{label}' beside {row['enrol']} and {row['test']}; is the line whole?"
            )
        yield enrol, test, LABELS[label]


def add_list(preparation: Preparation, letter: str, path: Path, found: Container[str]) -> None:
    """Write a list under the ids of the manifest.

    Args:
        preparation: what is being written.
        letter: O, E or H.
        path: the list.
        found: the ids in the manifest.

    Raises:
        InputError: a line is malformed, or names what is not there.
    """
    name = f"vox1-{letter}"
    unknown, advice = "an utterance that is not there", "unpack VoxCeleb1, or leave these out with --allow-missing"
    copying = Copying(path, unknown, advice, LISTS[letter][1])
    trials = ((trial, trial[0] in found and trial[1] in found) for trial in read_list(path))
    copy_trials(copying, trials, preparation.open_trials(name, COLUMNS), preparation.prepared, preparation.options)


def _names(letter: str) -> Iterator[str]:
    (cleaned, first), _ = LISTS[letter]
    other = [name.format(letter) for name in OTHER_NAMES]
    yield from (cleaned, *other, first)
