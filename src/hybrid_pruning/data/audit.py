"""A manifest's audio, decoded once from end to end: the faulty files, before a training or scoring meets them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_pruning.audio import NO_SPEECH, check_seconds, may_hold_speech, read_audio
from hybrid_pruning.console import printable, progress_bar
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.data.tables import open_table
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError


@dataclass(frozen=True, slots=True)
class FaultyFile:
    """A file of a manifest that cannot be used as it is; a harmless one can: it holds no speech-like energy."""

    utterance: Utterance
    message: str
    harmless: bool = False


def audit(manifest: str | Path, out: str | Path | None = None, workers: int = 2) -> list[FaultyFile]:
    """Decode every file of a manifest once, write the table of the faulty ones, and return them in its order.

    Args:
        out: the table, with a header alone where nothing is wrong; `MANIFEST.faults.tsv` beside it by default.
        workers: processes that decode; 0 decodes in this one.
    """
    utterances = read_manifest(manifest)
    table = out or Path(manifest).with_suffix(".faults.tsv")
    with open_table(table, ("utt_id", "path", "fault")) as write:  # opened first: a bad place costs no waiting
        faults = audit_utterances(utterances, workers)
        for fault in faults:
            write((fault.utterance.utt_id, fault.utterance.path, fault.message))
    return faults


def audit_utterances(utterances: Sequence[Utterance], workers: int = 2) -> list[FaultyFile]:
    """Decode every file once and return the faulty ones, in the order of the utterances."""
    with progress_bar() as bar:
        messages = work_in_processes(_find_fault, utterances, workers)
        tracked = bar.track(zip(utterances, messages, strict=True), total=len(utterances), description="decoding")
        return [FaultyFile(one, message, message.endswith(NO_SPEECH)) for one, message in tracked if message]


def _find_fault(utterance: Utterance) -> str:
    """Decode a file, compare its length with its header and the manifest's seconds, and return the fault, or ""."""
    try:
        wave = read_audio(utterance.path)
        check_seconds(utterance.path, len(wave), utterance.seconds)
    except InputError as error:
        return printable(str(error))
    return "" if may_hold_speech(wave) else printable(f"{utterance.path}: {NO_SPEECH}")
