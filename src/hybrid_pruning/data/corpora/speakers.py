"""Speech of many speakers, a folder for each -> manifests and trials for speaker verification.

Everything is bona fide; the speaker is what counts. Which speakers validate is drawn by a seed, never which utterances,
so that no speaker is heard in training and in validation.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.data.corpora.preparation import DEV, FIRST, TRAIN, Options, Preparation, Prepared, wrong_root
from hybrid_pruning.data.corpora.protocol import list_folder
from hybrid_pruning.data.corpora.trials import COLUMNS, LIMIT, NONTARGET, TARGET, draw_trials
from hybrid_pruning.data.manifest import UNKNOWN, Utterance
from hybrid_pruning.data.names import list_recordings
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

AAC = (".m4a", ".aac")
"""What VoxCeleb2 comes as; decoded from its beginning whatever part is read."""
LEAST = 2
"""Speakers of a part: with one there is nothing to tell apart."""
CONTENTS = "a folder for each speaker, named after him or her, with the recordings below it at any depth"


class Speech(NamedTuple):
    """One recording of a speaker.

    Args:
        speaker: whose it is.
        name: its utt_id.
        path: the file.
        source: the data set it was taken from.
    """

    speaker: str
    name: str
    path: str
    source: str


def prepare(root: Path, out: Path, options: Options) -> Prepared:
    """Write all.tsv, or train.tsv, dev.tsv and dev.trials where `options.dev_share` is not 0.

    Args:
        root: a folder of folders, one for each speaker.
        out: where the manifests go.
        options: how; `dev_share` is the fraction of the speakers that validate.

    Raises:
        InputError: nothing is found, two files differ in their ending alone, or there are too few speakers.
    """
    with Preparation(out, options) as preparation:
        hidden = preparation.prepared.hidden
        speakers = [name for name in find_speakers(root, hidden) if any(list_recordings(root / name))]
        speech = find_speech(root, root.absolute().name or UNKNOWN, speakers, hidden)
        if options.dev_share and speakers:
            add_split(preparation, speech, speakers, root)
        else:
            add_speech(preparation, "all", speech)
        if not preparation.prepared.manifests:
            raise wrong_root(root, CONTENTS)
    return preparation.prepared


def find_speakers(folder: Path, hidden: list[str] | None = None) -> list[str]:
    """Return the names of the speakers' folders, sorted; `hidden` is given the recordings of those that are hidden."""
    names = sorted(name for name in list_folder(folder) if (folder / name).is_dir())
    secret = [name for name in names if name.startswith(".") or name == "__MACOSX"]
    if hidden is not None:
        hidden += [f"{folder / name}/{file}" for name in secret for file in list_recordings(folder / name, hidden)]
    return [name for name in names if name not in secret]


def find_speech(
    folder: Path, source: str, speakers: Iterable[str], hidden: list[str] | None = None
) -> Iterator[Speech]:
    """Yield the recordings of speakers, a speaker's side by side; their ids are their paths without endings.

    Of an m4a and what it was converted to, side by side, the latter is taken.

    Args:
        folder: of the speakers' folders.
        source: what their manifests say under `source`.
        speakers: whose to take.
        hidden: is given the recordings that are left out.

    Raises:
        InputError: two other recordings differ in nothing but their ending.
    """
    for speaker in speakers:
        files: dict[str, str] = {}
        for file in list_recordings(folder / speaker, hidden):
            name = file.rpartition(".")[0]
            if name in files and file.lower().endswith(AAC):
                continue
            if not files.get(name, AAC[0]).lower().endswith(AAC):
                raise InputError(f"{folder / speaker / file}: differs from {files[name]} in its ending; remove one")
            files[name] = file
        for name, file in files.items():
            yield Speech(speaker, f"{speaker}/{name}", f"{folder}/{speaker}/{file}", source)


def add_speech(
    preparation: Preparation, part: str, speech: Iterable[Speech], genders: Mapping[str, str] | None = None
) -> None:
    """Write recordings to the manifest of a part, and count them by speaker.

    Args:
        preparation: the manifests being written.
        part: the part.
        speech: the recordings.
        genders: speaker -> gender, where known.
    """
    speakers = preparation.prepared.speakers.setdefault(part, {})
    for speaker, name, path, source in speech:
        speakers[speaker] = speakers.get(speaker, 0) + 1
        gender = genders.get(speaker, UNKNOWN) if genders else UNKNOWN
        preparation.put(part, Utterance(name, Path(path), Label.BONAFIDE, speaker, gender, source=source))
    preparation.count()
    if not speakers:
        del preparation.prepared.speakers[part]
    elif part == TRAIN:
        _warn_of_single(speakers, preparation)


def add_split(
    preparation: Preparation,
    speech: Iterable[Speech],
    speakers: Sequence[str],
    root: Path,
    genders: Mapping[str, str] | None = None,
) -> None:
    """Deal recordings to `train` and `dev` by their speakers, and draw dev's trials.

    Args:
        preparation: the manifests being written; its options say how many speakers validate, and the seed.
        speech: the recordings.
        speakers: whose they are, sorted.
        root: where they come from, for the message.
        genders: speaker -> gender, where known.

    Raises:
        InputError: one of the parts would have less than two speakers, or dev no target trial.
    """
    share = preparation.options.dev_share
    count = round(share * len(speakers))
    if share and not LEAST <= count <= len(speakers) - LEAST:
        raise InputError(
            f"{root}: a share of {share:g} for dev is {count} of {len(speakers)} speakers, and both parts need {LEAST} "
            "at least; give another share, or more speakers"
        )
    chosen = set(random.Random(preparation.options.seed).sample(speakers, count))
    held_out: list[Speech] = []
    add_speech(preparation, TRAIN, _passed_on(speech, chosen, held_out), genders)
    if share:
        add_dev(preparation, held_out, root, genders)


def add_dev(
    preparation: Preparation, speech: Sequence[Speech], root: Path, genders: Mapping[str, str] | None = None
) -> None:
    """Write dev's manifest and, drawn by the seed, its trials.

    Raises:
        InputError: no two recordings are of one speaker, or all are.
    """
    seed = preparation.options.seed
    add_speech(preparation, DEV, speech, genders)
    trials = draw_trials([(one.speaker, one.name) for one in speech], seed)
    kinds = [label for *_, label in trials]
    if TARGET not in kinds or NONTARGET not in kinds:
        raise InputError(
            f"{root}: {DEV} has no two recordings of one speaker, or of two; trials need both, give more speakers"
        )
    write = preparation.open_trials(DEV, COLUMNS)
    for trial in trials:
        write(trial)
    preparation.prepared.notes.append(
        f"{DEV}.trials: {kinds.count(TARGET):,} target and {kinds.count(NONTARGET):,} nontarget trials, drawn with "
        f"seed {seed} among the pairs of its utterances, {LIMIT:,} of either kind at most"
    )


def _passed_on(speech: Iterable[Speech], chosen: set[str], held_out: list[Speech]) -> Iterator[Speech]:
    """Yield the recordings of all but the chosen speakers; theirs are held out."""
    for speaker, recordings in groupby(speech, attrgetter("speaker")):
        if speaker in chosen:
            held_out.extend(recordings)
        else:
            yield from recordings


def _warn_of_single(speakers: Mapping[str, int], preparation: Preparation) -> None:
    single = [speaker for speaker, utterances in speakers.items() if utterances == 1]
    if single:
        preparation.prepared.warnings.append(
            f"{preparation.prepared.manifests[TRAIN]}: {len(single):,} of {len(speakers):,} speakers have a single "
            f"utterance, first {', '.join(single[:FIRST])}; there is little to learn of them"
        )
