"""Speech of many speakers, a folder for each -> manifests and trials for speaker verification.

Everything is bona fide; the speaker is what counts. Dev speakers are drawn by a seed, never single utterances, so that
training and validation have no speaker in common.
"""

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.data.corpora.preparation import DEV, FIRST, TRAIN, Preparation, Trial, list_names
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, list_recordings
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

AAC = (".m4a", ".aac")  # the format of VoxCeleb2; decoded from its beginning whatever part is read
LEAST = 2  # speakers of a part: of one there are no nontarget trials
COLUMNS = ("enrol", "test", "label")  # of speaker verification's key files, as `evaluate --sv` reads them
TARGET, NONTARGET = "target", "nontarget"
TRIAL_LABELS = {"1": TARGET, "0": NONTARGET}
LIMIT = 10_000  # target trials drawn for a dev set at most, and as many nontarget ones: more of few speakers add little
CONTENTS = "a folder for each speaker, named after him or her, with the recordings below it at any depth"

Genders = Mapping[str, str] | None  # speaker -> gender, where known


class Speech(NamedTuple):
    """One recording of a speaker, its utt_id, its file, and the data set it was taken from."""

    speaker: str
    name: str
    path: str
    source: str


class SpeakerFolders(NamedTuple):
    """Speakers of one data set: the folder of their folders, the `source` of their utterances, and their names."""

    folder: Path
    source: str
    speakers: Sequence[str]

    def find_speech(self, hidden: list[str] | None = None) -> Iterator[Speech]:
        """Yield the recordings, a speaker's side by side, under their paths without endings.

        Of an m4a and its conversion the latter is taken. `hidden` is extended by the recordings that are left out.
        """
        for speaker in self.speakers:
            files: dict[str, str] = {}
            for file in list_recordings(self.folder / speaker, hidden):
                name = file.rpartition(".")[0]
                if name in files and file.lower().endswith(AAC):
                    continue
                if not files.get(name, AAC[0]).lower().endswith(AAC):
                    path = self.folder / speaker / file
                    raise InputError(f"{path}: differs from {files[name]} in its ending; remove one")
                files[name] = file
            for name, file in files.items():
                yield Speech(speaker, f"{speaker}/{name}", f"{self.folder}/{speaker}/{file}", self.source)


def add_speaker_folders(root: Path, preparation: Preparation) -> None:
    """Write all.tsv, or with a share for validation, of the speakers, train.tsv, dev.tsv and dev.trials."""
    hidden = preparation.prepared.hidden
    speakers = [name for name in find_speakers(root, hidden) if any(list_recordings(root / name))]
    speech = SpeakerFolders(root, root.absolute().name or UNKNOWN, speakers).find_speech(hidden)
    if preparation.dev_share and speakers:
        add_split(preparation, speech, speakers, root)
    else:
        add_speech(preparation, "all", speech)


def find_speakers(folder: Path, hidden: list[str] | None = None) -> list[str]:
    """Return the names of the speakers' folders, sorted; `hidden` is extended by the recordings of hidden ones."""
    names = sorted(name for name in list_names(folder) if (folder / name).is_dir())
    secret = [name for name in names if name.startswith(".") or name == "__MACOSX"]
    if hidden is not None:
        hidden += [f"{folder / name}/{file}" for name in secret for file in list_recordings(folder / name, hidden)]
    return [name for name in names if name not in secret]


def add_speech(preparation: Preparation, part: str, speech: Iterable[Speech], genders: Genders = None) -> None:
    """Write recordings to the manifest of a part, with the speakers' genders where known, and count by speaker."""
    counts: dict[str, int] = {}
    for speaker, name, path, source in speech:
        counts[speaker] = counts.get(speaker, 0) + 1
        gender = (genders or {}).get(speaker, UNKNOWN)
        preparation.put(part, Utterance(name, Path(path), Label.BONAFIDE, speaker, gender, source=source))
    if counts:
        preparation.prepared.speakers[part] = counts
    single = [speaker for speaker, utterances in counts.items() if utterances == 1]
    if single and part == TRAIN:
        preparation.prepared.warnings.append(
            f"{preparation.prepared.manifests[TRAIN]}: {len(single):,} of {len(counts):,} speakers have a single "
            f"utterance, first {', '.join(single[:FIRST])}; there is little to learn of them"
        )


def add_split(
    preparation: Preparation, speech: Iterable[Speech], speakers: Sequence[str], root: Path, genders: Genders = None
) -> None:
    """Deal recordings to `train` and, a share of their sorted speakers drawn by the seed, to `dev`, with its trials."""
    share = preparation.dev_share
    count = round(share * len(speakers))
    if share and not LEAST <= count <= len(speakers) - LEAST:
        fault = f"a share of {share:g} for dev is {count} of {len(speakers)} speakers, and both parts need {LEAST}"
        raise InputError(f"{root}: {fault} at least; give another share, or more speakers")
    chosen = set(random.Random(preparation.seed).sample(speakers, count))
    held_out: list[Speech] = []

    def others() -> Iterator[Speech]:
        for one in speech:
            if one.speaker not in chosen:
                yield one
            else:
                held_out.append(one)

    add_speech(preparation, TRAIN, others(), genders)
    if share:
        add_dev(preparation, held_out, root, genders)


def add_dev(preparation: Preparation, speech: Sequence[Speech], root: Path, genders: Genders = None) -> None:
    """Write dev's manifest and, drawn by the seed, its trials."""
    add_speech(preparation, DEV, speech, genders)
    trials = draw_trials([(one.speaker, one.name) for one in speech], preparation.seed)
    kinds = [label for *_, label in trials]
    if TARGET not in kinds or NONTARGET not in kinds:
        fault = f"{DEV} has no two recordings of one speaker, or of two"
        raise InputError(f"{root}: {fault}; trials need both, give more speakers")
    write = preparation.open_trials(DEV, f"{DEV}.trials", COLUMNS)
    for trial in trials:
        write(trial)
    preparation.prepared.notes.append(
        f"{DEV}.trials: {kinds.count(TARGET):,} target and {kinds.count(NONTARGET):,} nontarget trials, drawn with "
        f"seed {preparation.seed} among the pairs of its utterances, {LIMIT:,} of either kind at most"
    )


def draw_trials(speech: Sequence[tuple[str, str]], seed: int, limit: int = LIMIT) -> list[Trial]:
    """Return (enrol, test, label) of all pairs of a speaker's utterances or `limit` of them, and as many nontargets.

    Speech is (speaker, utt_id) of each utterance, a speaker's side by side.
    """
    ends, rng = {speaker: index for index, (speaker, _) in enumerate(speech, start=1)}, random.Random(seed)
    own = [range(index + 1, ends[speaker]) for index, (speaker, _) in enumerate(speech)]
    others = [range(ends[speaker], len(speech)) for speaker, _ in speech]
    targets = list(_draw_pairs(own, limit, rng))
    kinds = ((TARGET, targets), (NONTARGET, _draw_pairs(others, len(targets), rng)))
    return [(speech[enrol][1], speech[test][1], label) for label, pairs in kinds for enrol, test in pairs]


def _draw_pairs(partners: Sequence[range], limit: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Yield up to `limit` different pairs of an index and one of its partners, every pair as likely as any other."""
    ends = list(accumulate(map(len, partners)))
    total = ends[-1] if ends else 0
    for place in sorted(rng.sample(range(total), min(limit, total))):
        index = bisect_right(ends, place)
        yield index, partners[index][place - ends[index]]  # counted from its end


def trial_label(where: str, label: str, same: bool, trial: str) -> str:
    """Return the label of an official trial's 1 or 0, which must agree with its speakers being the same."""
    if label not in TRIAL_LABELS:
        raise InputError(f"{where}: label '{label}', expected 1 (the same speaker) or 0")
    if same != (label == "1"):
        raise InputError(f"{where}: label '{label}' beside {trial}; is the line whole?")
    return TRIAL_LABELS[label]
