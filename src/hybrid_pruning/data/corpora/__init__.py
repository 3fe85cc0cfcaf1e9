"""One small file per corpus: its protocol files -> manifests (pure text, no audio)."""

from collections.abc import Mapping
from pathlib import Path

from hybrid_pruning.data.corpora import (
    asvspoof5,
    asvspoof2019,
    asvspoof2021,
    cnceleb,
    folder,
    in_the_wild,
    speakers,
    spoofceleb,
    voxceleb,
)
from hybrid_pruning.data.corpora.preparation import Options, Prepare, Prepared
from hybrid_pruning.errors import InputError

__all__ = ["CONTENTS", "PREPARE", "SPLIT", "Options", "Prepare", "Prepared", "prepare"]

PREPARE: Mapping[str, Prepare] = {
    "asvspoof5": asvspoof5.prepare,
    "asvspoof2019-la": asvspoof2019.LA.prepare,
    "asvspoof2021-la": asvspoof2021.LA.prepare,
    "asvspoof2021-df": asvspoof2021.DF.prepare,
    "spoofceleb": spoofceleb.SPOOFCELEB.prepare,
    "in-the-wild": in_the_wild.IN_THE_WILD.prepare,
    "folder": folder.prepare,
    "voxceleb": voxceleb.prepare,
    "cnceleb": cnceleb.prepare,
    "speaker-folder": speakers.prepare,
}
CONTENTS: Mapping[str, str] = {
    "asvspoof5": asvspoof5.CORPUS.contents,
    "asvspoof2019-la": asvspoof2019.LA.contents,
    "asvspoof2021-la": asvspoof2021.LA.contents,
    "asvspoof2021-df": asvspoof2021.DF.contents,
    "spoofceleb": spoofceleb.SPOOFCELEB.contents,
    "in-the-wild": in_the_wild.IN_THE_WILD.contents,
    "folder": folder.CONTENTS,
    "voxceleb": voxceleb.CONTENTS,
    "cnceleb": cnceleb.CONTENTS,
    "speaker-folder": speakers.CONTENTS,
}
"""Corpus -> what its root must contain, for people."""
SPLIT = ("folder", "voxceleb", "cnceleb", "speaker-folder")
"""Corpora of which a share can be set aside for validation; the others come with a part for it."""


def prepare(
    corpus: str,
    root: str | Path,
    out: str | Path,
    *,
    allow_missing: bool = False,
    dev_share: float = 0.0,
    seed: int = 0,
) -> Prepared:
    """Turn a corpus's own protocol files into manifests, one per part.

    Args:
        corpus: a name in `PREPARE`.
        root: what `CONTENTS` says.
        out: folder for the manifests.
        allow_missing: leave out the utterances whose audio is missing, instead of refusing.
        dev_share: fraction of the utterances, or in a corpus of speakers of these, to set aside for validation, 0 to 1;
            for the corpora in `SPLIT`.
        seed: of that split.

    Raises:
        InputError: the corpus is unknown, the root is not what it must be, a line of a protocol is malformed, or audio
            is missing.
    """
    if corpus not in PREPARE:
        raise InputError(f"prepare: corpus '{corpus}' is unknown; known are {', '.join(PREPARE)}")
    if dev_share and corpus not in SPLIT:
        raise InputError(
            f"prepare: {corpus} comes with its own parts; a share for validation is for {', '.join(SPLIT)}"
        )
    if not 0 <= dev_share < 1:
        raise InputError(f"prepare: the share for validation is {dev_share:g}, expected 0 or more and less than 1")
    return PREPARE[corpus](Path(root), Path(out), Options(allow_missing, dev_share, seed))
