"""A model for speaker verification + recordings -> their embeddings, resumable as scoring is, kept in a file if wanted.

The embedding of a recording longer than the window is the mean of its windows' embeddings (`windows.py`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import fingerprint_model
from hybrid_pruning.scoring.batching import Throughput
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.inference import EMBEDDING, Options, infer
from hybrid_pruning.scoring.verification.embeddings import Embeddings


def embed_file(
    model: Embedder,
    manifest: str | Path,
    out: str | Path,
    options: Options | None = None,
    throughput: Throughput | None = None,
) -> Embeddings:
    """Embed every utterance of a manifest into a file; what is there already of this model is not embedded again.

    Args: as `embed_utterances`.

    Raises:
        InputError: a manifest that cannot be used, and as `embed_utterances`.
    """
    return embed_utterances(model, read_manifest(manifest), Path(out), Path(out), options, throughput)


def embed_utterances(
    model: Embedder,
    utterances: Sequence[Utterance],
    out: Path,
    cache: Path | None = None,
    options: Options | None = None,
    throughput: Throughput | None = None,
) -> Embeddings:
    """Embed recordings.

    Args:
        model: on the device that is to compute.
        utterances: their names differ.
        out: what is finished is kept in the folder `OUT.partial` until all is, and failures are listed in
            `OUT.failed.tsv`.
        cache: a file whose embeddings are taken where they are of these recordings, and which those that it lacks are
            added to.
        options: how.
        throughput: filled with where the time went, where it is given.

    Returns:
        The embeddings of the recordings, in their order, the same to every process; those skipped are left out.

    Raises:
        InputError: the cache is of another model, has another recording of one name, or is no such file; an output
            cannot be written, an embedding is not finite, or, once all others are done, audio cannot be used.
    """
    options = options or Options()
    digest = processes.from_main(lambda: f"{fingerprint_model(model, calibrated=False)} {options.window_seconds!r}")
    known = _read(cache, digest, model.embedding_width)
    places = {name: place for place, name in enumerate(known.ids)}
    _require_same(cache, known, places, utterances)
    lacking = [utterance for utterance in utterances if utterance.utt_id not in places]
    if lacking:
        new = _embed(model, lacking, out, digest, options, cache, known, throughput)
        places |= {name: len(known.ids) + place for place, name in enumerate(new.ids)}
        known = known.joined_with(new)
    wanted = [places[utterance.utt_id] for utterance in utterances if utterance.utt_id in places]
    return known.take(np.array(wanted, dtype=np.int64))


def _embed(
    model: Embedder,
    utterances: Sequence[Utterance],
    out: Path,
    digest: str,
    options: Options,
    cache: Path | None,
    known: Embeddings,
    throughput: Throughput | None,
) -> Embeddings:
    """Embed recordings and, in the main process, add them to the cache before what was kept meanwhile is removed."""

    def gather(found: FloatArray, samples: FloatArray) -> Embeddings:
        good = np.flatnonzero(np.isfinite(found).all(axis=1))
        chosen = [utterances[place] for place in good.tolist()]
        ids, paths = [utterance.utt_id for utterance in chosen], [_place(utterance) for utterance in chosen]
        return Embeddings(ids, found[good].astype(np.float32), samples[good] / SAMPLE_RATE_HZ, digest, paths)

    def write(found: FloatArray, samples: FloatArray) -> None:
        if cache is not None:
            known.joined_with(gather(found, samples)).write(cache)

    return gather(*infer(model, utterances, out, EMBEDDING, options, write, throughput))


def _place(utterance: Utterance) -> str:
    return str(utterance.path.absolute())


def _require_same(
    cache: Path | None, known: Embeddings, places: Mapping[str, int], utterances: Sequence[Utterance]
) -> None:
    """Require that names which a cache knows are those of the same files: two manifests may use one name twice."""
    for utterance in utterances:
        place = places.get(utterance.utt_id)
        if place is not None and known.paths[place] != _place(utterance):
            raise InputError(
                f"{cache}: '{utterance.utt_id}' is {known.paths[place]} there, not {_place(utterance)}; name another "
                "file for these recordings"
            )


def _read(cache: Path | None, digest: str, width: int) -> Embeddings:
    """Return what a file of embeddings has so far."""
    if cache is None or not processes.from_main(cache.exists):
        return Embeddings([], np.empty((0, width), dtype=np.float32), np.empty(0), digest)
    known = Embeddings.read(cache)
    if known.model != digest:
        raise InputError(
            f"{cache}: holds embeddings of another model, or in windows of another length; name another file"
        )
    return known
