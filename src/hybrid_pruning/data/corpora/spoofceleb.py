"""SpoofCeleb: its metadata files -> manifests.

Source: Jung et al., "SpoofCeleb: Speech Deepfake Detection and SASV in the Wild", IEEE OJSP 2025; columns and layout as
ESPnet's recipe for the corpus reads them, counts as in the card of DeepFense/SpoofCeleb on the Hugging Face hub.
"""

from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import DEV, EVAL, TRAIN, Corpus, Protocol
from hybrid_pruning.data.corpora.protocol import Entry
from hybrid_pruning.data.tables import read_rows
from hybrid_pruning.tasks import Label

COLUMNS = ("file", "speaker", "attack")
"""E.g. `a00/id10318/YYsxcZ5saac-00002-006.flac,id10318,a00`; a00 is bona fide."""
BONAFIDE, ATTACKS = "a00", 23


def read_metadata(path: Path, part: str) -> Iterator[Entry]:
    """Yield the lines of metadata/*.csv; one file name may occur under several attacks, so ids have their folders.

    Raises:
        InputError: the file cannot be read, or a line has other columns.
    """
    for line, row in read_rows(path, COLUMNS, ","):
        yield Entry(
            line, part, row["file"], row | {"utt_id": row["file"].removesuffix(".flac"), "label": row["attack"]}
        )


def _protocol(part: str, name: str, bonafide: int, spoof: int) -> Protocol:
    return Protocol(part, (f"metadata/{name}.csv",), (f"flac/{name}",), {part: (bonafide, spoof)}, read_metadata)


SPOOFCELEB = Corpus(
    name="SpoofCeleb",
    contents="metadata/train.csv, metadata/development.csv and metadata/evaluation.csv, and the folders flac/train, "
    "flac/development and flac/evaluation",
    protocols=(
        _protocol(TRAIN, "train", 230_948, 2_309_473),
        _protocol(DEV, "development", 7_963, 47_778),
        _protocol(EVAL, "evaluation", 9_113, 82_017),
    ),
    labels={BONAFIDE: Label.BONAFIDE} | {f"a{number:02d}": Label.SPOOF for number in range(1, ATTACKS + 1)},
)
