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
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import TRAIN, Options, Preparation, Prepared, find_folders, wrong_root
from hybrid_pruning.data.corpora.speakers import Speech, add_speech, add_split, find_speakers, find_speech
from hybrid_pruning.data.corpora.trials import COLUMNS, LABELS, Copying, Trial, copy_trials
from hybrid_pruning.data.names import list_recordings
from hybrid_pruning.data.tables import read_columns
from hybrid_pruning.errors import InputError

EVAL = "eval"
FIRST = ("CN-Celeb_flac", "CN-Celeb", "cn-celeb_v2/CN-Celeb_flac", ".")
SECOND = ("CN-Celeb2_flac", "CN-Celeb2")
GENRE = re.compile(r"(?:.*[/-])?([a-z_]+)(?:-\d+)+", re.ASCII | re.IGNORECASE)
"""E.g. `id00010/singing-01-002`, and in the evaluation `test/id00999-singing-02-006`."""
ENROLMENT, TRIAL = ("enrol", "file"), ("enrol", "test", "label")
"""E.g. `id00800-enroll enroll/id00800-enroll.wav`, and `id00800-enroll test/id00999-singing-02-006.wav 0`."""
KEYS = (*COLUMNS, "genre")
SPEAKERS = {"CN-Celeb1": 797, "CN-Celeb2": 1_996}
"""With audio, as released: dev.lst names 800, of whom three have none."""
TRIALS, ENROLMENTS = 3_484_292, 196
CONTENTS = (
    "CN-Celeb_flac with data, dev/dev.lst, eval/enroll, eval/test, eval/lists/enroll.lst and eval/lists/trials.lst, "
    "and CN-Celeb2_flac with data where it is to be trained on too; validation is on speakers held out with --dev-share"
)


def prepare(root: Path, out: Path, options: Options) -> Prepared:
    """Write train.tsv and with a share for it dev.tsv and dev.trials, eval.tsv and eval.trials.

    Args:
        root: the folder both releases were unpacked in.
        out: where they go.
        options: how; `dev_share` is the fraction of the training speakers to hold out for dev.

    Raises:
        InputError: a list is missing or malformed, or it names what is not there.
    """
    first = next(iter(path for path in find_folders(root, FIRST) if (path / "data").is_dir()), None)
    second = next((path / "data" for path in find_folders(root, SECOND) if (path / "data").is_dir()), None)
    if first is None and second is None:
        raise wrong_root(root, CONTENTS)
    with Preparation(out, options) as preparation:
        parts: list[tuple[Path, str, list[str]]] = []
        if first is not None:
            parts.append(
                (first / "data", "CN-Celeb1", read_speakers(first / "dev" / "dev.lst", first / "data", options))
            )
        if second is not None:
            parts.append((second, "CN-Celeb2", find_speakers(second, preparation.prepared.hidden)))
        _add_train(preparation, parts, root)
        if first is not None and (first / EVAL).is_dir():
            _add_eval(preparation, first / EVAL)
    return preparation.prepared


def read_speakers(path: Path, data: Path, options: Options) -> list[str]:
    """Return the training speakers of CN-Celeb1 that have audio: the first word of each line.

    Raises:
        InputError: the list cannot be read, or more of its speakers have no audio than in the release.
    """
    listed = {row["speaker"]: line for line, row in read_columns(path, ("speaker",))}
    heard = [name for name in find_speakers(data) if name in listed and any(list_recordings(data / name))]
    missing = sorted(listed.keys() - set(heard))
    if missing and len(heard) != SPEAKERS["CN-Celeb1"] and not options.allow_missing:
        raise InputError(
            f"{path}:{listed[missing[0]]}: speaker '{missing[0]}' has no audio in {data} ({len(missing):,} of "
            f"{len(listed):,} have none); unpack it there, or leave these out with --allow-missing"
        )
    return heard


def read_enrolments(path: Path) -> dict[str, str]:
    """Return the name of each enrolment in the trials -> its utt_id.

    Raises:
        InputError: the list cannot be read, or has a name twice.
    """
    found: dict[str, str] = {}
    for line, row in read_columns(path, ENROLMENT):
        if row["enrol"] in found:
            raise InputError(f"{path}:{line}: '{row['enrol']}' stands twice; remove one of the lines")
        found[row["enrol"]] = row["file"].rpartition(".")[0]
    return found


def read_trials(path: Path, enrolments: dict[str, str]) -> Iterator[Trial]:
    """Yield (enrol, test, label, genre of the test) of the trial list, under the utt_ids of eval.tsv.

    Raises:
        InputError: the file cannot be read, a line is malformed, or names an enrolment that is not in its list.
    """
    for line, row in read_columns(path, TRIAL):
        enrol, test = enrolments.get(row["enrol"]), row["test"].rpartition(".")[0]
        if enrol is None:
            raise InputError(f"{path}:{line}: '{row['enrol']}' is not in enroll.lst beside it")
        if row["label"] not in LABELS:
            raise InputError(f"{path}:{line}: label '{row['label']}', expected 1 (the same speaker) or 0")
        if (_speaker(enrol) == _speaker(test)) != (row["label"] == "1"):
            raise InputError(f"{path}:{line}: label '{row['label']}' beside {enrol} and {test}; is the line whole?")
        yield enrol, test, LABELS[row["label"]], genre_of(test)


def genre_of(name: str) -> str:
    """Return the genre of an utterance; `-` where its name has none, as enrolments' have."""
    match = GENRE.fullmatch(name)
    return match[1].lower() if match else "-"


def _add_train(preparation: Preparation, parts: list[tuple[Path, str, list[str]]], root: Path) -> None:
    genres: Counter[str] = Counter()

    def with_genres(speech: Iterator[Speech]) -> Iterator[Speech]:
        for one in speech:
            genre = genre_of(one.name)
            genres[genre] += 1
            yield one._replace(source=f"{one.source}/{genre}")

    hidden = preparation.prepared.hidden
    speech = chain.from_iterable(find_speech(*part, hidden) for part in parts)
    everyone = sorted(speaker for *_, speakers in parts for speaker in speakers)
    add_split(preparation, with_genres(iter(speech)), everyone, root)
    _note_genres(preparation, "train and dev" if preparation.options.dev_share else TRAIN, genres)
    for folder, source, speakers in parts:
        if len(speakers) != SPEAKERS[source]:
            preparation.prepared.warnings.append(
                f"{folder}: expected {SPEAKERS[source]:,} speakers of {source} to train on, as released, found "
                f"{len(speakers):,}"
            )
    if not preparation.options.dev_share:
        preparation.prepared.warnings.append(
            f"{preparation.out}: nothing to validate on; hold speakers out: --dev-share 0.01"
        )


def _add_eval(preparation: Preparation, folder: Path) -> None:
    """Write the evaluation's manifest and trials."""
    lists = folder / "lists"
    enrolments = read_enrolments(lists / "enroll.lst")
    names = [
        (f"{kind}/{file}".rpartition(".")[0], f"{folder}/{kind}/{file}")
        for kind in ("enroll", "test")
        for file in list_recordings(folder / kind, preparation.prepared.hidden)
    ]
    speech = (Speech(_speaker(name), name, path, f"CN-Celeb1/{genre_of(name)}") for name, path in names)
    add_speech(preparation, EVAL, speech)
    _note_genres(preparation, EVAL, Counter(genre_of(name) for name, _ in names if name.startswith("test/")))
    found = {name for name, _ in names}
    advice = "unpack the audio there, or leave these out with --allow-missing"
    copying = Copying(lists / "trials.lst", "an utterance that is not there", advice, (TRIALS,))
    trials = ((trial, trial[0] in found and trial[1] in found) for trial in read_trials(copying.path, enrolments))
    copy_trials(copying, trials, preparation.open_trials(EVAL, KEYS), preparation.prepared, preparation.options)
    if len(enrolments) != ENROLMENTS:
        preparation.prepared.warnings.append(
            f"{lists / 'enroll.lst'}: expected {ENROLMENTS} enrolments, as released, found {len(enrolments):,}"
        )


def _note_genres(preparation: Preparation, part: str, genres: Counter[str]) -> None:
    told = ", ".join(f"{genre} {count:,}" for genre, count in sorted(genres.items()))
    preparation.prepared.notes.append(f"utterances of {part} by genre: {told}")


def _speaker(name: str) -> str:
    """E.g. of `test/id00999-singing-02-006`."""
    return name.rpartition("/")[2].partition("-")[0]
