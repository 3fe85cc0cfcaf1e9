"""The quickstart's corpus: human recordings and their copy-synthesised spoofs, as four manifests in a cache folder."""

import hashlib
import os
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from hybrid_pruning.extras import require
from hybrid_pruning.files import atomic_write, write_json
from hybrid_pruning.jobs.copysynthesis import ATTACKS, reencode
from hybrid_pruning.jobs.packages import SAMPLE_RATE, Recording, Wave, from_debian, from_folder, read, usable
from hybrid_pruning.tasks import Label
from hybrid_pruning.trees import read_json

SEEN = ("world", "griffin-lim")
UNSEEN = "linear-prediction"
MANIFESTS = {"train": SEEN, "dev": SEEN, "eval_seen": SEEN, "eval_unseen": (UNSEEN,)}
MOST_CLIPS = {"train": 450, "eval": 225, "dev": 60}  # human clips; each has one spoof, in `eval` one more, unseen
CLIPS_A_SPEAKER = 60
FEW = 100  # recordings for which starting processes does not pay
NAMED = 3  # files that cannot be read, at most
CLIP, SHORTEST_CLIP = 3 * SAMPLE_RATE, SAMPLE_RATE
RECIPE = ("4", SEEN, UNSEEN, MOST_CLIPS, CLIPS_A_SPEAKER, CLIP)  # raise the number when clips come out otherwise
SEAM = SAMPLE_RATE // 100
FRAME, MARGIN = SAMPLE_RATE // 50, 3  # samples, and frames of quiet left around speech
AUDIBLE, SILENT = 10 ** (-32 / 20), 10 ** (-60 / 20)  # of the loudest frame, and of full scale

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class QuickstartCorpus:
    """Its manifests by name, human speech and attacks, with `counts["train"]["spoof"]` and so on.

    Evaluation has other speakers; `eval_unseen` has the attack kept out of training, the others the two seen ones.
    """

    manifests: Mapping[str, Path]
    counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Speaker:
    """One speaker's recordings, and the folder of the clips cut from them."""

    name: str
    recordings: Sequence[Recording]
    folder: Path
    number: int
    seed: int

    def clips(self) -> list[Path]:
        """Return the clips cut so far."""
        return sorted(self.folder.glob("*.flac"))


@dataclass(frozen=True, slots=True)
class Clip:
    """One stretch of human speech and the spoofs to be made of it."""

    path: Path
    stem: Path
    speaker: Speaker
    attacks: tuple[str, ...]
    seed: int

    def audio(self, attack: str) -> Path:
        """Return the file of the clip, `bonafide`, or of a spoof."""
        return self.stem.with_name(f"{self.stem.name}-{attack}.flac")


def build(cache: Path, bonafide: Path | None = None, seed: int = 0, workers: int | None = None) -> QuickstartCorpus:
    """Make the corpus, or find it made: of Debian's recordings, or of those in the folder `bonafide`.

    A run that was killed goes on where it stopped. Another folder, changed files or another seed (of the choice of
    clips, their split and their noise) make another corpus. `cache` keeps downloads and corpora.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{cache}: cannot be made ({error.strerror}); choose another cache folder") from error
    recordings = from_debian(cache / "debian") if bonafide is None else from_folder(bonafide)
    files = [(str(item.path.absolute()), item.path.stat().st_size, item.path.stat().st_mtime_ns) for item in recordings]
    key = hashlib.sha256(repr((RECIPE, seed, files)).encode(errors="surrogateescape")).hexdigest()[:16]
    folder = cache / f"corpus-{key}"
    if not (folder / "corpus.json").is_file():
        _make(recordings, folder, seed, workers or os.cpu_count() or 1)
    shutil.rmtree(folder / "clips", ignore_errors=True)
    counts = read_json(folder / "corpus.json", damaged="remove it")
    return QuickstartCorpus({name: folder / f"{name}.tsv" for name in MANIFESTS}, counts)


def _make(recordings: Sequence[Recording], folder: Path, seed: int, workers: int) -> None:
    """Cut clips, split the speakers, synthesise spoofs and write the manifests."""
    coded = any(recording.path.suffix.lower() == ".g722" for recording in recordings)
    require("pyworld", *["G722"] * coded)
    by_name: dict[str, list[Recording]] = {}
    for recording in usable(recordings):
        by_name.setdefault(recording.speaker, []).append(recording)
    speakers = [
        Speaker(name, its, folder / "clips" / f"{number:04d}", number, zlib.crc32(f"{seed} {name}".encode()))
        for number, (name, its) in enumerate(sorted(by_name.items()))
    ]
    workers = workers if len(recordings) > FEW and workers > 1 else 0
    complaints = list(chain(*_work(_cut_clips, speakers, workers, "cutting clips")))
    for complaint in complaints[:NAMED]:
        say(f"skipped {complaint}")
    if more := complaints[NAMED:]:
        say(f"skipped {len(more)} more that cannot be read whole or are below 16 kHz")
    splits = {name: _choose(chosen, name, folder, seed) for name, chosen in _split(speakers, seed).items()}
    _work(_synthesise, list(chain(*splits.values())), workers, "synthesising spoofs")
    _write_manifests(splits, folder)


def _work(action: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str) -> list[Result]:
    """Apply an action to all items, with a progress bar, in processes whose linear algebra has one thread each."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    try:
        with progress_bar() as progress:
            results = work_in_processes(action, items, workers, "spawn")
            return list(progress.track(results, total=len(items), description=title))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cut_clips(speaker: Speaker) -> list[str]:
    """Join a speaker's recordings and cut them into clips; return a complaint for each file that cannot be read."""
    complaints: list[str] = []
    if speaker.folder.is_dir():
        return complaints

    def utterances() -> Iterator[Wave]:
        for recording in random.Random(speaker.seed).sample(speaker.recordings, len(speaker.recordings)):
            try:
                yield trim(read(recording.path))
            except InputError as error:
                complaints.append(str(error))

    temporary = speaker.folder.with_name(f".{speaker.folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for index, clip in enumerate(cut(join(utterances(), CLIPS_A_SPEAKER * CLIP), CLIP)[:CLIPS_A_SPEAKER]):
        _write_audio(temporary / f"{index:04d}.flac", np.round(clip * 32767).astype(np.int16))
    temporary.replace(speaker.folder)
    return complaints


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

    Less than a second is dropped, and so is the remainder at the end.
    """
    if len(speech) < size:
        return [speech] if len(speech) >= SHORTEST_CLIP else []
    return list(speech[: len(speech) // size * size].reshape(-1, size))


def _split(speakers: Sequence[Speaker], seed: int) -> dict[str, list[Speaker]]:
    """Deal groups of speakers to train, eval and dev, the largest first, each to the split it leaves emptiest."""
    groups: dict[str, list[Speaker]] = {}
    for speaker in speakers:
        if speaker.clips():
            groups.setdefault(speaker.recordings[0].group, []).append(speaker)
    sizes = {name: sum(len(speaker.clips()) for speaker in group) for name, group in groups.items()}
    total = sum(sizes.values())
    if len(sizes) < len(MOST_CLIPS) or total < len(MOST_CLIPS) + 1:
        raise InputError(
            f"found {total} clips of human speech by {len(sizes)} speakers; training, validation and "
            f"evaluation need at least {len(MOST_CLIPS) + 1} by {len(MOST_CLIPS)}, each of a second or more; "
            "give more recordings"
        )
    room = {split: most / sum(MOST_CLIPS.values()) * total for split, most in MOST_CLIPS.items()}
    filled = dict.fromkeys(room, 0)
    dealt: dict[str, list[Speaker]] = {split: [] for split in room}
    order = _order(sizes, seed)
    for place, name in enumerate(order):
        empty = [split for split in room if not dealt[split]]
        open_splits = empty if len(empty) >= len(order) - place else list(room)
        split = min(open_splits, key=lambda split: (filled[split] + sizes[name]) / room[split])
        filled[split] += sizes[name]
        dealt[split] += groups[name]
    return dealt


def _order(sizes: Mapping[str, int], seed: int) -> list[str]:
    """Return groups, the largest first and, among equals, their sources (the first part of the name) by turns."""
    turn: dict[str, int] = {}
    met: dict[str, int] = {}
    names = random.Random(seed).sample(sorted(sizes), len(sizes))
    for name in names:
        source = name.split("-")[0]
        turn[name] = met[source] = met.get(source, 0) + 1
    return sorted(names, key=lambda name: (-sizes[name], turn[name]))


def _choose(speakers: Sequence[Speaker], split: str, folder: Path, seed: int) -> list[Clip]:
    """Take a clip of each speaker by turns until there are enough for the split."""
    by_speaker: list[list[Clip]] = []
    for speaker in speakers:
        slug, clips = re.sub(r"[^A-Za-z0-9_.-]+", "_", speaker.name)[-60:], []
        for index, source in enumerate(speaker.clips()):
            seen = SEEN[(index + speaker.number) % len(SEEN)]
            stem = folder / "audio" / f"{speaker.number:04d}-{slug}-{index:04d}"
            attacks = (seen, UNSEEN) if split == "eval" else (seen,)
            clips.append(Clip(source, stem, speaker, attacks, zlib.crc32(f"{seed} {stem.name}".encode())))
        by_speaker.append(clips)
    turns = [clip for turn in zip_longest(*by_speaker) for clip in turn if clip is not None]
    return turns[: MOST_CLIPS[split]]


def _synthesise(clip: Clip) -> None:
    """Write a clip and its spoofs, all through the same re-encoding; a file that is there is left as it is."""
    wave = read(clip.path)
    for index, name in enumerate((Label.BONAFIDE.value, *clip.attacks)):
        path = clip.audio(name)
        if not path.is_file():
            _write_audio(path, reencode(ATTACKS[name](wave) if name in ATTACKS else wave, clip.seed + index))


def _write_audio(path: Path, samples: npt.NDArray[np.int16]) -> None:
    with atomic_write(path, "wb") as handle:
        soundfile.write(handle, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def _write_manifests(splits: Mapping[str, Sequence[Clip]], folder: Path) -> None:
    """Write the four manifests and last of all the counts, whose file says that the corpus is whole."""
    counts: dict[str, dict[str, int]] = {}
    for name, wanted in MANIFESTS.items():
        rows: list[Utterance] = []
        for clip in splits[name.split("_")[0]]:
            for attack in (None, *(attack for attack in clip.attacks if attack in wanted)):
                path = clip.audio(attack or Label.BONAFIDE)
                about = {"attack": attack or UNKNOWN, "source": clip.speaker.recordings[0].source}
                about |= {"speaker": clip.speaker.name, "recording": clip.audio(Label.BONAFIDE).stem}
                label, seconds = Label.SPOOF if attack else Label.BONAFIDE, soundfile.info(path).duration
                rows.append(Utterance(utt_id=path.stem, path=path, label=label, seconds=seconds, **about))
        write_manifest(folder / f"{name}.tsv", rows)
        counts[name] = {str(label): sum(row.label is label for row in rows) for label in Label}
    write_json(folder / "corpus.json", counts)
