"""VoxCeleb 1 and 2: folders of speakers and the official trial lists -> manifests and trials.

Training is on VoxCeleb2's dev part, where it is there, and else on VoxCeleb1's, which shares its speakers with the
lists E and H. Validation is on VoxCeleb2's test part, which the lists know nothing of, or on speakers held out.

Source: Nagrani, Chung, Zisserman, "VoxCeleb: a large-scale speaker identification dataset", Interspeech 2017; Chung,
Nagrani, Zisserman, "VoxCeleb2: Deep Speaker Recognition", Interspeech 2018. Layouts, names of the lists and all counts
are second-hand, from the README of PaddleSpeech's recipe for the corpus, but for VoxCeleb2's test part, which is what
the total of 1,128,246 utterances leaves; no copy of the corpus was at hand.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.data.corpora.preparation import (
    DEV,
    TRAIN,
    Options,
    Preparation,
    Prepared,
    find_file,
    find_folders,
    wrong_root,
)
from hybrid_pruning.data.corpora.speakers import Speech, add_dev, add_speech, add_split, find_speakers, find_speech
from hybrid_pruning.data.corpora.voxceleb_trials import SPEAKER, TABLES, add_list, find_lists, read_list
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.errors import InputError

VOX1, VOX2, TEST = "vox1", "vox2", "test"
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10_270, 10_310))
"""VoxCeleb1's test part, and the speakers of list O."""
PLACES = {
    DEV: ("dev/wav", "*/dev/wav", "*dev*/wav", "*/*dev*/wav", "*dev*/dev/wav", "dev/aac", "*/dev/aac"),
    TEST: ("test/wav", "*/test/wav", "*test*/wav", "*/*test*/wav", "test/aac", "*/test/aac"),
    "": ("wav", "*/wav"),
}
"""Part -> where its speakers' folders may lie, what is converted already first; the last is VoxCeleb1 as a whole."""
SPEECH = {  # part, release -> speakers, utterances
    (DEV, VOX1): (1_211, 148_642),
    (TEST, VOX1): (40, 4_874),
    (DEV, VOX2): (5_994, 1_092_009),
    (TEST, VOX2): (118, 36_237),
}
CONTENTS = (
    "the speakers' folders in vox1_dev_wav/wav and vox1_test_wav/wav (or vox1/dev/wav and vox1/test/wav, or wav), in "
    "vox2_dev_aac/dev/aac and vox2_test_aac/test/aac (or vox2/dev/aac ..., or converted, in wav beside aac), and the "
    "lists veri_test2.txt, list_test_all2.txt and list_test_hard2.txt (or vox1_O_cleaned.txt ...), in the root, meta "
    "or trials. What is there is taken: training is on VoxCeleb2's dev part or else on VoxCeleb1's, which shares its "
    "speakers with the lists E and H; validation on VoxCeleb2's test part or with --dev-share on speakers held out"
)


class Part(NamedTuple):
    """A part of a release as it lies on disk.

    Args:
        folder: of the speakers' folders.
        speakers: their names, sorted.
        source: what the manifests say under `source`.
    """

    folder: Path
    speakers: tuple[str, ...]
    source: str


Parts = Mapping[tuple[str, str], Part]
"""dev or test, vox1 or vox2 -> the part."""


def prepare(root: Path, out: Path, options: Options) -> Prepared:
    """Write train.tsv, dev.tsv and dev.trials, vox1.tsv with what the lists name, and vox1-O.trials, -E and -H.

    Args:
        root: the folder both releases were unpacked in.
        out: where they go.
        options: how; `dev_share` is the fraction of the training speakers to hold out for dev.

    Raises:
        InputError: nothing is found, a line of a list is malformed, or it names what is not there.
    """
    parts, lists = find_parts(root), find_lists(root)
    genders = read_genders(root)
    with Preparation(out, options) as preparation:
        if not parts:
            raise wrong_root(root, CONTENTS)
        train = _add_train(preparation, parts, root, genders)
        _add_dev(preparation, parts, root, genders)
        found = _add_vox1(preparation, parts, lists, genders)
        for name, path in lists.items():
            add_list(preparation, name, path, found)
        _report(preparation, parts, train, lists)
    return preparation.prepared


def find_parts(root: Path) -> Parts:
    """Return the parts that lie below the root; VoxCeleb1 in one folder is told apart by its speakers."""
    parts: dict[tuple[str, str], Part] = {}
    for part, patterns in PLACES.items():
        for folder in find_folders(root, patterns):
            for key, speakers in _divide(part, find_speakers(folder)).items():
                if speakers:
                    parts.setdefault(key, Part(folder, tuple(speakers), f"VoxCeleb{key[1][-1]}"))
    return parts


def read_genders(root: Path) -> dict[str, str]:
    """Return speaker -> gender as far as vox1_meta.csv and vox2_meta.csv below the root tell it.

    Both are separated by tabs; there may be blanks about the cells.

    Raises:
        InputError: one has other columns.
    """
    genders: dict[str, str] = {}
    for name in ("vox1_meta.csv", "vox2_meta.csv"):
        path = find_file(root, (f"{place}{name}" for place in TABLES))
        for line, row in () if path is None else read_rows(path, ()):
            cells = {(column or "").strip().lower(): cell.strip() for column, cell in row.items()}
            speaker = next((cells[key] for key in ("voxceleb1 id", "voxceleb2 id", "id") if key in cells), None)
            if speaker is None or "gender" not in cells:
                raise InputError(f"{path}:{line}: expected the columns VoxCeleb1 ID (or VoxCeleb2 ID) and Gender")
            genders[speaker] = cells["gender"]
    return genders


def _divide(part: str, names: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Return the speakers in a folder by the part and the release they belong to."""
    first, second = ([name for name in names if SPEAKER.fullmatch(name) and name[2] == digit] for digit in "10")
    if part:
        return {(part, VOX1): first, (part, VOX2): second}
    return {
        (DEV, VOX1): [name for name in first if name not in TEST_SPEAKERS],
        (TEST, VOX1): [name for name in first if name in TEST_SPEAKERS],
    }


def _speech(preparation: Preparation, part: Part) -> Iterator[Speech]:
    return find_speech(part.folder, part.source, part.speakers, preparation.prepared.hidden)


def _add_train(preparation: Preparation, parts: Parts, root: Path, genders: Mapping[str, str]) -> str:
    """Write the training part, and return the release it is of; nothing where no dev part is there."""
    release = next((release for release in (VOX2, VOX1) if (DEV, release) in parts), "")
    if release:
        part = parts[DEV, release]
        add_split(preparation, _speech(preparation, part), part.speakers, root, genders)
    return release


def _add_dev(preparation: Preparation, parts: Parts, root: Path, genders: Mapping[str, str]) -> None:
    if (TEST, VOX2) in parts and not preparation.options.dev_share:
        add_dev(preparation, list(_speech(preparation, parts[TEST, VOX2])), root, genders)


def _add_vox1(
    preparation: Preparation, parts: Parts, lists: Mapping[str, Path], genders: Mapping[str, str]
) -> set[str]:
    """Write what the lists name, or without lists all of VoxCeleb1, and return the ids."""
    named = {name for path in lists.values() for enrol, test, _ in read_list(path) for name in (enrol, test)}
    found: set[str] = set()

    def chosen(speech: Iterable[Speech]) -> Iterator[Speech]:
        for one in speech:
            if not lists or one.name in named:
                found.add(one.name)
                yield one

    kinds = [parts[kind, VOX1] for kind in (DEV, TEST) if (kind, VOX1) in parts]
    add_speech(preparation, VOX1, chosen(chain.from_iterable(_speech(preparation, part) for part in kinds)), genders)
    return found


def _report(preparation: Preparation, parts: Parts, train: str, lists: Mapping[str, Path]) -> None:
    """Add what a person should know of the corpus."""
    warnings, made = preparation.prepared.warnings, preparation.prepared.manifests
    counted = {(DEV, VOX2): TRAIN, (TEST, VOX2): DEV, (DEV, VOX1): TRAIN}
    for key, part in parts.items():
        written = preparation.prepared.speakers.get(counted.get(key, ""), {})
        own = [written[speaker] for speaker in part.speakers if speaker in written]
        speakers, utterances = SPEECH[key]
        if len(part.speakers) != speakers or (len(own) == len(part.speakers) and sum(own) != utterances):
            found = f" with {sum(own):,}" if len(own) == len(part.speakers) else ""
            warnings.append(
                f"{part.folder}: expected {speakers:,} speakers with {utterances:,} utterances in {part.source}'s "
                f"{key[0]} part, as released, found {len(part.speakers):,}{found}"
            )
    overlapping = [f"{VOX1}-{letter}" for letter in "EH" if letter in lists]
    if train == VOX1 and overlapping:
        warnings.append(
            f"{made[TRAIN]}: is VoxCeleb1's dev part, whose speakers are those of {' and '.join(overlapping)}: results "
            "there say nothing of strangers; train on VoxCeleb2, or evaluate on vox1-O alone"
        )
    if (DEV, VOX1) in parts and not lists:
        warnings.append(
            f"{preparation.out}: no trial list is there, so that vox1.tsv has all of VoxCeleb1 and no trials"
        )
    if TRAIN in made and DEV not in made:
        warnings.append(
            f"{preparation.out}: nothing to validate on; unpack VoxCeleb2's test part, or hold speakers out with "
            "--dev-share 0.01"
        )
