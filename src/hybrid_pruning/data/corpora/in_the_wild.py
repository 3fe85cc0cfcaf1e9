"""In-the-Wild: meta.csv -> one manifest; it is an evaluation set.

Source: Müller et al., "Does Audio Deepfake Detection Generalize?", Interspeech 2022, and its release_in_the_wild.zip;
counts as several public evaluations of it have them, 31,779 in all.
"""

from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import EVAL, Corpus, Protocol
from hybrid_pruning.data.corpora.protocol import Entry
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.tasks import Label

COLUMNS = ("file", "speaker", "label")
"""E.g. `0.wav,Alec Guinness,spoof`."""


def read_metadata(path: Path, part: str) -> Iterator[Entry]:
    """Yield the lines of meta.csv.

    Raises:
        InputError: the file cannot be read, or a line has other columns.
    """
    for line, row in read_rows(path, COLUMNS, ","):
        yield Entry(line, part, row["file"], row | {"utt_id": row["file"].removesuffix(".wav")})


IN_THE_WILD = Corpus(
    name="In-the-Wild",
    contents="meta.csv and the .wav files, as release_in_the_wild.zip has them, or the folder release_in_the_wild",
    protocols=(
        Protocol(
            EVAL,
            files=("meta.csv", "release_in_the_wild/meta.csv"),
            audio=(".", "release_in_the_wild"),
            counts={EVAL: (19_963, 11_816)},
            read=read_metadata,
        ),
    ),
    labels={"bona-fide": Label.BONAFIDE, "spoof": Label.SPOOF},
)
