"""A manifest's audio, decoded once from end to end: which files are faulty, before a training or scoring meets them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_pruning.audio import NO_SPEECH, check_seconds, may_hold_speech, read_audio
from hybrid_pruning.console import printable, progress_bar
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.data.tables import open_table
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError

COLUMNS = ("utt_id", "path", "fault")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one file, in one line.

    Args:
        utterance: the manifest's row.
        message: names the file, what was expected and what was found.
        harmless: whether it can be used all the same: it holds no speech-like energy.
    """

    utterance: Utterance
    message: str
    harmless: bool = False


def audit(utterances: Sequence[Utterance], workers: int = 2) -> list[Fault]:
    """Decode every file once and return the faulty ones, in the manifest's order.

    Args:
        utterances: the manifest.
        workers: processes that decode; 0 decodes in this one.
    """
    messages: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=len(utterances))
        for message in work_in_processes(_message, utterances, workers):
            messages.append(message)
            bar.update(task, advance=1)
    found = zip(utterances, messages, strict=True)
    return [Fault(utterance, message, message.endswith(NO_SPEECH)) for utterance, message in found if message]


def _message(utterance: Utterance) -> str:
    """Decode a file, compare its length with its header and the manifest's seconds, and return the fault, or ""."""
    try:
        wave = read_audio(utterance.path)
        check_seconds(utterance.path, len(wave), utterance.seconds)
    except InputError as error:
        return printable(str(error))
    return "" if may_hold_speech(wave) else printable(f"{utterance.path}: {NO_SPEECH}")


def audit_manifest(manifest: str | Path, out: str | Path | None = None, workers: int = 2) -> list[Fault]:
    """Audit a manifest's files, write the table of faults, and return them.

    Args:
        manifest: TSV with utt_id, path and label.
        out: the table, with a header alone where nothing is wrong; `MANIFEST.faults.tsv` beside it by default.
        workers: processes that decode.

    Raises:
        InputError: the manifest cannot be used, or the table not written.
    """
    utterances = read_manifest(manifest)
    with open_table(out or faults_beside(manifest), COLUMNS) as write:  # opened first: a bad place costs no waiting
        faults = audit(utterances, workers)
        for fault in faults:
            write((fault.utterance.utt_id, fault.utterance.path, fault.message))
    return faults


def faults_beside(manifest: str | Path) -> Path:
    """Return where a manifest's faults are listed: train.tsv -> train.faults.tsv."""
    return Path(manifest).with_suffix(".faults.tsv")
