"""ASVspoof 2021, logical access and deepfake: the keys with metadata, as released after the challenge -> manifests.

Source: the organisers' evaluation package (github.com/asvspoof-challenge/2021, eval-package: README.md for the layout
of LA-keys-full and DF-keys-full, its configuration for the columns); Liu et al., "ASVspoof 2021: Towards Spoofed and
Deepfake Speech Detection in the Wild", IEEE/ACM TASLP 2023, for the counts. Results are reported on the phase `eval`;
`progress` and `hidden` become manifests of their own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import EVAL, WHOLE, Corpus, Counts, Protocol
from hybrid_pruning.data.corpora.protocol import Entry
from hybrid_pruning.data.tables import read_columns
from hybrid_pruning.errors import InputError

LA_COLUMNS = ("speaker", "filename", "codec", "transmission", "attack", "label", "trim", "phase")
DF_COLUMNS = (
    *("speaker", "filename", "codec", "source", "attack", "label", "trim", "phase"),
    *("vocoder", "task", "team", "gender_pair", "language"),
)
LA_NAME, DF_NAME = "ASVspoof2021-LA", "ASVspoof2021-DF"
PHASES = (EVAL, "progress", "hidden")


def read_la(path: Path, part: str = EVAL) -> Iterator[Entry]:  # noqa: ARG001  its lines say their part
    """Yield the lines of keys/LA/CM/trial_metadata.txt, e.g. `LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval`.

    Raises:
        InputError: the file cannot be read, or a line has other columns or another phase.
    """
    return _read(path, LA_COLUMNS, LA_NAME)


def read_df(path: Path, part: str = EVAL) -> Iterator[Entry]:  # noqa: ARG001  its lines say their part
    """Yield the lines of keys/DF/CM/trial_metadata.txt.

    E.g. `LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -`.

    Raises:
        InputError: as `read_la`.
    """
    return _read(path, DF_COLUMNS, DF_NAME)


def _read(path: Path, columns: tuple[str, ...], corpus: str) -> Iterator[Entry]:
    for line, row in read_columns(path, columns):
        if row["phase"] not in PHASES:
            raise InputError(f"{path}:{line}: phase '{row['phase']}', expected {' or '.join(PHASES)}")
        source = f"{corpus}/{row['source']}" if "source" in row else corpus
        cells = row | {"utt_id": row["filename"], "source": source}
        yield Entry(line, row["phase"], f"{row['filename']}.flac", cells)


def _protocol(track: str, counts: Counts, read: Callable[[Path, str], Iterator[Entry]]) -> Protocol:
    keys, audio = f"keys/{track}/CM/trial_metadata.txt", f"ASVspoof2021_{track}_eval"
    files = (keys, f"{track}-keys-full/{keys}", f"{audio}/{keys}")
    return Protocol(EVAL, files, (f"{audio}/flac", f"{audio}_part*/{audio}/flac"), counts, read)


def _contents(track: str) -> str:
    return (
        f"keys/{track}/CM/trial_metadata.txt, of {track}-keys-full.tar.gz, and ASVspoof2021_{track}_eval/flac, of the "
        "audio archives"
    )


LA = Corpus(
    name=LA_NAME,
    contents=_contents("LA"),
    protocols=(_protocol("LA", {EVAL: (14_816, 133_360), WHOLE: (18_452, 163_114)}, read_la),),
)
DF = Corpus(
    name=DF_NAME,
    contents=_contents("DF"),
    protocols=(_protocol("DF", {EVAL: (14_869, 519_059), WHOLE: (22_617, 589_212)}, read_df),),
)
