"""ASVspoof 5, track 2: the released trials, checked against the manifests, as the key file of `evaluate --track2`.

Source: README.txt of the release.
"""

from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import DEV, EVAL, Options, Prepared, find_file
from hybrid_pruning.data.corpora.trials import Copying, copy_trials
from hybrid_pruning.data.tables import open_table, read_columns, read_rows
from hybrid_pruning.errors import InputError

TRIAL = ("spk", "filename", "gender", "attack", "label")
"""TARGET_SPEAKER_ID FLAC_FILE_NAME TARGET_GENDER ATTACK_LABEL ASV_KEY, e.g. `D_0062 D_0000000001 F A11 spoof`."""
KEYS = ("spk", "filename", "cm-label", "asv-label")
CM_LABEL = {"target": "bonafide", "nontarget": "bonafide", "spoof": "spoof"}
COUNTS = {DEV: 282_456, EVAL: 834_536}


def prepare_trials(root: Path, out: Path, part: str, prepared: Prepared, options: Options) -> None:
    """Write PART.track_2.trials.tsv, if the trials of that part lie below the root.

    Args:
        root: the folder with the protocol files.
        out: where the list goes.
        part: dev or eval.
        prepared: what was written before; the list and warnings are added to it.
        options: with `allow_missing`, trials whose utterance or target speaker is not in the manifests are left out.

    Raises:
        InputError: a line is malformed, a trial stands twice, or its utterance or target speaker is not known.
    """
    name = f"ASVspoof5.{part}.track_2.trial.tsv"
    path = find_file(root, (name, f"ASVspoof5_protocols/{name}"))
    if path is None:
        return
    if part not in prepared.enrolments:
        prepared.warnings.append(f"{path}: left out, as ASVspoof5.{part}.track_2.enroll.tsv is not beside it")
        return
    utterances = _column(prepared.manifests.get(part), "utt_id")
    speakers = _column(prepared.enrolments[part], "speaker")
    trials = (
        ((spk, filename, CM_LABEL[label], label), filename in utterances and spk in speakers)
        for spk, filename, label in read_trials(path)
    )
    unknown = f"an utterance that is not in the manifest of {part} or a target speaker without enrolment"
    copying = Copying(path, unknown, "are these files of one release?", (COUNTS[part],))
    prepared.trials[part] = out / f"{part}.track_2.trials.tsv"
    with open_table(prepared.trials[part], KEYS) as write:
        copy_trials(copying, trials, write, prepared, options)


def read_trials(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (target speaker, utterance, target | nontarget | spoof).

    Raises:
        InputError: the file cannot be read, a line is malformed, or a trial stands twice.
    """
    seen: set[str] = set()
    for line, row in read_columns(path, TRIAL):
        label, trial = row["label"], f"{row['spk']} {row['filename']}"
        if label not in CM_LABEL:
            raise InputError(f"{path}:{line}: label '{label}', expected {' or '.join(CM_LABEL)}")
        if (row["attack"] == "bonafide") != (CM_LABEL[label] == "bonafide"):
            raise InputError(f"{path}:{line}: attack '{row['attack']}' beside '{label}'; only a spoof has an attack")
        if trial in seen:
            raise InputError(f"{path}:{line}: '{trial}' stands twice; remove one of the lines")
        seen.add(trial)
        yield row["spk"], row["filename"], label


def _column(manifest: Path | None, name: str) -> set[str]:
    return set() if manifest is None else {row[name] for _, row in read_rows(manifest, (name,))}
