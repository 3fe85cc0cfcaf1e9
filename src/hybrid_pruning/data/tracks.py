"""The kinds of evaluation: what each reads, how its key files are laid out, and what it measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_pruning.metrics import measures
from hybrid_pruning.metrics.measures import Measures

SPOOFING_COLUMNS = ("attack", "attack_tag", "vocoder", "task", "team", "replay_device")
"""Columns that say something of spoofs alone: in tables by one of these, all human speech stands beside each group."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of key or score file, whose `trial` columns name a trial."""

    trial: tuple[str, ...]
    label: str
    columns: tuple[str, ...] = ()  # all columns where the file has no header
    classes: Mapping[str, str] = field(default_factory=dict)  # class of each label, where the track's do not hold


@dataclass(frozen=True, slots=True)
class Track:
    """One kind of evaluation: the files it reads and the metrics it has."""

    trial: tuple[str, ...]  # the columns that name a trial
    classes: Mapping[str, str]  # the class each label stands for
    headers: tuple[Form, ...]  # forms of key files with a header
    layouts: tuple[Form, ...]  # and without, distinguished by their number of columns
    score_layouts: tuple[Form, ...]  # forms of score files without a header, distinguished likewise
    scores: str  # the score column that every system has
    measures: Measures
    main: tuple[str, ...]  # the metrics to show by group
    tandem: tuple[str, ...] = ()  # further score columns, of a countermeasure and a verifier
    tandem_measures: Measures = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # further score columns, each read where it is there
    sides: int = 0  # number of speakers that a trial names
    repeats: bool = False  # whether a trial may stand several times, as often in the keys as in the scores
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of a score file's columns -> ours

    @property
    def kinds(self) -> tuple[str, ...]:
        """The classes, each once."""
        return tuple(dict.fromkeys(self.classes.values()))


def _layouts(trial: tuple[str, ...], *columns: str) -> tuple[Form, ...]:
    return tuple(Form(trial, "label", tuple(names.split())) for names in columns)


TRACK1 = Track(
    trial=("filename",),
    classes={"bonafide": "bonafide", "spoof": "spoof"},
    headers=(
        Form(("filename",), "cm-label"),
        Form(("utt_id",), "label"),
        Form(("file",), "label", classes={"bona-fide": "bonafide", "spoof": "spoof"}),
        Form(("file",), "attack", classes={"a00": "bonafide"} | {f"a{n:02d}": "spoof" for n in range(1, 24)}),
    ),
    layouts=_layouts(
        ("filename",),
        "filename label",  # Kaldi's utt2lab
        "speaker filename gender codec codec_q codec_seed attack_tag attack label tmp",  # ASVspoof 5, released
        "speaker filename gender attack_tag attack label",  # ASVspoof 5, in the challenge
        "speaker filename environment attack label",  # ASVspoof 2019
        "speaker filename codec transmission attack label trim phase",  # 2021 LA
        "speaker filename codec source attack label trim phase vocoder task team gender_pair language",  # 2021 DF
        "speaker filename room microphone distance attacker_room attacker_microphone replay_device attacker_distance "
        "label trim phase",  # 2021 PA
    ),
    score_layouts=(
        Form(("filename",), "", ("filename", "cm-score")),
        Form(("filename",), "label", ("filename", "attack", "label", "cm-score")),  # AASIST, ASVspoof 2019
    ),
    scores="cm-score",
    measures=measures.TRACK1,
    main=("eer", "min_dcf"),
    aliases=dict.fromkeys(("utt_id", "utt", "utterance", "id", "file"), "filename")
    | dict.fromkeys(("score", "cm_score"), "cm-score"),
)
TRACK2 = Track(
    trial=("spk", "filename"),
    classes={"target": "target", "nontarget": "nontarget", "spoof": "spoof"},
    headers=(Form(("spk", "filename"), "asv-label"),),
    layouts=_layouts(
        ("spk", "filename"),
        "spk filename gender attack label",  # ASVspoof 5
        "spk filename attack label",  # ASVspoof 2019, ASV protocols
    ),
    score_layouts=(
        Form(("spk", "filename"), "", ("spk", "filename", "sasv-score")),
        Form(("spk", "filename"), "", ("spk", "filename", "cm-score", "asv-score", "sasv-score")),
    ),
    scores="sasv-score",
    measures=measures.TRACK2_SINGLE,
    main=("a_dcf", "min_t_dcf", "t_eer"),
    tandem=("cm-score", "asv-score"),
    tandem_measures=measures.TRACK2_TANDEM,
    sides=1,
)
SV = Track(
    trial=("enrol", "test"),
    classes={"1": "target", "target": "target", "0": "nontarget", "nontarget": "nontarget"},
    headers=(Form(("enrol", "test"), "label"),),
    layouts=_layouts(("enrol", "test"), "enrol test label", "label enrol test", "enrol test gender attack label"),
    score_layouts=(
        Form(("enrol", "test"), "", ("enrol", "test", "score")),  # Kaldi, SpeechBrain
        Form(("enrol", "test"), "label", ("enrol", "test", "score", "label")),  # WeSpeaker
    ),
    scores="score",
    measures=measures.SV,
    main=("eer", "min_dcf_0.01", "min_dcf_0.05"),
    sides=2,
    repeats=True,
    aliases={"enroll": "enrol", "enrollment": "enrol"},
)
