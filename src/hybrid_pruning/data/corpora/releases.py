"""Anti-spoofing corpora as they were released: where their protocols and audio lie, and the official counts.

ASVspoof 2019, logical access: the countermeasure protocols. Source: README.LA.txt of the release for columns and
layout; Wang et al., "ASVspoof 2019: A large-scale public database of synthesized, converted and replayed speech",
Computer Speech & Language 64, 2020, for the counts.

ASVspoof 2021, logical access and deepfake: the keys with metadata, as released after the challenge. Source: the
organisers' evaluation package (github.com/asvspoof-challenge/2021, eval-package: README.md for the layout of
LA-keys-full and DF-keys-full, its configuration for the columns); Liu et al., "ASVspoof 2021: Towards Spoofed and
Deepfake Speech Detection in the Wild", IEEE/ACM TASLP 2023, for the counts. Results are reported on the phase `eval`;
`progress` and `hidden` become manifests of their own.

SpoofCeleb. Source: Jung et al., "SpoofCeleb: Speech Deepfake Detection and SASV in the Wild", IEEE OJSP 2025; columns
and layout as ESPnet's recipe for the corpus reads them, counts as in the card of DeepFense/SpoofCeleb on the Hugging
Face hub. One file name may occur under several attacks, so ids have their folders.

In-the-Wild, an evaluation set. Source: Müller et al., "Does Audio Deepfake Detection Generalize?", Interspeech 2022,
and its release_in_the_wild.zip; counts as several public evaluations of it have them, 31,779 in all.

ASVspoof 5: manifests of track 1, trials and enrolment of track 2. Source: README.txt of the release for layout, columns
and number of lines; Wang et al., "ASVspoof 5: Crowdsourced Speech Data, Deepfakes, and Adversarial Attacks at Scale",
ASVspoof Workshop 2024, for the corpus.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hybrid_pruning.data.corpora.preparation import (
    DEV,
    EVAL,
    LABELS,
    TRAIN,
    WHOLE,
    Audio,
    Counts,
    Entry,
    Preparation,
    Trial,
    find_file,
    find_folders,
)
from hybrid_pruning.data.tables import Columns, read_columns, read_rows
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

LA_2019 = ("speaker", "filename", "unused", "attack", "label")
"""SPEAKER_ID AUDIO_FILE_NAME - SYSTEM_ID KEY, e.g. `LA_0079 LA_T_1138215 - - bonafide`."""
LA_2021 = ("speaker", "filename", "codec", "transmission", "attack", "label", "trim", "phase")
"""E.g. `LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval`."""
DF_2021 = (
    *("speaker", "filename", "codec", "source", "attack", "label", "trim", "phase"),
    *("vocoder", "task", "team", "gender_pair", "language"),
)
"""E.g. `LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -`."""
PHASES = (EVAL, "progress", "hidden")
SPOOFCELEB = ("file", "speaker", "attack")
"""E.g. `a00/id10318/YYsxcZ5saac-00002-006.flac,id10318,a00`; a00 is bona fide."""
IN_THE_WILD = ("file", "speaker", "label")
"""E.g. `0.wav,Alec Guinness,spoof`."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol file and its audio below the root."""

    part: str  # the manifest of its lines, where they do not say so themselves
    files: tuple[str, ...]  # possible places of the protocol; the first that is there counts
    audio: tuple[str, ...]  # folders its audio may lie in, the usual one first; `*` stands for any name
    counts: Counts
    read: Callable[[Path, str], Iterator[Entry]]


@dataclass(frozen=True, slots=True)
class Release:
    """A corpus as it was released; protocols that are not there are passed over, as long as one is."""

    name: str
    contents: str
    protocols: tuple[Protocol, ...]
    labels: Mapping[str, Label] = field(default_factory=lambda: LABELS)

    def add(self, root: Path, preparation: Preparation) -> None:
        """Write a manifest for every part of the corpus whose protocol lies below `root`."""
        for protocol in self.protocols:
            if path := find_file(root, protocol.files):
                audio = Audio(path, find_folders(root, protocol.audio) or [root / protocol.audio[0]])
                entries = protocol.read(path, protocol.part)
                preparation.add(path, entries, audio, self.name, self.labels, protocol.counts)


def read_flac(path: Path, part: str, layouts: Sequence[Columns]) -> Iterator[Entry]:
    """Yield the lines of a protocol whose columns are separated by white space and whose audio is flac."""
    for line, row in read_columns(path, *layouts):
        yield Entry(line, part, f"{row['filename']}.flac", row | {"utt_id": row["filename"]})


def _read_2021(path: Path, part: str, columns: Columns, corpus: str) -> Iterator[Entry]:
    """Yield the lines of keys/TRACK/CM/trial_metadata.txt, which say their part."""
    for entry in read_flac(path, part, (columns,)):
        phase, source = entry.cells["phase"], entry.cells.get("source")
        if phase not in PHASES:
            raise InputError(f"{path}:{entry.line}: phase '{phase}', expected {' or '.join(PHASES)}")
        yield entry._replace(part=phase, cells={**entry.cells, "source": f"{corpus}/{source}" if source else corpus})


def _read_csv(path: Path, part: str, columns: Columns, suffix: str, label: str = "label") -> Iterator[Entry]:
    """Yield the lines of a table with commas; `label` is the column of labels."""
    for line, row in read_rows(path, columns, ","):
        cells = {"utt_id": row["file"].removesuffix(suffix), "label": row[label]}
        yield Entry(line, part, row["file"], row | cells)


def _release_2021(track: str, columns: Columns, counts: Counts) -> Release:
    keys, audio, name = f"keys/{track}/CM/trial_metadata.txt", f"ASVspoof2021_{track}_eval", f"ASVspoof2021-{track}"
    files = (keys, f"{track}-keys-full/{keys}", f"{audio}/{keys}")
    read = partial(_read_2021, columns=columns, corpus=name)
    return Release(
        name,
        f"{keys}, of {track}-keys-full.tar.gz, and {audio}/flac, of the audio archives",
        (Protocol(EVAL, files, (f"{audio}/flac", f"{audio}_part*/{audio}/flac"), counts, read),),
    )


RELEASES = {
    "asvspoof2019-la": Release(
        "ASVspoof2019-LA",
        "ASVspoof2019_LA_cm_protocols, ASVspoof2019_LA_train, ASVspoof2019_LA_dev and ASVspoof2019_LA_eval, as LA.zip "
        "has them, or the folder LA with them",
        tuple(
            Protocol(
                part,
                tuple(f"{folder}ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{file}.txt" for folder in ("", "LA/")),
                tuple(f"{folder}ASVspoof2019_LA_{part}/flac" for folder in ("", "LA/")),
                {part: counts},
                partial(read_flac, layouts=(LA_2019,)),
            )
            for part, file, counts in (
                (TRAIN, "train.trn", (2_580, 22_800)),
                (DEV, "dev.trl", (2_548, 22_296)),
                (EVAL, "eval.trl", (7_355, 63_882)),
            )
        ),
    ),
    "asvspoof2021-la": _release_2021("LA", LA_2021, {EVAL: (14_816, 133_360), WHOLE: (18_452, 163_114)}),
    "asvspoof2021-df": _release_2021("DF", DF_2021, {EVAL: (14_869, 519_059), WHOLE: (22_617, 589_212)}),
    "spoofceleb": Release(
        "SpoofCeleb",
        "metadata/train.csv, metadata/development.csv and metadata/evaluation.csv, and the folders flac/train, "
        "flac/development and flac/evaluation",
        tuple(
            Protocol(
                part,
                (f"metadata/{name}.csv",),
                (f"flac/{name}",),
                {part: counts},
                partial(_read_csv, columns=SPOOFCELEB, suffix=".flac", label="attack"),
            )
            for part, name, counts in (
                (TRAIN, "train", (230_948, 2_309_473)),
                (DEV, "development", (7_963, 47_778)),
                (EVAL, "evaluation", (9_113, 82_017)),
            )
        ),
        {"a00": Label.BONAFIDE} | {f"a{number:02d}": Label.SPOOF for number in range(1, 24)},
    ),
    "in-the-wild": Release(
        "In-the-Wild",
        "meta.csv and the .wav files, as release_in_the_wild.zip has them, or the folder release_in_the_wild",
        (
            Protocol(
                EVAL,
                ("meta.csv", "release_in_the_wild/meta.csv"),
                (".", "release_in_the_wild"),
                {EVAL: (19_963, 11_816)},
                partial(_read_csv, columns=IN_THE_WILD, suffix=".wav"),
            ),
        ),
        {"bona-fide": Label.BONAFIDE, "spoof": Label.SPOOF},
    ),
}


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
    ASVSPOOF5.add(root, preparation)
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


ASVSPOOF5 = Release(
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
