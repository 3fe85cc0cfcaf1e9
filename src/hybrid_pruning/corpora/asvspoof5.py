"""ASVspoof 5, track 1: the released protocol files -> manifests.

Source: Wang et al., "ASVspoof 5: Crowdsourced Speech Data, Deepfakes, and Adversarial Attacks at Scale", 2024.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import Label, Utterance, write_manifest

PARTS = {
    "train": ("ASVspoof5.train.tsv", "flac_T"),
    "dev": ("ASVspoof5.dev.track_1.tsv", "flac_D"),
    "eval": ("ASVspoof5.eval.track_1.tsv", "flac_E_eval"),
}
RELEASED = ("speaker", "file", "gender", "codec", "codec_q", "codec_seed", "attack_tag", "attack", "key", "tmp")
CHALLENGE = ("speaker", "file", "gender", "attack_tag", "attack", "key")


def prepare(root: Path, out: Path) -> dict[str, Path]:
    """Write a manifest for every part of the corpus that lies below `root`.

    Args:
        root: the folder with the protocol files and the flac_* folders.
        out: where train.tsv, dev.tsv and eval.tsv go.

    Returns:
        Part -> manifest.

    Raises:
        InputError: no protocol is there, a line of one is malformed, or audio it lists is missing.
    """
    written = {}
    for part, (protocol, folder) in PARTS.items():
        if (root / protocol).exists():
            utterances = list(read_protocol(root / protocol, root / folder))
            _require_audio(root / protocol, utterances)
            written[part] = out / f"{part}.tsv"
            write_manifest(written[part], utterances)
    if not written:
        names = ", ".join(protocol for protocol, _ in PARTS.values())
        raise InputError(f"{root}: none of {names} is there; give the folder the ASVspoof 5 archives were unpacked in")
    return written


def read_protocol(path: Path, audio: Path) -> Iterator[Utterance]:
    """Yield the utterances of a protocol of ten columns (as released) or six (as in the challenge).

    Args:
        path: the protocol, columns separated by white space.
        audio: the folder with FILE.flac.

    Raises:
        InputError: the file cannot be read, or a line has other columns or another key, naming its number.
    """
    try:
        handle = path.open(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    with handle:
        for line, text in enumerate(handle, start=1):
            cells = text.split()
            columns = {len(RELEASED): RELEASED, len(CHALLENGE): CHALLENGE}.get(len(cells))
            if columns is None:
                raise InputError(f"{path}:{line}: {len(cells)} columns, an ASVspoof 5 protocol has 10 (or 6, older)")
            row = dict(zip(columns, cells, strict=True))
            if row["key"] not in list(Label):
                raise InputError(f"{path}:{line}: key '{row['key']}', expected {' or '.join(Label)}")
            yield Utterance(
                utt_id=row["file"],
                path=audio / f"{row['file']}.flac",
                label=Label(row["key"]),
                speaker=row["speaker"],
                attack=row["attack"] if row["key"] == Label.SPOOF else "-",
                codec=row.get("codec", "-"),
                source="ASVspoof5",
            )


def _require_audio(protocol: Path, utterances: list[Utterance]) -> None:
    folder = utterances[0].path.parent if utterances else protocol.parent
    present = (
        {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    )  # one listing, not 680k lookups
    missing = [utterance.path.name for utterance in utterances if utterance.path.name not in present]
    if missing:
        raise InputError(
            f"{protocol}: {len(missing)} of {len(utterances)} files are missing in {folder}, first "
            f"{', '.join(missing[:10])}; unpack the audio archives there"
        )
