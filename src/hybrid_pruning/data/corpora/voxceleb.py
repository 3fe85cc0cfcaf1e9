"""VoxCeleb 1 and 2: folders of speakers and the official trial lists -> manifests and trials.

Training is on VoxCeleb2's dev part, where it is there, and else on VoxCeleb1's, which shares its speakers with the
lists E and H. Validation is on VoxCeleb2's test part, whose speakers are in no list, or on speakers held out.

Source: Nagrani, Chung, Zisserman, "VoxCeleb: a large-scale speaker identification dataset", Interspeech 2017; Chung,
Nagrani, Zisserman, "VoxCeleb2: Deep Speaker Recognition", Interspeech 2018. Layouts, names and form of the lists and
all counts are second-hand, from the README of PaddleSpeech's recipe for the corpus and other recipes, but for
VoxCeleb2's test part, which is the rest of the total of 1,128,246 utterances; no copy of the corpus was at hand.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import DEV, TRAIN, Preparation, Trial, find_file, find_folders
from hybrid_pruning.data.corpora.speakers import (
    COLUMNS,
    SpeakerFolders,
    Speech,
    add_dev,
    add_speech,
    add_split,
    find_speakers,
    trial_label,
)
from hybrid_pruning.data.tables import read_columns, read_rows
from hybrid_pruning.errors import InputError

VOX1, VOX2, TEST = "vox1", "vox2", "test"
SPEAKER = re.compile(r"id([01])\d{4}", re.ASCII)  # VoxCeleb1's begin with 1, VoxCeleb2's with 0
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10_270, 10_310))
"""VoxCeleb1's test part, and the speakers of list O."""
PLACES = {
    DEV: ("dev/wav", "*/dev/wav", "*dev*/wav", "*/*dev*/wav", "*dev*/dev/wav", "dev/aac", "*/dev/aac"),
    TEST: ("test/wav", "*/test/wav", "*test*/wav", "*/*test*/wav", "test/aac", "*/test/aac"),
    "": ("wav", "*/wav"),
}
"""Part -> patterns of its speakers' folders, converted ones first; the last is VoxCeleb1 as a whole."""
SPEECH = {  # part, release -> speakers, utterances
    (DEV, VOX1): (1_211, 148_642),
    (TEST, VOX1): (40, 4_874),
    (DEV, VOX2): (5_994, 1_092_009),
    (TEST, VOX2): (118, 36_237),
}
TABLES = ("", "meta/", "trials/", "vox1/", "vox1/meta/", "vox2/", "vox2/meta/")
TRIAL = ("label", "enrol", "test")
"""E.g. `1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`."""
LISTS = {  # list -> names, the cleaned one first; trials of the cleaned one and of the first one
    "O": (("veri_test2.txt", "veri_test.txt"), (37_611, 37_720)),
    "E": (("list_test_all2.txt", "list_test_all.txt"), (579_818, 581_480)),
    "H": (("list_test_hard2.txt", "list_test_hard.txt"), (550_894, 552_536)),
}
OTHER_NAMES = ("vox1_{}_cleaned.txt", "vox1-{}-cleaned.txt", "vox1-{}.txt", "vox1_{}.txt")
CONTENTS = (
    "the speakers' folders in vox1_dev_wav/wav and vox1_test_wav/wav (or vox1/dev/wav and vox1/test/wav, or wav), in "
    "vox2_dev_aac/dev/aac and vox2_test_aac/test/aac (or vox2/dev/aac ..., or converted, in wav beside aac), and the "
    "lists veri_test2.txt, list_test_all2.txt and list_test_hard2.txt (or vox1_O_cleaned.txt ...), in the root, meta "
    "or trials. What is there is taken: training is on VoxCeleb2's dev part or else on VoxCeleb1's, which shares its "
    "speakers with the lists E and H; validation on VoxCeleb2's test part or with --dev-share on speakers held out"
)

Parts = Mapping[tuple[str, str], SpeakerFolders]  # dev or test, vox1 or vox2 -> the part


def add_voxceleb(root: Path, preparation: Preparation) -> None:
    """Write train.tsv, dev.tsv and dev.trials, vox1.tsv with what the lists name, and vox1-O.trials, -E and -H."""
    parts, lists, genders = _find_parts(root), _find_lists(root), _read_genders(root)
    if not parts:
        return
    hidden = preparation.prepared.hidden
    train = next((release for release in (VOX2, VOX1) if (DEV, release) in parts), "")
    if part := parts.get((DEV, train)):
        add_split(preparation, part.find_speech(hidden), part.speakers, root, genders)
    if (TEST, VOX2) in parts and not preparation.dev_share:
        add_dev(preparation, list(parts[TEST, VOX2].find_speech(hidden)), root, genders)
    named = {name for path in lists.values() for enrol, test, _ in _read_list(path) for name in (enrol, test)}
    found: set[str] = set()

    def listed_speech() -> Iterator[Speech]:
        for key in ((DEV, VOX1), (TEST, VOX1)):
            for one in parts[key].find_speech(hidden) if key in parts else ():
                if not lists or one.name in named:
                    found.add(one.name)
                    yield one

    add_speech(preparation, VOX1, listed_speech(), genders)
    for letter, path in lists.items():
        preparation.copy_trials(
            path,
            ((trial, trial[0] in found and trial[1] in found) for trial in _read_list(path)),
            preparation.open_trials(f"{VOX1}-{letter}", f"{VOX1}-{letter}.trials", COLUMNS),
            LISTS[letter][1],
        )
    _report(preparation, parts, train, lists)


def _find_parts(root: Path) -> Parts:
    """Return the parts that lie below the root; VoxCeleb1 in one folder is divided by its speakers."""
    parts: dict[tuple[str, str], SpeakerFolders] = {}
    for part, patterns in PLACES.items():
        for folder in find_folders(root, patterns):
            divided: dict[tuple[str, str], list[str]] = {}
            for name in filter(SPEAKER.fullmatch, find_speakers(folder)):
                release = VOX1 if name[2] == "1" else VOX2
                if part or release == VOX1:
                    key = part or (TEST if name in TEST_SPEAKERS else DEV), release
                    divided.setdefault(key, []).append(name)
            for key, speakers in sorted(divided.items()):
                parts.setdefault(key, SpeakerFolders(folder, f"VoxCeleb{key[1][-1]}", speakers))
    return parts


def _find_lists(root: Path) -> dict[str, Path]:
    """Return the trial lists that lie below the root by their letter; of two releases of one the cleaned one."""
    found = {}
    for letter, ((cleaned, first), _) in LISTS.items():
        names = (cleaned, *(name.format(letter) for name in OTHER_NAMES), first)
        if path := find_file(root, (f"{place}{name}" for name in names for place in TABLES)):
            found[letter] = path
    return found


def _read_list(path: Path) -> Iterator[Trial]:
    """Yield (enrol, test, label) of a trial list: ids without endings, and target or nontarget."""
    for line, row in read_columns(path, TRIAL):
        enrol, test = (row[side].rpartition(".")[0] for side in COLUMNS[:2])
        same, given = enrol.partition("/")[0] == test.partition("/")[0], f"{row['enrol']} and {row['test']}"
        if not (SPEAKER.match(enrol) and SPEAKER.match(test)):
            raise InputError(f"{path}:{line}: '{row['enrol']} {row['test']}', expected two of id10270/VIDEO/00001.wav")
        yield enrol, test, trial_label(f"{path}:{line}", row["label"], same, given)


def _read_genders(root: Path) -> dict[str, str]:
    """Return speaker -> gender as far as vox1_meta.csv and vox2_meta.csv, with tabs and blanks, have it."""
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


def _report(preparation: Preparation, parts: Parts, train: str, lists: Mapping[str, Path]) -> None:
    """Add warnings about parts that are missing, overlap with a list, or have other counts than the release."""
    warnings, made = preparation.prepared.warnings, preparation.prepared.manifests
    counted = {(DEV, VOX2): TRAIN, (TEST, VOX2): DEV, (DEV, VOX1): TRAIN}
    for key, part in parts.items():
        written = preparation.prepared.speakers.get(counted.get(key, ""), {})
        own = [written[speaker] for speaker in part.speakers if speaker in written]
        speakers, utterances = SPEECH[key]
        if len(part.speakers) != speakers or (len(own) == len(part.speakers) and sum(own) != utterances):
            found = f" with {sum(own):,}" if len(own) == len(part.speakers) else ""
            expected = f"{speakers:,} speakers with {utterances:,} utterances in {part.source}'s {key[0]} part"
            warnings.append(f"{part.folder}: expected {expected}, as released, found {len(part.speakers):,}{found}")
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
        advice = "unpack VoxCeleb2's test part, or hold speakers out with --dev-share 0.01"
        warnings.append(f"{preparation.out}: nothing to validate on; {advice}")
