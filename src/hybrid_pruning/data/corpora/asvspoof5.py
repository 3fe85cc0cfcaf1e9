"""ASVspoof 5: the released protocol files -> manifests of track 1, trials and enrolment of track 2.

Source: README.txt of the release for layout, columns and number of lines; Wang et al., "ASVspoof 5: Crowdsourced Speech
Data, Deepfakes, and Adversarial Attacks at Scale", ASVspoof Workshop 2024, for the corpus.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.asvspoof5_trials import prepare_trials
from hybrid_pruning.data.corpora.preparation import DEV, EVAL, TRAIN, Corpus, Options, Prepared, Protocol
from hybrid_pruning.data.corpora.protocol import Entry
from hybrid_pruning.data.tables import read_columns

RELEASED = (
    *("speaker", "filename", "gender", "codec", "codec_quality", "codec_seed"),
    *("attack_tag", "attack", "label", "unused"),
)
"""E.g. `T_0001 T_0000000000 F - - - AC3 A05 spoof -`."""
CHALLENGE = ("speaker", "filename", "gender", "attack_tag", "attack", "label")
"""As handed out during the challenge."""
ENROLMENT = ("speaker", "filenames")
"""E.g. `D_4205 D_A0000000562,D_A0000000898,D_A0000000328`; some speakers have fewer files."""
ENROL = {part: f"{part}.track_2.enrol" for part in (DEV, EVAL)}


def read_protocol(path: Path, part: str) -> Iterator[Entry]:
    """Yield the lines of a track 1 protocol of ten columns (as released) or six (as in the challenge).

    Raises:
        InputError: the file cannot be read, or a line has other columns.
    """
    for line, row in read_columns(path, RELEASED, CHALLENGE):
        yield Entry(line, part, f"{row['filename']}.flac", row | {"utt_id": row["filename"]})


def read_enrolment(path: Path, part: str) -> Iterator[Entry]:
    """Yield the utterances a track 2 enrolment file lists for each target speaker.

    Raises:
        InputError: the file cannot be read, or a line has other columns.
    """
    for line, row in read_columns(path, ENROLMENT):
        for name in row["filenames"].split(","):
            yield Entry(line, part, f"{name}.flac", {"utt_id": name, "speaker": row["speaker"], "label": "bonafide"})


def _protocol(
    part: str,
    name: str,
    audio: str,
    counts: tuple[int, int],
    read: Callable[[Path, str], Iterator[Entry]] = read_protocol,
) -> Protocol:
    return Protocol(part, (name, f"ASVspoof5_protocols/{name}"), (audio,), {part: counts}, read)


CORPUS = Corpus(
    name="ASVspoof5",
    contents="ASVspoof5.train.tsv, ASVspoof5.dev.track_1.tsv and ASVspoof5.eval.track_1.tsv (or the folder "
    "ASVspoof5_protocols with them), and the folders flac_T, flac_D and flac_E_eval; the files of track 2 are read "
    "where they are there",
    protocols=(
        _protocol(TRAIN, "ASVspoof5.train.tsv", "flac_T", (18_797, 163_560)),
        _protocol(DEV, "ASVspoof5.dev.track_1.tsv", "flac_D", (31_334, 109_616)),
        _protocol(ENROL[DEV], "ASVspoof5.dev.track_2.enroll.tsv", "flac_D", (1_184, 0), read_enrolment),
        _protocol(EVAL, "ASVspoof5.eval.track_1.tsv", "flac_E_eval", (138_688, 542_086)),
        _protocol(ENROL[EVAL], "ASVspoof5.eval.track_2.enroll.tsv", "flac_E_eval", (1_098, 0), read_enrolment),
    ),
)


def prepare(root: Path, out: Path, options: Options) -> Prepared:
    """Write the manifests of track 1 and, where its files are there, the lists of track 2.

    Args:
        root: the folder with the protocol files and the flac_* folders.
        out: where train.tsv, dev.tsv and eval.tsv go; and for track 2 PART.track_2.enrol.tsv, a manifest whose
            speakers are the target speakers, and PART.track_2.trials.tsv, the trials as `evaluate --track2` reads them.
        options: how.

    Raises:
        InputError: as `Corpus.prepare` and `prepare_trials`; the manifests are there in the latter case.
    """
    prepared = CORPUS.prepare(root, out, options)
    for part, enrol in ENROL.items():
        if enrol in prepared.manifests:
            prepared.enrolments[part] = prepared.manifests.pop(enrol)
            del prepared.counts[enrol]
        prepare_trials(root, out, part, prepared, options)
    return prepared
