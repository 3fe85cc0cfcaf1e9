"""Human recordings for the quickstart: from Debian's own packages, or from a folder of the user's."""

import hashlib
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning.audio import AudioFile
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.manifest import SUFFIXES, hidden_line, list_recordings
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import TEMPORARY, hold, remove_links_out_of

SAMPLE_RATE = 16_000
LONGEST = 1800 * SAMPLE_RATE
"""Samples that are read of a recording at most."""
COMPARED = 1 << 24
"""Bytes at the beginning of files by which, and by their sizes, duplicates are found."""
PACKAGES = (
    "klettres-data",
    "ktuberling-data",
    *(f"asterisk-core-sounds-{language}-g722" for language in ("en", "es", "fr", "it", "ru")),
    "fillets-ng-data-cs",
    "fillets-ng-data-nl",
)
# Asterisk's tones and animal noises; its `silence` folders are left out too.
NOT_SPEECH = frozenset(
    ("beep", "beeperr", "ascending-2tone", "descending-2tone", "confbridge-join", "confbridge-leave", "tt-monkeys")
)
PLACES = {
    "asterisk": r"/sounds/\w+_([A-Za-z]+)/(?!silence/)",  # sounds/en_US_f_Allison/digits/1.g722; she speaks Spanish too
    "fillets": r"/(\w+)/(?:[^/]*-)?([mv])[-.][^/]*$",  # sound/bar/cs/bar-m-chaos.ogg: a woman (m), a man (v)
    # volunteers may have spoken for both of KDE's programs: a language is one group, on one side of every split
    "kde": r"/(?:klettres|ktuberling/sounds)/([\w@]+)/",
}
"""Program of a package -> pattern of its files, whose groups name the speaker; noises and others do not match."""
FEWEST_SPEAKERS = 3  # one each for training, validation and evaluation
ELSEWHERE = "give a folder of recordings instead: --bonafide DIR"

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of human speech from a package or folder; speakers of a group may be the same, and stay together."""

    path: Path
    speaker: str
    group: str
    source: str


def read(path: Path) -> Wave:
    """Decode a file of 16 kHz or more to mono at 16 kHz: [samples], within -1 and 1 but for lossy codecs' overshoot."""
    if path.suffix.lower() != ".g722":
        with AudioFile(path) as audio:
            if audio.rate < SAMPLE_RATE:
                raise InputError(f"{path}: is sampled at {audio.rate:,} Hz, less than {SAMPLE_RATE:,}")
            return audio.read(0, LONGEST)
    codec = importlib.import_module("G722")  # of the extra `quickstart`, as is pyworld
    try:
        with path.open("rb") as file:
            samples: npt.NDArray[np.int16] = codec.G722(SAMPLE_RATE, 64_000).decode(file.read(LONGEST // 2))
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be decoded ({error}); is it a sound file?") from error
    return np.asarray(samples, dtype=np.float32) / np.float32(32768)


def from_folder(folder: Path) -> list[Recording]:
    """Find the recordings in a folder of the user's, at any depth."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a folder of recordings of human speech")
    hidden: list[str] = []
    paths = sorted(folder / name for name in list_recordings(folder, hidden))
    for line in hidden_line(hidden):
        say(line)
    if not paths:
        raise InputError(f"{folder}: holds no recordings; expected files that end in .wav, .flac, .mp3, .m4a, ...")
    source = " ".join(folder.absolute().name.split()) or "bonafide"
    return [Recording(path, name, name, source) for path, name in zip(paths, _name_speakers(paths), strict=True)]


def _name_speakers(paths: Sequence[Path]) -> list[str]:
    """Return each file's speaker: the first folder below the deepest that all share (`speaker/chapter/x.flac`).

    Where that gives fewer than three speakers it is the file's parent folder, and where that does too, the file itself.
    """
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    relative = [path.relative_to(shared) for path in paths]
    outermost = [" ".join(path.parts[0].split()) if len(path.parts) > 1 else "." for path in relative]
    innermost = [" ".join(path.parent.as_posix().split()) for path in relative]
    for names in (outermost, innermost):
        if len(set(names)) >= FEWEST_SPEAKERS:
            return names
    if len(set(innermost)) > 1:
        say("fewer than three folders of recordings: each file counts as a speaker of its own")
    return [" ".join(path.as_posix().split()) for path in relative]


def from_debian(cache: Path) -> list[Recording]:
    """Fetch Debian's packages of spoken recordings into `cache`, where they are not there yet, and list them.

    Nothing is installed and no root is needed: apt's lists and the unpacked packages stay below `cache`.
    """
    missing = [name for name in PACKAGES if not (cache / name).is_dir()]
    if missing:
        with hold(cache):
            _fetch(missing, cache)
    recordings: list[Recording] = []
    for package in PACKAGES:
        for path in sorted((cache / package).rglob("*")):
            speaker, group = _known_speaker(f"/{path.relative_to(cache / package).as_posix()}", package)
            if path.suffix in SUFFIXES and speaker:
                recordings.append(Recording(path, speaker, group, package))
    return recordings


def _known_speaker(path: str, package: str) -> tuple[str, str]:
    """Return speaker and group of a package's file by its path in there; empty for noises and unknown speakers."""
    program = package.split("-", maxsplit=1)[0]
    found = re.search(PLACES.get(program, PLACES["kde"]), path)
    if not found or (program == "asterisk" and Path(path).stem in NOT_SPEECH):
        return "", ""
    speaker = "-".join((program, *found.groups()))
    return speaker, speaker if program in PLACES else f"kde-{re.split('[_@]', found[1])[0]}"


def _fetch(names: Sequence[str], cache: Path) -> None:
    """Download and unpack packages, each folder whole or not at all; those that apt does not know are left out."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise InputError(f"{tool} is not on this machine, so Debian's recordings cannot be fetched; {ELSEWHERE}")
    apt = (cache / "apt").absolute()
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    settings = (f"Dir::State::lists={apt}/lists", f"Dir::Cache={apt}", "Debug::NoLocking=1", "APT::Sandbox::User=root")
    command = ["apt-get", *(f"-o{setting}" for setting in settings)]
    with progress_bar() as progress:
        task = progress.add_task("fetching recordings", total=len(names) + 1)
        stale = _failure([*command, "update"], cache)  # a broken source of the system's need not concern our packages
        progress.advance(task)
        for name in names:
            staging = cache / f".{name}{TEMPORARY}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            try:
                failure = _failure([*command, "download", name], staging)
                if failure is None:
                    unpack(staging, cache / name)
                elif "Unable to locate package" in failure and stale is None:
                    say(f"this system has no package {name}: going on without it")
                else:
                    raise InputError(f"apt-get failed: {stale or failure}; is this machine online? Or {ELSEWHERE}")
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            progress.advance(task)
    if not any((cache / name).is_dir() for name in PACKAGES):
        raise InputError(f"this system's apt knows none of {', '.join(PACKAGES)}; {ELSEWHERE}")


def unpack(staging: Path, target: Path) -> None:
    """Unpack the one package in a folder; nothing in it may write, or lead, out of the target."""
    [package] = staging.glob("*.deb")
    failure = _failure(["dpkg-deb", "-x", str(package), str(staging / "files")], staging)
    if failure is not None:
        raise InputError(f"dpkg-deb failed: {failure}; is {target.parent} full? Or {ELSEWHERE}")
    remove_links_out_of(staging / "files")  # dpkg-deb refuses names that climb, and to write through links
    (staging / "files").replace(target)


def _failure(command: Sequence[str], folder: Path) -> str | None:
    """Run a program, and return the last line of its messages where it failed."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines or ["no message"])[-1] if done.returncode else None


def usable(recordings: Iterable[Recording]) -> list[Recording]:
    """Drop duplicates and empty files; print the counts."""
    kept: list[Recording] = []
    seen: set[bytes] = set()
    dropped = {"duplicates": 0, "empty": 0}
    for recording in recordings:
        size = recording.path.stat().st_size
        with recording.path.open("rb") as file:
            digest = hashlib.sha256(size.to_bytes(8) + file.read(COMPARED)).digest()
        if not size or digest in seen:
            dropped["duplicates" if size else "empty"] += 1
        else:
            seen.add(digest)
            kept.append(recording)
    if left_out := [f"{count} {name}" for name, count in dropped.items() if count]:
        say(f"left out: {', '.join(left_out)}")
    return kept
