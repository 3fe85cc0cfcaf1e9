"""Audio files -> mono waveforms at 16 kHz: decode, mix down, resample once; a bad file is one clear line."""

from hybrid_pruning.audio.reading import (
    NO_SPEECH,
    SAMPLE_RATE_HZ,
    WINDOW_SECONDS,
    AudioFile,
    Wave,
    audio_samples,
    check_seconds,
    may_hold_speech,
    read_audio,
)

__all__ = [
    "NO_SPEECH",
    "SAMPLE_RATE_HZ",
    "WINDOW_SECONDS",
    "AudioFile",
    "Wave",
    "audio_samples",
    "check_seconds",
    "may_hold_speech",
    "read_audio",
]
