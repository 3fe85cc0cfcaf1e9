"""ASVspoof 5: the released protocol files -> manifests of track 1, trials and enrolment of track 2.

Source: README.txt of the release for layout, columns and number of lines; Wang et al., "ASVspoof 5: Crowdsourced Speech
Data, Deepfakes, and Adversarial Attacks at Scale", ASVspoof Workshop 2024, for the corpus.
"""

from collections.abc import Iterator
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import DEV, EVAL, TRAIN, Entry, Preparation, Trial, find_file
from hybrid_pruning.data.corpora.releases import Protocol, Release, read_flac
from hybrid_pruning.data.tables import read_columns, read_rows
from hybrid_pruning.errors import InputError

RELEASED = (
    *("speaker", "filename", "gender", "codec", "codec_quality", "codec_seed"),
    *("attack_tag", "attack", "label", "unused"),
)
"""E.g. `T_0001 T_0000000000 F - - - AC3 A05 spoof -`."""
CHALLENGE = ("speaker", "filename", "gender", "attack_tag", "attack", "label")  # as handed out during the challenge
ENROLMENT = ("speaker", "filenames")
"""E.g. `D_4205 D_A0000000562,D_A0000000898,D_A0000000328`; some speakers have fewer files."""
TRIAL = ("spk", "filename", "gender", "attack", "label")
"""TARGET_SPEAKER_ID FLAC_FILE_NAME TARGET_GENDER ATTACK_LABEL ASV_KEY, e.g. `D_0062 D_0000000001 F A11 spoof`."""
CM_LABEL = {"target": "bonafide", "nontarget": "bonafide", "spoof": "spoof"}
KEYS = ("spk", "filename", "cm-label", "asv-label")
TRIALS = {DEV: 282_456, EVAL: 834_536}
ENROL = {part: f"{part}.track_2.enrol" for part in TRIALS}


def add_asvspoof5(root: Path, preparation: Preparation) -> None:
    """Write the manifests of track 1 and, where its files are there, the lists of track 2.

    These are PART.track_2.enrol.tsv, a manifest whose speakers are the target speakers, and PART.track_2.trials.tsv,
    the key file of `evaluate --track2`. Trials name what the manifests have, so these are written first.
    """
    RELEASE.add(root, preparation)
    preparation.close()
    prepared = preparation.prepared
    for part, enrol in ENROL.items():
        if enrol in prepared.manifests:
            prepared.enrolments[part] = prepared.manifests.pop(enrol)
            del prepared.counts[enrol]
        if (path := find_file(root, _places(f"ASVspoof5.{part}.track_2.trial.tsv"))) is None:
            continue
        if part not in prepared.enrolments:
            prepared.warnings.append(f"{path}: left out, as ASVspoof5.{part}.track_2.enroll.tsv is not beside it")
            continue
        manifest = prepared.manifests.get(part)
        utterances = set() if manifest is None else {row["utt_id"] for _, row in read_rows(manifest, ("utt_id",))}
        speakers = {row["speaker"] for _, row in read_rows(prepared.enrolments[part], ("speaker",))}
        preparation.copy_trials(
            path,
            ((trial, trial[1] in utterances and trial[0] in speakers) for trial in _read_trials(path)),
            preparation.open_trials(part, f"{part}.track_2.trials.tsv", KEYS),
            (TRIALS[part],),
            f"an utterance that is not in the manifest of {part} or a target speaker without enrolment",
            "are these files of one release?",
        )


def _read_trials(path: Path) -> Iterator[Trial]:
    """Yield (target speaker, utterance, bonafide | spoof, target | nontarget | spoof)."""
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
        yield row["spk"], row["filename"], CM_LABEL[label], label


def _read_enrolment(path: Path, part: str) -> Iterator[Entry]:
    """Yield the utterances that a track 2 enrolment file lists for each target speaker."""
    for line, row in read_columns(path, ENROLMENT):
        for name in row["filenames"].split(","):
            yield Entry(line, part, f"{name}.flac", {"utt_id": name, "speaker": row["speaker"], "label": "bonafide"})


def _places(name: str) -> tuple[str, ...]:
    return name, f"ASVspoof5_protocols/{name}"


def _read_track1(path: Path, part: str) -> Iterator[Entry]:
    return read_flac(path, part, (RELEASED, CHALLENGE))


RELEASE = Release(
    "ASVspoof5",
    "ASVspoof5.train.tsv, ASVspoof5.dev.track_1.tsv and ASVspoof5.eval.track_1.tsv (or the folder ASVspoof5_protocols "
    "with them), and the folders flac_T, flac_D and flac_E_eval; the files of track 2 are read where they are there",
    tuple(
        Protocol(part, _places(f"ASVspoof5.{name}.tsv"), (audio,), {part: counts}, read)
        for part, name, audio, counts, read in (
            (TRAIN, "train", "flac_T", (18_797, 163_560), _read_track1),
            (DEV, "dev.track_1", "flac_D", (31_334, 109_616), _read_track1),
            (ENROL[DEV], "dev.track_2.enroll", "flac_D", (1_184, 0), _read_enrolment),
            (EVAL, "eval.track_1", "flac_E_eval", (138_688, 542_086), _read_track1),
            (ENROL[EVAL], "eval.track_2.enroll", "flac_E_eval", (1_098, 0), _read_enrolment),
        )
    ),
)
