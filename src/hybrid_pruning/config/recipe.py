"""A whole recipe and its sections: data, backbone, head, training, pruning."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from hybrid_pruning.config.augmentation import AugmentConfig
from hybrid_pruning.config.section import Epochs, Fraction, PositiveFraction, Rate, Section, Speeds
from hybrid_pruning.tasks import TaskName

Unit = Literal["conv", "head", "attlayer", "interm", "ffnlayer"]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class CorpusConfig(Section):
    """Where `run` makes the manifests from; their folder is that of `data.train`."""

    name: str = Field(description="a corpus that `prepare` knows, e.g. asvspoof5")
    root: Path = Field(description="the folder it was unpacked in")
    allow_missing: bool = Field(False, description="leave out the utterances whose audio is missing")
    dev_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="fraction set aside as dev, by speakers, where the corpus has no part for it"
    )


class DataConfig(Section):
    """What to train on; paths are relative to the folder the command is run in."""

    train: Path = Field(description="manifest (TSV) of the training utterances")
    dev: Path = Field(description="manifest of the utterances validated on after each epoch")
    eval: dict[str, Path] = Field({}, description="further manifests that `run` scores and evaluates, by name")
    trials: dict[str, Path] = Field(
        {}, description="speaker verification: the trials of `dev` and of each set of `eval`, by its name"
    )
    fraction: PositiveFraction = Field(
        1.0, description="how much of the training data to use, drawn by `seed`; less of it is a part of more"
    )
    fraction_of: Literal["utterances", "speakers"] = Field(
        "utterances", description="what `fraction` counts: utterances, of every class alike, or whole speakers"
    )
    sampling: Literal["utterances", "speakers"] = Field(
        "utterances", description="each utterance once in an epoch, or as many crops of every speaker (verification)"
    )
    speed_speakers: Speeds = Field(
        (), description="speeds, e.g. [0.9, 1.1], at which every training speaker is another one (verification)"
    )
    crop_seconds: float = Field(
        3.0, gt=0, le=600, description="length of a training example; shorter utterances are repeated"
    )
    workers: int = Field(2, ge=0, le=1000, description="processes that decode audio")
    skip_limit: Fraction = Field(
        0.01, description="fraction of the training files that may be unreadable and are replaced; one always may"
    )


class BackboneConfig(Section):
    """The SSL encoder."""

    source: str = Field(
        description="hub id, transformers folder, one of our artifacts, or a WeDefense, DPHuBERT or DiariZen file"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id; source@revision does too")
    random: bool = Field(False, description="take the architecture alone, with fresh weights")
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward pass to save memory")
    frozen: bool = Field(False, description="train the rest alone: the encoder has no gradient, update or dropout")
    extractor_gradient: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="what the gradient into the first convolutions, and into gates on them, is multiplied by",
    )


class HeadConfig(Section):
    """What turns hidden states into an embedding."""

    kind: Literal["mhfa", "statistics"] = Field("mhfa", description="multi-head factorised attention, or mean and std")
    heads: int = Field(32, ge=1, le=1024, description="MHFA's attention heads")
    compression: int = Field(128, ge=1, le=8192, description="MHFA's width of keys and values")
    embedding: int = Field(256, ge=1, le=16384, description="width of the embedding")
    feature_mean: bool = Field(False, description="take each frame's mean over its features off, as the recipe does")
    classifier_norm: Literal["layer", "affine"] = Field(
        "layer", description="in front of the classifier: layer norm, or a learnt scale and shift alone"
    )


class SphereFace2Config(Section):
    """What SphereFace2 has beside the scale and the margin."""

    balance: Annotated[float, Field(ge=1e-6, le=1 - 1e-6)] = Field(
        0.7, description="lambda, the weight of the own class"
    )
    t: float = Field(3.0, ge=1, le=1000, description="how much of the cosine's range counts as far apart")
    bias: float | None = Field(
        None, ge=-1e6, le=1e6, description="at the start; by default where own and other classes pull equally"
    )


class ObjectiveConfig(Section):
    """What is minimised; for anti-spoofing always the softmax over the model's classifier."""

    kind: Literal["softmax", "am", "aam", "sphereface2"] = Field(
        "softmax", description="of speaker verification: over a linear layer, or with a margin on cosines"
    )
    scale: float = Field(32.0, ge=1e-3, le=1e4, description="what cosines are multiplied by")
    margin: Fraction = Field(0.2, description="in cosine (am), radians (aam), or halves of SphereFace2's range")
    margin_warmup_epochs: Epochs = Field(0, description="epochs over which all margins grow from 0, step by step")
    inter_top_k: int = Field(
        0, ge=0, le=10**6, description="am, aam: how many of the closest other classes are penalised"
    )
    inter_margin: Fraction = Field(0.06, description="by how much, in the unit of the margin")
    sub_centres: int = Field(1, ge=1, le=100, description="directions of each class, of which the closest counts")
    sphereface2: SphereFace2Config = SphereFace2Config()


class TrainingConfig(Section):
    """The optimisation of the network; the pruning parameters have their own under `pruning`."""

    epochs: int = Field(5, ge=1, le=9999)
    batch_size: int = Field(
        16, ge=1, le=65536, description="utterances per optimiser step and process, all micro-steps together"
    )
    accumulate: int = Field(
        1, ge=1, le=65536, description="micro-steps per optimiser step; batch_size must be a multiple of it"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="of the network; sgd is Nesterov's with momentum")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd alone; 0 is plain sgd")
    lr: Rate = Field(5e-4, description="peak learning rate of the head")
    final_lr: Rate = Field(5e-5, description="learning rate the exponential decay ends at")
    lr_warmup_epochs: Epochs = Field(2, description="epochs over which the learning rate rises from zero")
    backbone_lr_ratio: float = Field(0.05, ge=0, le=1000, description="the backbone's learning rate over the head's")
    weight_decay: float = Field(0.01, ge=0, le=1000, description="for head and backbone, not for norms and biases")
    clip_norm: float = Field(
        3.0, gt=0, le=1e6, description="largest gradient norm of the network; pruning is not clipped"
    )
    mixed_precision: Literal["no", "bf16"] = Field("no", description="of the network; gates stay in float32")
    checkpoint_steps: int = Field(1000, ge=1, le=10**7, description="steps between two checkpoints within an epoch")
    keep_checkpoints: int = Field(
        3, ge=1, le=9999, description="checkpoints that stay: so many epochs', so many within epochs"
    )
    log_every: int = Field(10, ge=1, le=10**7, description="steps between two lines of log.jsonl")


class PruningConfig(Section):
    """The paper's pruning block, which works as the recipe has it, and ours beside it.

    Sparsity is the fraction REMOVED: a target of 0.7 leaves 30%.
    """

    use_pruning_loss: bool = Field(False, description="off trains the dense model with the same code")
    target_sparsity: Fraction = Field(0.5, description="fraction of the backbone removed at the end")
    initial_reg_lr: Rate = Field(5e-2, description="learning rate of gates and multipliers")
    sparsity_warmup_epochs: Epochs = Field(5, description="epochs over which the target grows")
    sparsity_schedule: Literal["linear", "cosine", "exponential", "expm1", "sigmoid"] = Field(
        "cosine", description="shape of its growth; exponential is progress squared, as in the public code"
    )
    min_sparsity: Fraction = Field(0.0, description="target at the first step")
    units: tuple[Unit, ...] = Field(get_args(Unit), description="what may be cut")
    constraint: Literal["params", "macs"] = Field("params", description="what the target counts")
    macs_seconds: float = Field(4.0, gt=0, le=3600, description="length of the utterance that MACs are counted for")
    align: int = Field(1, ge=1, le=1024, description="widths that are kept are multiples of it, or as they were")
    export_at: tuple[Fraction, ...] = Field(
        (),
        max_length=100,
        description="sparsities at which the run leaves a snapshot to export, rising, up to the target",
    )
    export_hold_epochs: Epochs = Field(
        0.0, description="epochs the target rests at each of them, the learning rate falling to final_lr"
    )
    drop_rate: Annotated[float, Field(gt=0, lt=1)] | dict[Unit, Annotated[float, Field(gt=0, lt=1)]] = Field(
        0.01, description="how likely fresh gates are shut; one number, or one per unit"
    )
    clamp_lambda1: bool = Field(
        True, description="keep lambda1 >= 0, as the recipe does; without it lambda1 winds up while the gates still lag"
    )

    @property
    def snapshots(self) -> tuple[float, ...]:
        """Sparsities of `export_at` below the target's, whose model is the run's own; none in dense training."""
        return tuple(point for point in self.export_at if self.use_pruning_loss and point < self.target_sparsity)


class Config(Section):
    """A whole recipe."""

    task: TaskName = Field("anti-spoofing", description="what the model learns to tell: fakes, or who speaks")
    seed: int = Field(42, ge=0, lt=2**31)
    corpus: CorpusConfig | None = Field(None, description="what `run` prepares first; manifests are there without it")
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    backbone: BackboneConfig
    head: HeadConfig = HeadConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    pruning: PruningConfig = PruningConfig()
    stages: dict[StageName, dict[str, Any]] = Field(
        {}, description="trainings one after another: of each by its name, what it has otherwise than the above"
    )
