"""ASVspoof 2019, logical access: the countermeasure protocols -> manifests.

Source: README.LA.txt of the release for columns and layout; Wang et al., "ASVspoof 2019: A large-scale public database
of synthesized, converted and replayed speech", Computer Speech & Language 64, 2020, for the counts.
"""

from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import DEV, EVAL, TRAIN, Corpus, Protocol
from hybrid_pruning.data.corpora.protocol import Entry
from hybrid_pruning.data.tables import read_columns

COLUMNS = ("speaker", "filename", "unused", "attack", "label")
"""SPEAKER_ID AUDIO_FILE_NAME - SYSTEM_ID KEY, e.g. `LA_0079 LA_T_1138215 - - bonafide`."""


def read_protocol(path: Path, part: str) -> Iterator[Entry]:
    """Yield the lines of ASVspoof2019.LA.cm.*.txt.

    Raises:
        InputError: the file cannot be read, or a line has other columns.
    """
    for line, row in read_columns(path, COLUMNS):
        yield Entry(line, part, f"{row['filename']}.flac", row | {"utt_id": row["filename"]})


def _protocol(part: str, suffix: str, bonafide: int, spoof: int) -> Protocol:
    name = f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{part}.{suffix}.txt"
    audio = f"ASVspoof2019_LA_{part}/flac"
    return Protocol(part, (name, f"LA/{name}"), (audio, f"LA/{audio}"), {part: (bonafide, spoof)}, read_protocol)


LA = Corpus(
    name="ASVspoof2019-LA",
    contents="ASVspoof2019_LA_cm_protocols, ASVspoof2019_LA_train, ASVspoof2019_LA_dev and ASVspoof2019_LA_eval, "
    "as LA.zip has them, or the folder LA with them",
    protocols=(
        _protocol(TRAIN, "trn", 2_580, 22_800),
        _protocol(DEV, "trl", 2_548, 22_296),
        _protocol(EVAL, "trl", 7_355, 63_882),
    ),
)
