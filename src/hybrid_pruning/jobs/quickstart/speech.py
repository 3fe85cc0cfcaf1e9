"""The quickstart's corpus: human recordings and their copy-synthesised fakes, as four manifests in a cache folder."""

import hashlib
import importlib.util
import os
import random
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import soundfile

from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, write_manifest
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, write_json
from hybrid_pruning.jobs.quickstart.copysynthesis import ATTACKS, reencode
from hybrid_pruning.jobs.quickstart.packages import (
    SAMPLE_RATE,
    Recording,
    Wave,
    cut,
    from_debian,
    from_folder,
    join,
    read,
    trim,
    usable,
)
from hybrid_pruning.tasks import Label
from hybrid_pruning.trees import read_json

SEEN = ("world", "griffin-lim")
UNSEEN = "linear-prediction"
MANIFESTS = {"train": SEEN, "dev": SEEN, "eval_seen": SEEN, "eval_unseen": (UNSEEN,)}
MOST_CLIPS = {"train": 1200, "eval": 560, "dev": 120}  # human clips; each has one fake, in `eval` one more, unseen
CLIPS_A_VOICE = 160
FEW = 100  # recordings for which starting processes does not pay
CLIP = round(3.5 * SAMPLE_RATE)
RECIPE = ("3", SEEN, UNSEEN, MOST_CLIPS, CLIPS_A_VOICE, CLIP)  # raise the number when clips come out otherwise

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class QuickstartCorpus:
    """Where the corpus lies.

    Args:
        folder: holds all of it.
        train, dev: manifests with human speech and the two seen attacks.
        eval_seen: human speech of other speakers and the two seen attacks.
        eval_unseen: the same human speech and the attack kept out of training.
        counts: clips by manifest and label, e.g. ``counts["train"]["spoof"]``.
    """

    folder: Path
    train: Path
    dev: Path
    eval_seen: Path
    eval_unseen: Path
    counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker's recordings, and the folder his or her clips are cut into."""

    recordings: tuple[Recording, ...]
    folder: Path
    number: int
    seed: int

    @property
    def name(self) -> str:
        """The speaker."""
        return self.recordings[0].speaker

    def clips(self) -> list[Path]:
        """The clips cut so far."""
        return sorted(self.folder.glob("*.flac"))


@dataclass(frozen=True, slots=True)
class Clip:
    """One stretch of human speech and what is to be made of it."""

    path: Path
    stem: Path
    voice: Voice
    attacks: tuple[str, ...]
    seed: int


def build(cache: Path, bonafide: Path | None = None, seed: int = 0, workers: int | None = None) -> QuickstartCorpus:
    """Make the corpus, or find it made: of Debian's recordings, or of those in the folder `bonafide`.

    A run that was killed goes on where it stopped. Another folder, changed files or another seed make another corpus.

    Args:
        cache: where downloads and corpora are kept.
        bonafide: a folder of human speech, at any depth, 16 kHz or more.
        seed: of the choice of clips, their split and their noise.
        workers: processes; as many as there are cores by default.

    Raises:
        InputError: the recordings cannot be had, or are too few.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{cache}: cannot be made ({error.strerror}); choose another cache folder") from error
    recordings = from_debian(cache / "debian") if bonafide is None else from_folder(bonafide)
    folder = cache / f"corpus-{_key(recordings, seed)}"
    if not (folder / "corpus.json").is_file():
        _make(recordings, folder, seed, workers or os.cpu_count() or 1)
    shutil.rmtree(folder / "clips", ignore_errors=True)
    counts = read_json(folder / "corpus.json", damaged="remove it")
    train, dev, eval_seen, eval_unseen = (folder / f"{name}.tsv" for name in MANIFESTS)
    return QuickstartCorpus(folder, train, dev, eval_seen, eval_unseen, counts)


def _key(recordings: Sequence[Recording], seed: int) -> str:
    files = [(str(item.path.absolute()), item.path.stat().st_size, item.path.stat().st_mtime_ns) for item in recordings]
    return hashlib.sha256(repr((RECIPE, seed, files)).encode(errors="surrogateescape")).hexdigest()[:16]


def _make(recordings: Sequence[Recording], folder: Path, seed: int, workers: int) -> None:
    _require_packages(recordings)
    voices = _voices(usable(recordings), folder / "clips", seed)
    workers = workers if len(recordings) > FEW and workers > 1 else 0
    with _one_thread_each():
        for complaint in chain(
            *_watch(work_in_processes(_cut, voices, workers, "spawn"), len(voices), "cutting clips")
        ):
            say(f"skipped {complaint}")
        splits = {name: _choose(members, name, folder, seed) for name, members in _split(voices, seed).items()}
        clips = [clip for chosen in splits.values() for clip in chosen]
        _watch(work_in_processes(_synthesise, clips, workers, "spawn"), len(clips), "synthesising fakes")
    _write_manifests(splits, folder)


def _require_packages(recordings: Sequence[Recording]) -> None:
    coded = any(recording.path.suffix.lower() == ".g722" for recording in recordings)
    for module in ("pyworld", "G722") if coded else ("pyworld",):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"the Python module {module} is missing; run: pip install 'hybrid-pruning[quickstart]'")


def _watch(results: Iterable[Result], total: int, title: str) -> list[Result]:
    with progress_bar() as progress:
        return list(progress.track(results, total=total, description=title))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep the linear algebra of the processes started within from spinning on each other's cores."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _voices(recordings: Sequence[Recording], folder: Path, seed: int) -> list[Voice]:
    by_name: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_name.setdefault(recording.speaker, []).append(recording)
    return [
        Voice(tuple(by_name[name]), folder / f"{number:04d}", number, zlib.crc32(f"{seed} {name}".encode()))
        for number, name in enumerate(sorted(by_name))
    ]


def _cut(voice: Voice) -> list[str]:
    """Join a voice's recordings and cut them into clips; return a complaint for each file that could not be read."""
    complaints: list[str] = []
    if voice.folder.is_dir():
        return complaints
    temporary = voice.folder.with_name(f".{voice.folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    speech = join(_utterances(voice, complaints), CLIPS_A_VOICE * CLIP)
    for index, clip in enumerate(cut(speech, CLIP)[:CLIPS_A_VOICE]):
        _write_audio(temporary / f"{index:04d}.flac", np.round(clip * 32767).astype(np.int16))
    temporary.replace(voice.folder)
    return complaints


def _utterances(voice: Voice, complaints: list[str]) -> Iterator[Wave]:
    for recording in random.Random(voice.seed).sample(voice.recordings, len(voice.recordings)):
        try:
            yield trim(read(recording.path))
        except InputError as error:
            complaints.append(str(error))


def _split(voices: Sequence[Voice], seed: int) -> dict[str, list[Voice]]:
    """Deal groups of voices to train, eval and dev, the largest first, each to the split it leaves emptiest.

    Raises:
        InputError: there are not enough voices or clips.
    """
    groups: dict[str, list[Voice]] = {}
    for voice in voices:
        if voice.clips():
            groups.setdefault(voice.recordings[0].group, []).append(voice)
    sizes = {name: sum(len(voice.clips()) for voice in members) for name, members in groups.items()}
    _require_enough(sizes)
    room = {split: most / sum(MOST_CLIPS.values()) * sum(sizes.values()) for split, most in MOST_CLIPS.items()}
    filled = dict.fromkeys(room, 0)
    dealt: dict[str, list[Voice]] = {split: [] for split in room}
    for waiting, name in _order(groups, sizes, seed):
        empty = [split for split in room if not dealt[split]]
        open_splits = empty if len(empty) >= waiting else list(room)
        split = min(open_splits, key=lambda split: (filled[split] + sizes[name]) / room[split])
        filled[split] += sizes[name]
        dealt[split] += groups[name]
    return dealt


def _require_enough(sizes: Mapping[str, int]) -> None:
    if len(sizes) < len(MOST_CLIPS) or sum(sizes.values()) < len(MOST_CLIPS) + 1:
        raise InputError(
            f"found {sum(sizes.values())} clips of human speech by {len(sizes)} speakers; training, validation and "
            f"evaluation need at least {len(MOST_CLIPS) + 1} by {len(MOST_CLIPS)}, each of a second or more; "
            "give more recordings"
        )


def _order(groups: Mapping[str, Sequence[Voice]], sizes: Mapping[str, int], seed: int) -> Iterator[tuple[int, str]]:
    """Yield (groups still waiting, name): the largest first and, among equals, the sources by turns."""
    names = random.Random(seed).sample(sorted(groups), len(groups))
    turn: dict[str, int] = {}
    met: dict[str, int] = {}
    for name in names:
        source = groups[name][0].recordings[0].group.split("-")[0]
        turn[name] = met[source] = met.get(source, 0) + 1
    for index, name in enumerate(sorted(names, key=lambda name: (-sizes[name], turn[name]))):
        yield len(names) - index, name


def _choose(voices: Sequence[Voice], split: str, folder: Path, seed: int) -> list[Clip]:
    """Take a clip of each voice by turns until there are enough for the split."""
    by_voice = [[_clip(voice, index, split, folder, seed) for index in range(len(voice.clips()))] for voice in voices]
    turns = [clip for turn in zip_longest(*by_voice) for clip in turn if clip is not None]
    return turns[: MOST_CLIPS[split]]


def _clip(voice: Voice, index: int, split: str, folder: Path, seed: int) -> Clip:
    seen = SEEN[(index + voice.number) % len(SEEN)]
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", voice.name)[-60:]
    stem = folder / "audio" / f"{voice.number:04d}-{slug}-{index:04d}"
    attacks = (seen, UNSEEN) if split == "eval" else (seen,)
    return Clip(voice.folder / f"{index:04d}.flac", stem, voice, attacks, zlib.crc32(f"{seed} {stem.name}".encode()))


def _audio_path(clip: Clip, attack: str) -> Path:
    return clip.stem.with_name(f"{clip.stem.name}-{attack}.flac")


def _synthesise(clip: Clip) -> None:
    """Write a clip and its fakes, all through the same re-encoding; what is there already is left as it is."""
    wave = read(clip.path)
    for index, name in enumerate((Label.BONAFIDE.value, *clip.attacks)):
        path = _audio_path(clip, name)
        if not path.is_file():
            _write_audio(path, reencode(ATTACKS[name](wave) if name in ATTACKS else wave, clip.seed + index))


def _write_audio(path: Path, samples: npt.NDArray[np.int16]) -> None:
    with atomic_write(path, "wb") as handle:
        soundfile.write(handle, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def _write_manifests(splits: Mapping[str, Sequence[Clip]], folder: Path) -> None:
    """Write the four manifests and last of all the counts, whose file says that the corpus is whole."""
    counts: dict[str, dict[str, int]] = {}
    for name, wanted in MANIFESTS.items():
        rows = [row for clip in splits[name.split("_")[0]] for row in _utterances_of(clip, wanted)]
        write_manifest(folder / f"{name}.tsv", rows)
        counts[name] = {str(label): sum(row.label is label for row in rows) for label in Label}
    write_json(folder / "corpus.json", counts)


def _utterances_of(clip: Clip, attacks: Sequence[str]) -> Iterator[Utterance]:
    for attack in (None, *(attack for attack in clip.attacks if attack in attacks)):
        path = _audio_path(clip, attack or Label.BONAFIDE)
        yield Utterance(
            utt_id=path.stem,
            path=path,
            label=Label.SPOOF if attack else Label.BONAFIDE,
            speaker=clip.voice.name,
            attack=attack or UNKNOWN,
            source=clip.voice.recordings[0].source,
            recording=_audio_path(clip, Label.BONAFIDE).stem,
            seconds=soundfile.info(path).duration,
        )
