"""CN-Celeb 1 and 2: folders of speakers and the lists of the evaluation -> manifests and trials.

Training is on the speakers of CN-Celeb1's dev/dev.lst and all of CN-Celeb2. The enrolment files of the evaluation are a
speaker's utterances in a row already ("concatenated"), one for each speaker. The genre, the beginning of every name,
stands in the manifests' `source` and of the tested utterances beside their trials.

Source: Li et al., "CN-Celeb: multi-genre speaker recognition", Speech Communication 2022, and openslr.org/82. Layout
and lists as Kaldi's recipe for the corpus reads them, and the numbers of speakers as others' recipes do; the number of
trials, 196 enrolments x 17,777 tests, is from memory. No copy of the corpus was at hand.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import EVAL, TRAIN, Preparation, Trial, find_folders
from hybrid_pruning.data.corpora.speakers import (
    COLUMNS,
    SpeakerFolders,
    Speech,
    add_speech,
    add_split,
    find_speakers,
    trial_label,
)
from hybrid_pruning.data.manifest import list_recordings
from hybrid_pruning.data.tables import read_columns
from hybrid_pruning.errors import InputError

FIRST = ("CN-Celeb_flac", "CN-Celeb", "cn-celeb_v2/CN-Celeb_flac", ".")
SECOND = ("CN-Celeb2_flac", "CN-Celeb2")
GENRE = re.compile(r"(?:.*[/-])?([a-z_]+)(?:-\d+)+", re.ASCII | re.IGNORECASE)
"""E.g. `id00010/singing-01-002`, and in the evaluation `test/id00999-singing-02-006`."""
ENROLMENT, TRIAL = ("enrol", "file"), ("enrol", "test", "label")
"""E.g. `id00800-enroll enroll/id00800-enroll.wav`, and `id00800-enroll test/id00999-singing-02-006.wav 0`."""
SPEAKERS = {"CN-Celeb1": 797, "CN-Celeb2": 1_996}  # with audio, as released: dev.lst names 800, of whom three have none
TRIALS, ENROLMENTS = 3_484_292, 196
CONTENTS = (
    "CN-Celeb_flac with data, dev/dev.lst, eval/enroll, eval/test, eval/lists/enroll.lst and eval/lists/trials.lst, "
    "and CN-Celeb2_flac with data where it is to be trained on too; validation is on speakers held out with --dev-share"
)


def add_cnceleb(root: Path, preparation: Preparation) -> None:
    """Write train.tsv and with a share for it dev.tsv and dev.trials, eval.tsv and eval.trials."""
    first, second = (
        next((path for path in find_folders(root, places) if (path / "data").is_dir()), None)
        for places in (FIRST, SECOND)
    )
    parts = []
    if first:
        speakers = _read_speakers(first / "dev" / "dev.lst", first / "data", preparation.allow_missing)
        parts.append(SpeakerFolders(first / "data", "CN-Celeb1", speakers))
    if second:
        speakers = find_speakers(second / "data", preparation.prepared.hidden)
        parts.append(SpeakerFolders(second / "data", "CN-Celeb2", speakers))
    if parts:
        _add_train(preparation, parts, root)
    if first and (first / "eval").is_dir():
        _add_eval(preparation, first / "eval")


def genre_of(name: str) -> str:
    """Return the genre of an utterance; `-` where its name has none, as enrolments' have."""
    match = GENRE.fullmatch(name)
    return match[1].lower() if match else "-"


def _read_speakers(path: Path, data: Path, allow_missing: bool) -> list[str]:
    """Return the training speakers of CN-Celeb1 that have audio; no more may lack it than in the release."""
    listed = {row["speaker"]: line for line, row in read_columns(path, ("speaker",))}
    heard = [name for name in find_speakers(data) if name in listed and any(list_recordings(data / name))]
    missing = sorted(listed.keys() - set(heard))
    if missing and len(heard) != SPEAKERS["CN-Celeb1"] and not allow_missing:
        fault = f"speaker '{missing[0]}' has no audio in {data} ({len(missing):,} of {len(listed):,} have none)"
        advice = "unpack it there, or leave these out with --allow-missing"
        raise InputError(f"{path}:{listed[missing[0]]}: {fault}; {advice}")
    return heard


def _add_train(preparation: Preparation, parts: Sequence[SpeakerFolders], root: Path) -> None:
    genres: Counter[str] = Counter()

    def speech() -> Iterator[Speech]:
        for part in parts:
            for one in part.find_speech(preparation.prepared.hidden):
                genre = genre_of(one.name)
                genres[genre] += 1
                yield one._replace(source=f"{one.source}/{genre}")

    add_split(preparation, speech(), sorted(speaker for part in parts for speaker in part.speakers), root)
    _note_genres(preparation, "train and dev" if preparation.dev_share else TRAIN, genres)
    warnings = preparation.prepared.warnings
    for folder, source, speakers in parts:
        if len(speakers) != SPEAKERS[source]:
            expected = f"expected {SPEAKERS[source]:,} speakers of {source} to train on, as released"
            warnings.append(f"{folder}: {expected}, found {len(speakers):,}")
    if not preparation.dev_share:
        warnings.append(f"{preparation.out}: nothing to validate on; hold speakers out: --dev-share 0.01")


def _add_eval(preparation: Preparation, folder: Path) -> None:
    lists = folder / "lists"
    enrolments: dict[str, str] = {}
    for line, row in read_columns(lists / "enroll.lst", ENROLMENT):
        if row["enrol"] in enrolments:
            raise InputError(f"{lists / 'enroll.lst'}:{line}: '{row['enrol']}' stands twice; remove one of the lines")
        enrolments[row["enrol"]] = row["file"].rpartition(".")[0]
    files = {
        f"{kind}/{file}".rpartition(".")[0]: f"{folder}/{kind}/{file}"
        for kind in ("enroll", "test")
        for file in list_recordings(folder / kind, preparation.prepared.hidden)
    }
    speech = (Speech(_speaker(name), name, path, f"CN-Celeb1/{genre_of(name)}") for name, path in files.items())
    add_speech(preparation, EVAL, speech)
    _note_genres(preparation, EVAL, Counter(genre_of(name) for name in files if name.startswith("test/")))
    trials = _read_trials(lists / "trials.lst", enrolments)
    preparation.copy_trials(
        lists / "trials.lst",
        ((trial, trial[0] in files and trial[1] in files) for trial in trials),
        preparation.open_trials(EVAL, f"{EVAL}.trials", (*COLUMNS, "genre")),
        (TRIALS,),
    )
    if len(enrolments) != ENROLMENTS:
        found = f"expected {ENROLMENTS} enrolments, as released, found {len(enrolments):,}"
        preparation.prepared.warnings.append(f"{lists / 'enroll.lst'}: {found}")


def _read_trials(path: Path, enrolments: Mapping[str, str]) -> Iterator[Trial]:
    """Yield (enrol, test, label, genre of the test) of the trial list, under the utt_ids of eval.tsv."""
    for line, row in read_columns(path, TRIAL):
        enrol, test = enrolments.get(row["enrol"]), row["test"].rpartition(".")[0]
        if enrol is None:
            raise InputError(f"{path}:{line}: '{row['enrol']}' is not in enroll.lst beside it")
        same = _speaker(enrol) == _speaker(test)
        yield enrol, test, trial_label(f"{path}:{line}", row["label"], same, f"{enrol} and {test}"), genre_of(test)


def _note_genres(preparation: Preparation, part: str, genres: Counter[str]) -> None:
    counts = ", ".join(f"{genre} {count:,}" for genre, count in sorted(genres.items()))
    preparation.prepared.notes.append(f"utterances of {part} by genre: {counts}")


def _speaker(name: str) -> str:
    return name.rpartition("/")[2].partition("-")[0]
