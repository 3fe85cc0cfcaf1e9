"""The sections of a recipe: their keys, types, bounds, defaults and descriptions."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from hybrid_pruning.tasks import TaskName

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Epochs = Annotated[float, Field(ge=0, le=9999)]
Rate = Annotated[float, Field(gt=0, le=1000)]
"""A learning rate; smaller ones are 0 in float32."""
Decibels = Annotated[float, Field(ge=-200, le=200)]
Hertz = Annotated[float, Field(ge=0, le=8000)]


def _rising(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] > ends[1]:
        raise PydanticCustomError("range", "a range is [lowest, highest]")
    return ends


def _other_speeds(speeds: tuple[float, ...]) -> tuple[float, ...]:
    if 1 in speeds or len(set(speeds)) < len(speeds):
        raise PydanticCustomError("speeds", "speeds are different from each other and from 1")
    return speeds


Speed = Annotated[float, Field(ge=0.5, le=2)]
Speeds = Annotated[tuple[Speed, ...], Field(max_length=20), AfterValidator(_other_speeds)]
Range = Annotated[tuple[Decibels, Decibels], AfterValidator(_rising)]
Band = Annotated[tuple[Hertz, Hertz], AfterValidator(_rising)]
Width = Annotated[float, Field(gt=0, le=8000)]
Widths = Annotated[tuple[Width, Width], AfterValidator(_rising)]
Count = Annotated[int, Field(ge=1, le=1000)]
Counts = Annotated[tuple[Count, Count], AfterValidator(_rising)]
CodecName = Literal[
    "opus", "opus-nb", "mp3", "mulaw", "alaw", "narrowband", "speex", "speex-nb", "amr-nb", "amr-wb", "m4a", "g722"
]
Unit = Literal["conv", "head", "attlayer", "interm", "ffnlayer"]
Method = Literal["joint", "post-hoc", "magnitude", "taylor", "random", "truncation", "layers", "small"]
GATED: tuple[Method, ...] = ("joint", "post-hoc")
"""Methods that choose units by gates, step by step; the others cut the network before the first step."""
TRAINED_FIRST: tuple[Method, ...] = ("post-hoc", "taylor", "layers")
"""Methods that read a network which has learnt the task."""
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Files = Path | Annotated[dict[SetName, Path], Field(min_length=1)]
"""One file, or one for each of several corpora by name."""


def by_name(files: Files) -> dict[str, Path]:
    """Return the files of several corpora by their names, or a single one by an empty name."""
    return {"": files} if isinstance(files, Path) else files


def listed(files: Files) -> str:
    """Return the paths of one file or of several for a message."""
    return ", ".join(map(str, by_name(files).values()))


class Section(BaseModel):
    """A part of the configuration; keys it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusConfig(Section):
    """The corpus that `run` prepares; its manifests go to the folder of `data.train`, of several to the first one's."""

    name: str = Field(description="a corpus that `prepare` knows, e.g. asvspoof5")
    root: Path = Field(description="the folder it was unpacked in")
    allow_missing: bool = Field(False, description="leave out the utterances whose audio is missing")
    dev_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="fraction of the speakers set aside as dev where the corpus has none"
    )


class DataConfig(Section):
    """The data; paths are relative to the working folder."""

    train: Files = Field(
        description="manifest (TSV) of the training utterances; of several corpora {NAME: MANIFEST, ...}"
    )
    dev: Files = Field(
        description="manifest validated on after each epoch, or {NAME: MANIFEST, ...}: then each EER, their mean, and "
        "as the epoch's figures those of all scores together"
    )
    eval: dict[str, Path] = Field({}, description="further manifests that `run` scores and evaluates, by name")
    trials: dict[str, Files] = Field(
        {}, description="verification: the trials of `dev`, by name where it has names, and of each set of `eval`"
    )
    fraction: PositiveFraction = Field(
        1.0, description="share of the training data, drawn by `seed`; a smaller one is part of it"
    )
    fraction_of: Literal["utterances", "speakers"] = Field(
        "utterances", description="unit of `fraction`: utterances, of every class alike, or whole speakers"
    )
    sampling: Literal["utterances", "speakers"] = Field(
        "utterances", description="an epoch: each utterance once, or as many crops of every speaker"
    )
    balance: tuple[Literal["corpus", "class"], ...] = Field(
        (), description="share an epoch out over corpora, classes (labels or speakers), or one within the other"
    )
    temperature: float | None = Field(
        None,
        ge=1,
        le=1000,
        description="of balance: shares are as size^(1/temperature), 1 as they are; null: all alike",
    )
    speed_speakers: Speeds = Field(
        (), description="speeds, e.g. [0.9, 1.1], at which each training speaker is another one"
    )
    crop_seconds: float = Field(3.0, gt=0, le=600, description="length of an example; shorter utterances repeat")
    workers: int = Field(2, ge=0, le=1000, description="processes that decode audio")
    skip_limit: Fraction = Field(
        0.01, description="fraction of the training files that may be unreadable; one always may"
    )


class KindConfig(Section):
    """A kind of augmentation; one that is not named, or null, is off."""

    probability: Fraction = Field(1.0, description="of the kind; see augment.choose")


class SpeedConfig(KindConfig):
    """Faster and higher, or slower and lower, as sox's `speed`."""

    factors: tuple[Speed, ...] = Field(
        (0.9, 1.1),
        min_length=1,
        max_length=1000,
        description="one is drawn; above 1 is faster and higher (Kaldi's three-way speeds)",
    )


class ReverberationConfig(KindConfig):
    """Convolution with a room's impulse response."""

    folder: Path = Field(description="impulse responses, at any depth; of several channels the first is taken")


class NoiseConfig(KindConfig):
    """One recording of noise added. The ranges here and below are those of common VoxCeleb recipes with MUSAN."""

    folder: Path = Field(description="recordings of noise, at any depth, e.g. MUSAN's noise/")
    snr_db: Range = Field((0.0, 15.0), description="range of the signal-to-noise ratio, of mean powers over the crop")


class MusicConfig(NoiseConfig):
    """One recording of music added."""

    folder: Path = Field(description="recordings of music, at any depth, e.g. MUSAN's music/")
    snr_db: Range = Field((5.0, 15.0), description="range of the signal-to-noise ratio, of mean powers over the crop")


class BabbleConfig(NoiseConfig):
    """Several speakers in the background."""

    folder: Path = Field(description="recordings of speech, at any depth, e.g. MUSAN's speech/")
    snr_db: Range = Field((13.0, 20.0), description="range of each speaker's own signal-to-noise ratio")
    speakers: Counts = Field((3, 8), description="range of the number of recordings")


class RawBoostConfig(KindConfig):
    """RawBoost (Tak et al., ICASSP 2022); the values are those of its public code."""

    algorithm: Literal[1, 2, 3, 4, 5, 6, 7, 8] = Field(
        5, description="1 LnL, 2 ISD, 3 SSI; in series 4 1+2+3, 5 1+2, 6 1+3, 7 2+3; 8 1 and 2 side by side"
    )
    notches: int = Field(5, ge=1, le=100, description="notch filters of LnL and SSI")
    centre_hz: Band = Field((20.0, 8000.0), description="range of a notch's centre")
    width_hz: Widths = Field((100.0, 1000.0), description="range of a notch's width")
    taps: Counts = Field((10, 100), description="range of a notch's length; more make it steeper")
    gain_db: Range = Field((0.0, 0.0), description="LnL: range of the linear part's gain")
    nonlinear_loss_db: Range = Field((5.0, 20.0), description="LnL: range of the attenuation of the wave's powers")
    order: int = Field(5, ge=1, le=100, description="LnL: highest power of the wave; 1 is linear")
    impulses: Fraction = Field(0.1, description="ISD: largest fraction of samples that are hit")
    impulse_gain: float = Field(2.0, gt=0, le=1000, description="ISD: strength of a hit over the sample that it hits")
    snr_db: Range = Field((10.0, 40.0), description="SSI: range of the signal-to-noise ratio")


class CodecConfig(KindConfig):
    """Encode and decode; one codec and one of its bit rates are drawn. Encodec is not among them: it is a model."""

    codecs: tuple[CodecName, ...] = Field(
        ("opus", "opus-nb", "mp3", "mulaw", "alaw", "narrowband"),
        min_length=1,
        description="to draw from; speex, speex-nb, amr-wb (from PyAV 19 on amr-nb) need PyAV on an FFmpeg with them",
    )


class VolumeConfig(KindConfig):
    """Louder or softer."""

    gain_db: Range = Field((-18.0, 6.0), description="range of the gain; less where a wave would exceed full scale")


class AugmentConfig(Section):
    """Augmentation of training examples, in this order; validation and scoring are never augmented."""

    probability: Fraction = Field(1.0, description="of an example to be augmented at all (0.8 in the paper)")
    choose: Literal["one", "each"] = Field(
        "one", description="one kind, in proportion to the kinds' probabilities; or each by its own, one after another"
    )
    speed: SpeedConfig | None = None
    reverberation: ReverberationConfig | None = None
    noise: NoiseConfig | None = None
    music: MusicConfig | None = None
    babble: BabbleConfig | None = None
    rawboost: RawBoostConfig | None = None
    codec: CodecConfig | None = None
    volume: VolumeConfig | None = None


class BackboneConfig(Section):
    """The SSL encoder."""

    source: str = Field(description="hub id, transformers folder, artifact, or a WeDefense, DPHuBERT or DiariZen file")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id; source@revision does too")
    random: bool = Field(False, description="take the architecture alone, with fresh weights")
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward pass to save memory")
    frozen: bool = Field(False, description="no gradient, update or dropout in the encoder")
    frozen_dropout: bool = Field(False, description="dropout of a frozen encoder stays active in training")
    extractor_gradient: float = Field(
        1.0, ge=0, le=1000, description="factor on the gradient into the first convolutions and gates on them"
    )
    hidden_gradient: float = Field(
        1.0, ge=0, le=1000, description="factor on the task's gradient into all hidden states: encoder and its gates"
    )


class HeadConfig(Section):
    """The head: hidden states -> an embedding."""

    kind: Literal["mhfa", "statistics"] = Field("mhfa", description="multi-head factorised attention, or mean and std")
    heads: int = Field(32, ge=1, le=1024, description="MHFA's attention heads")
    compression: int = Field(128, ge=1, le=8192, description="MHFA's width of keys and values")
    embedding: int = Field(256, ge=1, le=16384, description="width of the embedding")
    feature_mean: bool = Field(False, description="subtract each frame's mean, as the public recipe")
    classifier_norm: Literal["layer", "batch", "affine"] = Field(
        "layer", description="in front of the classifier: layer or batch norm, or a learnt scale and shift alone"
    )


class SphereFace2Config(Section):
    """Values of SphereFace2 beside the scale and the margin."""

    balance: Annotated[float, Field(ge=1e-6, le=1 - 1e-6)] = Field(
        0.7, description="lambda, the weight of the own class"
    )
    t: float = Field(3.0, ge=1, le=1000, description="share of the cosine's range that counts as far apart")
    bias: float | None = Field(
        None, ge=-1e6, le=1e6, description="at the start; by default where own and other classes pull equally"
    )


class ObjectiveConfig(Section):
    """The loss; for anti-spoofing always the softmax over the model's classifier."""

    kind: Literal["softmax", "am", "aam", "sphereface2"] = Field(
        "softmax", description="of verification: over a linear layer, or with a margin on cosines"
    )
    scale: float = Field(32.0, ge=1e-3, le=1e4, description="factor on the cosines")
    margin: Fraction = Field(0.2, description="in cosine (am), radians (aam), or halves of SphereFace2's range")
    margin_start_epochs: Epochs = Field(0, description="epochs without margins, before they grow")
    margin_warmup_epochs: Epochs = Field(0, description="epochs over which all margins grow from 0, step by step")
    margin_growth: Literal["linear", "exponential"] = Field(
        "linear", description="shape of their growth; exponential leaves 0.001^progress of them, as in public code"
    )
    inter_top_k: int = Field(0, ge=0, le=10**6, description="am, aam: number of closest other classes penalised")
    inter_margin: Fraction = Field(0.06, description="their penalty, in the unit of the margin")
    sub_centres: int = Field(1, ge=1, le=100, description="directions of each class, of which the closest counts")
    class_weights: Literal["unit", "xavier"] = Field(
        "unit", description="at the start: of length about 1, or uniform by Xavier's rule over all classes' directions"
    )
    sphereface2: SphereFace2Config = SphereFace2Config()


class TrainingConfig(Section):
    """The optimisation of the network; the pruning parameters have their own under `pruning`."""

    epochs: int = Field(5, ge=1, le=9999)
    batch_size: int = Field(16, ge=1, le=65536, description="utterances per optimiser step and process")
    accumulate: int = Field(1, ge=1, le=65536, description="micro-steps per step; batch_size is a multiple of it")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="of the network; sgd is Nesterov's with momentum")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd alone; 0 is plain sgd")
    lr: Rate = Field(5e-4, description="peak learning rate of the head")
    final_lr: Rate = Field(5e-5, description="learning rate the exponential decay ends at")
    lr_batch: int | None = Field(
        None, ge=1, le=10**7, description="utterances a step of all processes that both rates are for; they scale"
    )
    lr_warmup_epochs: Epochs = Field(2, description="epochs over which the learning rate rises from zero")
    backbone_lr_ratio: float = Field(0.05, ge=0, le=1000, description="the backbone's rate over the head's")
    weight_decay: float = Field(0.01, ge=0, le=1000, description="for head and backbone, not for norms and biases")
    clip_norm: float | None = Field(
        3.0, gt=0, le=1e6, description="largest gradient norm of the network, not of pruning; null does not clip"
    )
    clip_gates: bool = Field(False, description="clip the gates' gradients with the network's, by the norm of both")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="of the network; gates stay in float32")
    checkpoint_steps: int = Field(1000, ge=1, le=10**7, description="steps between two checkpoints within an epoch")
    keep_checkpoints: int = Field(3, ge=1, le=9999, description="checkpoints that stay, of epochs and of steps each")
    average: int = Field(2, ge=1, le=1000, description="last epochs whose mean the model is, as far as they stay")
    log_every: int = Field(10, ge=1, le=10**7, description="steps between two lines of log.jsonl")


class DistillationConfig(Section):
    """A teacher whose hidden states and outputs the network is held to while it trains, with gates or without."""

    teacher: str = Field(
        min_length=1, description="an earlier stage of the recipe, a run, an artifact, a hub id, or an encoder alone"
    )
    hidden: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of relative L1 + 1 - cosine of hidden states, averaged over layers",
    )
    layers: tuple[Annotated[int, Field(ge=0, le=1000)], ...] | None = Field(
        None, min_length=1, description="hidden states to compare, 0 the first layer's input; all by default"
    )
    output: float = Field(
        1.0, ge=0, le=1000, description="weight of the classes' KL divergence, or 1 - cosine of embeddings"
    )


class PruningConfig(Section):
    """The paper's pruning block, which works as the public recipe has it, and ours beside it.

    Sparsity is the fraction REMOVED: a target of 0.7 leaves 30%.
    """

    use_pruning_loss: bool = Field(False, description="off trains the dense model with the same code")
    method: Method = Field(
        "joint",
        description="joint trains gates with the network, post-hoc gates alone. The others cut before the first step: "
        "by magnitude, by Taylor importance, at random, all but the first layers, or but those that the head weighs "
        "most; small is a fresh network of equal size",
    )
    score_batches: int = Field(50, ge=1, le=10**6, description="batches that Taylor importance is measured on (taylor)")
    target_sparsity: Fraction = Field(0.5, description="fraction of the backbone removed at the end")
    initial_reg_lr: Rate = Field(5e-2, description="learning rate of gates and multipliers")
    sparsity_warmup_epochs: Epochs = Field(5, description="epochs over which the target grows")
    sparsity_schedule: Literal["linear", "cosine", "exponential", "expm1", "sigmoid"] = Field(
        "cosine", description="shape of its growth; exponential is progress squared, as in public code"
    )
    min_sparsity: Fraction = Field(0.0, description="target at the first step")
    units: tuple[Unit, ...] = Field(get_args(Unit), description="kinds of units to prune")
    constraint: Literal["params", "macs"] = Field("params", description="quantity that the target counts")
    macs_seconds: float = Field(4.0, gt=0, le=3600, description="utterance that MACs are counted for")
    align: int = Field(1, ge=1, le=1024, description="kept widths are multiples of it, or as they were")
    export_at: tuple[Fraction, ...] = Field(
        (), max_length=100, description="sparsities at which the run leaves a snapshot, rising, up to the target"
    )
    export_hold_epochs: Epochs = Field(
        0.0, description="epochs that the target rests at each, the rate falling to final_lr"
    )
    constraint_solver: Literal["lagrangian", "projection", "exact"] = Field(
        "exact",
        description="multipliers, as the paper; a shift of all gates after each step onto the target; or gates of 0 "
        "and 1, the most important units by exact count at every step",
    )
    freeze_epochs: Epochs = Field(
        2.0, description="last epochs, at most half of all, in which the units that are kept no longer change (exact)"
    )
    drop_rate: Annotated[float, Field(gt=0, lt=1)] | dict[Unit, Annotated[float, Field(gt=0, lt=1)]] = Field(
        0.01, description="probability of fresh gates to be shut; one, or one per kind of unit"
    )
    start_noise: float = Field(0.0, ge=0, le=100, description="standard deviation of fresh gates' log_alpha")
    clamp_lambda1: bool = Field(
        True, description="keep lambda1 >= 0, as the public recipe; else it winds up while the gates lag"
    )

    @property
    def gated(self) -> bool:
        """Whether gates choose the units while the network trains."""
        return self.use_pruning_loss and self.method in GATED

    @property
    def cuts_first(self) -> bool:
        """Whether the network is cut before the first step."""
        return self.use_pruning_loss and not self.gated

    @property
    def binary(self) -> bool:
        """Whether gates are 0 or 1, and units are ranked by importance."""
        return self.constraint_solver == "exact" or self.method not in GATED

    @property
    def gated_units(self) -> tuple[Unit, ...]:
        """Kinds of units with gates; whole sub-layers have none where they close with the last of their units."""
        inner = {"attlayer": "head", "ffnlayer": "interm"} if self.binary else {}
        return tuple(unit for unit in self.units if inner.get(unit) not in self.units)

    @property
    def snapshots(self) -> tuple[float, ...]:
        """Sparsities of `export_at` below the target's, whose model is the run's own; none without gates."""
        return tuple(point for point in self.export_at if self.gated and point < self.target_sparsity)


class CohortConfig(Section):
    """The cohort of speaker verification, which `run` makes of the training data."""

    crop_seconds: Annotated[float, Field(gt=0, le=600)] | None = Field(
        None, description="embed one random crop of each recording, not all of it"
    )
    unit_length: bool = Field(True, description="average a speaker's embeddings at unit length, or as they are")


class Config(Section):
    """A whole recipe."""

    task: TaskName = Field("anti-spoofing", description="fakes, or who speaks")
    seed: int = Field(42, ge=0, lt=2**31)
    corpus: CorpusConfig | None = Field(None, description="for `run`; without it the manifests are there")
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    backbone: BackboneConfig
    head: HeadConfig = HeadConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    pruning: PruningConfig = PruningConfig()
    distillation: DistillationConfig | None = Field(None, description="losses against a teacher; none by default")
    cohort: CohortConfig = CohortConfig()
    stages: dict[StageName, dict[str, Any]] = Field(
        {}, description="trainings one after another: by name, the values that differ from the above"
    )
