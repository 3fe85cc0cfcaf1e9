"""The sections of a recipe that say how training examples are made harder."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hybrid_pruning.config.section import Band, Counts, Fraction, Range, Section, Speed, Widths

CodecName = Literal[
    "opus", "opus-nb", "mp3", "mulaw", "alaw", "narrowband", "speex", "speex-nb", "amr-nb", "amr-wb", "m4a", "g722"
]


class KindConfig(Section):
    """What every kind of augmentation has; a kind that is not named, or null, is off."""

    probability: Fraction = Field(1.0, description="how likely the kind is; see augment.choose")


class SpeedConfig(KindConfig):
    """Faster and higher, or slower and lower, as sox's `speed`: another speaker's voice, for all one can tell."""

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
    """Several people talking in the background."""

    folder: Path = Field(description="recordings of speech, at any depth, e.g. MUSAN's speech/")
    snr_db: Range = Field((13.0, 20.0), description="range of each voice's own signal-to-noise ratio")
    speakers: Counts = Field((3, 8), description="range of how many recordings are added")


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
    nonlinear_loss_db: Range = Field((5.0, 20.0), description="LnL: by how much the powers of the wave are weaker")
    order: int = Field(5, ge=1, le=100, description="LnL: highest power of the wave; 1 is linear")
    impulses: Fraction = Field(0.1, description="ISD: the largest fraction of samples that are hit")
    impulse_gain: float = Field(2.0, gt=0, le=1000, description="ISD: how strong a hit is, over the sample it hits")
    snr_db: Range = Field((10.0, 40.0), description="SSI: range of the signal-to-noise ratio")


class CodecConfig(KindConfig):
    """Encode and decode; one codec and one of its bit rates are drawn. Encodec is not among them: it is a model."""

    codecs: tuple[CodecName, ...] = Field(
        ("opus", "opus-nb", "mp3", "mulaw", "alaw", "narrowband"),
        min_length=1,
        description="what is drawn from; speex, speex-nb and amr-wb need PyAV built upon an FFmpeg that has them",
    )


class VolumeConfig(KindConfig):
    """Louder or softer."""

    gain_db: Range = Field((-18.0, 6.0), description="range of the gain; a wave that would exceed full scale gets less")


class AugmentConfig(Section):
    """What is done to training examples, in this order; validation and scoring are never augmented."""

    probability: Fraction = Field(1.0, description="how likely an example is augmented at all (0.8 in the paper)")
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
