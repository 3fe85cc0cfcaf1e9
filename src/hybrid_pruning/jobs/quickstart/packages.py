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

from hybrid_pruning.audio import AudioFile, read_audio
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.names import SUFFIXES, hidden_line, list_recordings
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import TEMPORARY, hold, remove_links_out_of

SAMPLE_RATE = 16_000
LONGEST = 1800 * SAMPLE_RATE
"""Samples that are read of a recording at most."""
COMPARED = 1 << 24
"""Bytes at the beginning of files by which, and by their sizes, duplicates are told."""
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
SEAM, SHORTEST_CLIP = SAMPLE_RATE // 100, SAMPLE_RATE
FRAME, MARGIN = SAMPLE_RATE // 50, 3  # samples, and frames of quiet left around speech
AUDIBLE, SILENT = 10 ** (-32 / 20), 10 ** (-60 / 20)  # of the loudest frame, and of full scale
FEWEST_SPEAKERS = 3  # one each for training, validation and evaluation
ELSEWHERE = "give a folder of recordings instead: --bonafide DIR"

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of human speech.

    Args:
        path: the audio file.
        speaker: whose voice it is, as far as folders and file names tell.
        group: what must not be torn apart between training and evaluation: voices that may be one person.
        source: the package or folder it was taken from.
    """

    path: Path
    speaker: str
    group: str
    source: str


def read(path: Path) -> Wave:
    """Decode a file to mono at 16 kHz.

    Returns:
        float32 [samples], within -1 and 1 but for the overshoot of lossy codecs.

    Raises:
        InputError: the file cannot be decoded.
    """
    if path.suffix.lower() != ".g722":
        return read_audio(path, 0, LONGEST)
    try:
        return _decode_g722(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be decoded ({error}); is it a sound file?") from error


def _decode_g722(path: Path) -> Wave:
    codec = importlib.import_module("G722")  # of the extra `quickstart`, as is pyworld
    samples: npt.NDArray[np.int16] = codec.G722(SAMPLE_RATE, 64_000).decode(_first_bytes(path, LONGEST // 2))
    return np.asarray(samples, dtype=np.float32) / np.float32(32768)


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def from_folder(folder: Path) -> list[Recording]:
    """Find the recordings in a folder of the user's, at any depth.

    The speaker is the first folder below the deepest one that all files share (`DIR/speaker/chapter/x.flac` is
    `speaker`); where that gives fewer than three speakers it is the file's parent folder, and where that does too,
    each file is a speaker of its own.

    Raises:
        InputError: the folder is missing or holds no recordings.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a folder of recordings of human speech")
    hidden: list[str] = []
    paths = sorted(folder / name for name in list_recordings(folder, hidden))
    for line in hidden_line(hidden):
        say(line)
    if not paths:
        raise InputError(f"{folder}: holds no recordings; expected files that end in .wav, .flac, .mp3, .m4a, ...")
    names = _speakers_by_folder(paths)
    source = " ".join(folder.absolute().name.split()) or "bonafide"
    return [Recording(path, name, name, source) for path, name in zip(paths, names, strict=True)]


def _speakers_by_folder(paths: Sequence[Path]) -> list[str]:
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

    Raises:
        InputError: this machine has no apt-get or dpkg-deb, or apt failed.
    """
    missing = [name for name in PACKAGES if not (cache / name).is_dir()]
    if missing:
        with hold(cache):
            _fetch(missing, cache)
    recordings: list[Recording] = []
    for name in PACKAGES:
        for path in sorted((cache / name).rglob("*")):
            if path.suffix in SUFFIXES:
                known = _known_speaker(path, "/" + path.relative_to(cache / name).as_posix(), name)
                recordings += [known] if known else []
    return recordings


def _known_speaker(path: Path, inside: str, package: str) -> Recording | None:
    """Name the speaker of a package's file by its path in there; None for what is not speech, or nobody's we know."""
    if package.startswith("asterisk"):  # sounds/en_US_f_Allison/digits/1.g722; Allison speaks Spanish too
        found = re.search(r"/sounds/\w+_([A-Za-z]+)/(?!silence/)", inside)
        name = f"asterisk-{found[1]}" if found and path.stem not in NOT_SPEECH else None
        return Recording(path, name, name, package) if name else None
    if package.startswith("fillets"):  # sound/<level>/cs/bar-m-chaos.ogg: a woman (m), a man (v) and passing voices
        found = re.search(r"/(\w+)/(?:[^/]*-)?([mv])[-.][^/]*$", inside)
        name = f"fillets-{found[1]}-{found[2]}" if found else None
        return Recording(path, name, name, package) if name else None
    found = re.search(r"/klettres/([\w@]+)/|/ktuberling/sounds/([\w@]+)/", inside)
    if not found:
        return None
    language = found[1] or found[2]
    # KDE's volunteers may have spoken for both programs, so a language stays on one side of every split.
    group = f"kde-{re.split('[_@]', language)[0]}"
    return Recording(path, f"{package.removesuffix('-data')}-{language}", group, package)


def _fetch(names: Sequence[str], cache: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise InputError(f"{tool} is not on this machine, so Debian's recordings cannot be fetched; {ELSEWHERE}")
    for folder in ("lists/partial", "archives/partial"):
        (cache / "apt" / folder).mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        task = progress.add_task("fetching recordings", total=len(names) + 1)
        stale = _try_apt(cache, "update")  # a broken source or hook of the system's need not concern our packages
        progress.advance(task)
        for name in names:
            _unpack(name, cache, stale)
            progress.advance(task)
    if not any((cache / name).is_dir() for name in PACKAGES):
        raise InputError(f"this system's apt knows none of {', '.join(PACKAGES)}; {ELSEWHERE}")


def _unpack(name: str, cache: Path, stale: str | None) -> None:
    """Download and unpack one package; its folder appears only when it is whole. One apt does not know is left out."""
    staging = cache / f".{name}{TEMPORARY}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        failure = _try_apt(cache, "download", name, folder=staging)
        if failure is not None and "Unable to locate package" in failure and stale is None:
            say(f"this system has no package {name}: going on without it")
            return
        if failure is not None:
            raise InputError(f"apt-get failed: {stale or failure}; is this machine online? Or {ELSEWHERE}")
        _extract(staging, cache / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(staging: Path, target: Path) -> None:
    [package] = staging.glob("*.deb")
    failure = _last_line_if_failed(["dpkg-deb", "-x", str(package), str(staging / "files")], staging)
    if failure is not None:
        raise InputError(f"dpkg-deb failed: {failure}; is {target.parent} full? Or {ELSEWHERE}")
    remove_links_out_of(staging / "files")  # dpkg-deb refuses names that climb, and to write through links
    (staging / "files").replace(target)


def _try_apt(cache: Path, *command: str, folder: Path | None = None) -> str | None:
    """Run apt-get with its lists below `cache` and as the user we are; return its last line if it failed."""
    apt = (cache / "apt").absolute()
    settings = (f"Dir::State::lists={apt}/lists", f"Dir::Cache={apt}", "Debug::NoLocking=1", "APT::Sandbox::User=root")
    options = [word for setting in settings for word in ("-o", setting)]
    return _last_line_if_failed(["apt-get", *options, *command], folder or cache)


def _last_line_if_failed(command: list[str], folder: Path) -> str | None:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    return ([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[-1]


def usable(recordings: Iterable[Recording]) -> list[Recording]:
    """Drop duplicates, files below 16 kHz and files that are no audio; say what was dropped."""
    kept: list[Recording] = []
    seen: set[bytes] = set()
    dropped = {"duplicates": 0, "empty": 0, "below 16 kHz": 0}
    for recording in recordings:
        size = recording.path.stat().st_size.to_bytes(8)
        digest = hashlib.sha256(size + _first_bytes(recording.path, COMPARED)).digest()
        reason = "duplicates" if digest in seen else _objection(recording.path)
        seen.add(digest)
        if reason is None:
            kept.append(recording)
        elif reason in dropped:
            dropped[reason] += 1
        else:
            say(f"skipped {reason}")
    if any(dropped.values()):
        say("left out: " + ", ".join(f"{count} {name}" for name, count in dropped.items() if count))
    return kept


def _objection(path: Path) -> str | None:
    if path.suffix.lower() == ".g722":
        return None if path.stat().st_size else "empty"
    if not path.stat().st_size:
        return "empty"
    try:
        with AudioFile(path) as audio:
            audio.read(0, 1)
            return "below 16 kHz" if audio.rate < SAMPLE_RATE else None
    except InputError as error:
        return "empty" if "holds no audio" in str(error) else str(error)


def trim(wave: Wave) -> Wave:
    """Cut silence off both ends and bring the rest to one level; nothing is left of silence."""
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    levels = np.sqrt(np.mean(frames**2, axis=1))
    if levels.max(initial=0) < SILENT:
        return wave[:0]
    loud = np.flatnonzero(levels > AUDIBLE * levels.max())
    speech = wave[max(loud[0] - MARGIN, 0) * FRAME : (loud[-1] + 1 + MARGIN) * FRAME]
    levelled: Wave = np.clip(speech * (0.05 / np.sqrt(np.mean(speech**2))), -1, 1).astype(np.float32)
    return levelled


def join(utterances: Iterable[Wave], enough: int) -> Wave:
    """Put utterances one after another, with a cross-fade of 10 ms, until there are `enough` samples."""
    pieces: list[Wave] = []
    fade = np.linspace(0, 1, SEAM, dtype=np.float32)
    length = 0
    for utterance in utterances:
        if len(utterance) < 2 * SEAM:
            continue
        if pieces:
            pieces[-1][-SEAM:] = pieces[-1][-SEAM:] * (1 - fade) + utterance[:SEAM] * fade
        pieces.append(utterance[SEAM:].copy() if pieces else utterance.copy())
        length += len(pieces[-1])
        if length >= enough:
            break
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)


def cut(speech: Wave, size: int) -> list[Wave]:
    """Cut into clips of `size` samples, one length for all; speech for less than one clip stays as it is.

    Less than a second is dropped, and so is what remains at the end.
    """
    if len(speech) < size:
        return [speech] if len(speech) >= SHORTEST_CLIP else []
    return list(speech[: len(speech) // size * size].reshape(-1, size))
