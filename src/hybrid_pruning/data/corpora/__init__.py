"""Corpora -> manifests and trials: one record for each, which says what its root contains and how it is read."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.data.corpora import cnceleb, folder, releases, speakers, voxceleb
from hybrid_pruning.data.corpora.preparation import Preparation, Prepared
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

__all__ = ["CORPORA", "Corpus", "Prepared", "prepare"]


class Corpus(NamedTuple):
    """A corpus: required contents of its root, its writer, and whether a share can be set aside for validation."""

    contents: str
    add: Callable[[Path, Preparation], None]
    splits: bool = False


CORPORA: Mapping[str, Corpus] = {
    "asvspoof5": Corpus(releases.ASVSPOOF5.contents, releases.add_asvspoof5),
    **{name: Corpus(release.contents, release.add) for name, release in releases.RELEASES.items()},
    "folder": Corpus(folder.CONTENTS, folder.add_folder, splits=True),
    "voxceleb": Corpus(voxceleb.CONTENTS, voxceleb.add_voxceleb, splits=True),
    "cnceleb": Corpus(cnceleb.CONTENTS, cnceleb.add_cnceleb, splits=True),
    "speaker-folder": Corpus(speakers.CONTENTS, speakers.add_speaker_folders, splits=True),
}


def prepare(
    corpus: str,
    root: str | Path,
    out: str | Path,
    *,
    allow_missing: bool = False,
    dev_share: float = 0.0,
    seed: int = 0,
    durations: bool = True,
    workers: int = 4,
) -> Prepared:
    """Turn a corpus's own protocol files into manifests, one per part; all are written or none.

    Args:
        corpus: a name in `CORPORA`, whose record says the contents of the root.
        allow_missing: leave out the utterances whose audio is missing or no audio, instead of refusing.
        dev_share: fraction, 0 to 1, of the utterances or speakers to set aside where a corpus has no dev part.
        seed: of that split, and of the trials drawn for dev.
        durations: read every file's duration from its header; a second time only of changed files.
        workers: files whose headers are read at the same time.
    """
    if corpus not in CORPORA:
        raise InputError(f"prepare: corpus '{corpus}' is unknown; known are {', '.join(CORPORA)}")
    if dev_share and not CORPORA[corpus].splits:
        others = ", ".join(name for name, other in CORPORA.items() if other.splits)
        raise InputError(f"prepare: {corpus} comes with its own parts; a share for validation is for {others}")
    if not 0 <= dev_share < 1:
        raise InputError(f"prepare: the share for validation is {dev_share:g}, expected 0 or more and less than 1")
    root = Path(root)
    with Preparation(Path(out), allow_missing, dev_share, seed) as preparation:
        CORPORA[corpus].add(root, preparation)
        if not preparation.prepared.manifests:
            found = "holds nothing to prepare" if root.exists() else "is not there"
            raise InputError(f"{root}: {found}; the root must contain {CORPORA[corpus].contents}")
    prepared = preparation.prepared
    if durations:
        from hybrid_pruning.data.checks import add_durations  # decoders, which the help does not need

        for manifest in (*prepared.manifests.values(), *prepared.enrolments.values()):
            prepared.warnings.extend(add_durations(manifest, workers, drop_unreadable=allow_missing))
        for part, manifest in prepared.manifests.items() if allow_missing else ():  # count without what is no audio
            utterances = read_manifest(manifest)
            spoof = sum(utterance.label is Label.SPOOF for utterance in utterances)
            prepared.counts[part] = len(utterances) - spoof, spoof
            if part in prepared.speakers:
                prepared.speakers[part] = dict(Counter(utterance.speaker for utterance in utterances))
    return prepared
