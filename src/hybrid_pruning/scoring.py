"""Model + manifest -> scores, one log-likelihood ratio per utterance; higher is more bona fide."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid_pruning.batches import Wholes, load_batches
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.manifest import Utterance, read_manifest
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.terminal import progress_bar

BATCH_SECONDS = 120.0
UNKNOWN_SECONDS = 10.0


def score_file(
    model: SpeechModel, manifest: str | Path, out: str | Path, batch_size: int = 16, workers: int = 2
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Score every utterance of a manifest into `filename<TAB>cm-score`, in the manifest's order.

    Raises:
        InputError: a manifest or audio file that cannot be used, or an output that cannot be written.
    """
    utterances = read_manifest(manifest)
    with atomic_write(out) as handle:  # opened first: a place that cannot be written to costs no waiting
        scores = score_utterances(model, utterances, batch_size, workers)
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(("filename", "cm-score"))
        writer.writerows((u.utt_id, repr(float(score))) for u, score in zip(utterances, scores, strict=True))
    return scores


@torch.inference_mode()
def score_utterances(
    model: SpeechModel, utterances: Sequence[Utterance], batch_size: int = 16, workers: int = 2
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the [N] scores of whole utterances; the model is left in the mode it was in.

    Raises:
        InputError: a file that cannot be used, or a score that is not finite.
    """
    device = next(model.parameters()).device
    scores = np.full(len(utterances), np.nan)
    batches = batches_by_length([u.seconds for u in utterances], batch_size)
    training = model.training
    model.eval()
    try:
        with progress_bar() as bar:
            task = bar.add_task("scoring", total=len(utterances))
            for batch in load_batches(Wholes(utterances, model.backbone.minimum_samples), batches, workers):
                on_device = batch.to(device)
                scores[batch.index.numpy()] = model.score(on_device.wave, on_device.lengths).float().cpu().numpy()
                bar.update(task, advance=len(batch.index))
    finally:
        model.train(training)
    if not np.isfinite(scores).all():
        bad = utterances[int(np.flatnonzero(~np.isfinite(scores))[0])]
        raise InputError(f"{bad.path}: the score of '{bad.utt_id}' is not finite; has the training diverged?")
    return scores


def batches_by_length(seconds: Sequence[float], batch_size: int) -> list[list[int]]:
    """Group utterances of similar length, longest first, so that little is padded and memory stays bounded.

    Args:
        seconds: duration of each utterance; nan where unknown.
        batch_size: utterances in a batch at most; fewer where they are long.
    """
    known = [UNKNOWN_SECONDS if math.isnan(value) else value for value in seconds]
    batches: list[list[int]] = []
    for index in sorted(range(len(known)), key=lambda i: -known[i]):
        full = not batches or len(batches[-1]) == batch_size
        if full or known[batches[-1][0]] * (len(batches[-1]) + 1) > BATCH_SECONDS:
            batches.append([])
        batches[-1].append(index)
    return batches
