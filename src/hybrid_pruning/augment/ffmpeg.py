"""ffmpeg as a codec: which of the installed ones has an encoder, and a wave through it by pipes, without a shell."""

import functools
import subprocess
from collections.abc import Sequence

import numpy as np

from hybrid_pruning.audio.ffmpeg import find_programs
from hybrid_pruning.augment.transform import Wave
from hybrid_pruning.errors import InputError

INSTALL = "apt install ffmpeg, brew install ffmpeg, or pip install imageio-ffmpeg"
SECONDS = 60  # that no crop takes, unless something hangs
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error", "-threads", "1")
BUILDS = {  # who has the encoders that not every build has
    "libspeex": "Debian's and Ubuntu's have it",
    "libopencore_amrnb": "pip install imageio-ffmpeg brings one",
    "libvo_amrwbenc": "it is configured with --enable-libvo-amrwbenc",
}
DEMUXERS = {"adts": "aac"}  # the containers that ffmpeg reads by another name


def require_encoder(encoder: str, wanted_by: str) -> str:
    """Return the ffmpeg that has an encoder: the one on the PATH, or else that of the package imageio-ffmpeg.

    Raises:
        InputError: there is no ffmpeg, or none with the encoder.
    """
    programs = find_programs()
    for program in programs:
        if encoder in list_encoders(program):
            return program
    if not programs:
        raise InputError(f"{wanted_by} needs ffmpeg, which is not there; {INSTALL}, or leave it out")
    raise InputError(
        f"{wanted_by} needs an ffmpeg with the encoder {encoder}, not found in {' and '.join(programs)}; "
        f"install another build ({BUILDS.get(encoder, 'most have it')}), or leave it out"
    )


def recode(wave: Wave, rate_hz: int, encoder: str, container: str, options: Sequence[str]) -> Wave:
    """Encode and decode a wave.

    Args:
        wave: [S] at `rate_hz`.
        rate_hz: sample rate.
        encoder, container: ffmpeg's names.
        options: for the encoder.

    Returns:
        The wave with the codec's delay, as long as that makes it.

    Raises:
        InputError: ffmpeg is missing or fails.
    """
    program = require_encoder(encoder, f"encoder {encoder}")
    raw = ("-f", "f32le", "-ar", str(rate_hz), "-ac", "1")
    encode = (*raw, "-i", "pipe:0", "-c:a", encoder, *options, "-f", container, "pipe:1")
    coded = _run(program, encode, np.asarray(wave, dtype="<f4").tobytes())
    decode = ("-f", DEMUXERS.get(container, container), "-i", "pipe:0", *raw, "pipe:1")
    return np.frombuffer(_run(program, decode, coded), dtype="<f4").astype(np.float32)


@functools.cache
def list_encoders(program: str) -> frozenset[str]:
    """Return the names of the encoders an ffmpeg has."""
    lines = _run(program, ("-encoders",), b"").decode("utf-8", "replace").splitlines()
    return frozenset(line.split()[1] for line in lines if len(line.split()) > 1)


def _run(program: str, arguments: Sequence[str], given: bytes) -> bytes:
    command = [program, *QUIET, *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=True, timeout=SECONDS)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode("utf-8", "replace").split())[:200]
        raise InputError(f"{program} {' '.join(arguments)}: failed ({said or error.returncode})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{program}: cannot be used ({error}); reinstall ffmpeg") from error
    return done.stdout
