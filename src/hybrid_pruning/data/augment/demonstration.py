"""Every kind of augmentation at one telling setting, on stand-ins for recordings: what the sheet and the costs show.

The noise, the music and the room are synthetic, so that no corpus is needed; the babble is other files of the clip's
own folder.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import lfilter

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import RawBoostConfig
from hybrid_pruning.data.augment.codec import Codec
from hybrid_pruning.data.augment.noise import Noise
from hybrid_pruning.data.augment.playback import Speed, Volume
from hybrid_pruning.data.augment.rawboost import RawBoost
from hybrid_pruning.data.augment.recordings import list_folder
from hybrid_pruning.data.augment.reverberation import Reverberation
from hybrid_pruning.data.augment.transform import Transform, Wave, fit
from hybrid_pruning.errors import InputError

SECONDS = 6
NOISE_DB, MUSIC_DB, VOICE_DB, VOICES = 5.0, 5.0, 10.0, 4
REVERBERATION_SECONDS = 0.6
RAWBOOST = {
    1: "RawBoost 1: filtered, and its powers",
    2: "RawBoost 2: impulses",
    3: "RawBoost 3: coloured noise",
    5: "RawBoost 5: 1, then 2",
}
CODEC_NAMES = {  # each at its lowest bit rate
    "opus": "Opus, 8 kbit/s",
    "opus-nb": "Opus at 8 kHz, 6 kbit/s",
    "mp3": "MP3, 16 kbit/s",
    "m4a": "M4A (AAC), 16 kbit/s",
    "speex": "Speex, 5.75 kbit/s",
    "speex-nb": "Speex at 8 kHz, 3.95 kbit/s",
    "amr-nb": "AMR-NB, 4.75 kbit/s",
    "amr-wb": "AMR-WB, 6.6 kbit/s",
    "g722": "G.722, 64 kbit/s",
    "mulaw": "G.711 \N{GREEK SMALL LETTER MU}-law, 64 kbit/s",
    "alaw": "G.711 A-law, 64 kbit/s",
    "narrowband": "8 kHz, no codec",
}


def demonstrate(clip: Path, folder: Path) -> tuple[dict[str, Transform], list[str]]:
    """Return a transform for every kind, by title, and why the others are not there.

    Args:
        clip: the recording that is to be augmented; its folder's other recordings become babble.
        folder: where the stand-ins are written.

    Raises:
        InputError: the clip cannot be read.
    """
    for name, make in STAND_INS.items():
        (folder / name).mkdir(parents=True)
        soundfile.write(folder / name / "1.wav", make(np.random.default_rng(0)), SAMPLE_RATE_HZ, subtype="FLOAT")
    noise, music, room = (list_folder(folder / name, name) for name in STAND_INS)
    voices = list_folder(clip.parent, "babble")
    transforms: dict[str, Transform] = {
        f"noise, {NOISE_DB:.0f} dB": Noise(noise, (NOISE_DB, NOISE_DB)),
        f"music, {MUSIC_DB:.0f} dB": Noise(music, (MUSIC_DB, MUSIC_DB)),
        f"babble, {VOICES} voices, {VOICE_DB:.0f} dB each": Noise(voices, (VOICE_DB, VOICE_DB), (VOICES, VOICES)),
        f"reverberation, {REVERBERATION_SECONDS} s": Reverberation(room),
        "speed 0.9": Speed((0.9,)),
        "speed 1.1": Speed((1.1,)),
        "volume, \N{MINUS SIGN}18 dB": Volume((-18.0, -18.0)),
    }
    transforms |= {title: RawBoost(RawBoostConfig(algorithm=number)) for number, title in RAWBOOST.items()}
    missing = []
    for name, title in CODEC_NAMES.items():
        try:
            transforms[title] = _lowest(Codec((name,)), name)
        except InputError as error:
            missing.append(str(error))
    return transforms, missing


def _lowest(codec: Codec, name: str) -> Transform:
    def recode(wave: Wave, rng: np.random.Generator) -> Wave:  # noqa: ARG001 - nothing is left to chance
        return codec.recode(wave, name, 0)

    return recode


def _pink_noise(rng: np.random.Generator) -> Wave:
    """Noise with the same power in every octave."""
    spectrum = np.fft.rfft(rng.standard_normal(SECONDS * SAMPLE_RATE_HZ))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 20)))
    return (0.1 * pink / pink.std()).astype(np.float32)


def _music(rng: np.random.Generator) -> Wave:
    """Chords of plucked strings (Karplus, Strong, "Digital synthesis of plucked-string and drum timbres", 1983)."""
    wave = np.zeros(SECONDS * SAMPLE_RATE_HZ)
    for beat in range(2 * SECONDS):
        root = (0, 7, 9, 5)[beat // 2 % 4]
        for step in (0, 4, 7, 12):
            period = round(SAMPLE_RATE_HZ / (196 * 2 ** ((root + step) / 12)))
            pluck = fit(rng.uniform(-1, 1, period).astype(np.float32), SAMPLE_RATE_HZ)
            feedback = np.zeros(period + 2)
            feedback[[0, period, period + 1]] = 1, -0.498, -0.498
            start = beat * SAMPLE_RATE_HZ // 2
            string = lfilter([1], feedback, pluck)[: len(wave) - start]
            wave[start : start + len(string)] += string
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def _room(rng: np.random.Generator) -> Wave:
    """Direct sound after 5 ms, and noise that decays by 60 dB in the reverberation time."""
    seconds = np.arange(round(1.5 * REVERBERATION_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    response = 0.04 * rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / REVERBERATION_SECONDS)
    direct = SAMPLE_RATE_HZ // 200
    response[:direct] = 0
    response[direct] = 1
    return response.astype(np.float32)


STAND_INS: dict[str, Callable[[np.random.Generator], Wave]] = {
    "noise": _pink_noise,
    "music": _music,
    "room": _room,
}
