"""A model + recordings -> their embeddings, resumable as scoring is, kept in a file: ours, numpy's or Kaldi's."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import DIGESTS, atomic_write
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.models.artifact import fingerprint_model
from hybrid_pruning.models.cohort import Vectors
from hybrid_pruning.scoring.engine import Embedder, Engine, load_embedder
from hybrid_pruning.scoring.resume import run_resumable
from hybrid_pruning.trees import parse_json

FORMAT = "hybrid-pruning embeddings"


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Embeddings [N, E] float32 as a model gave them, neither centred nor of unit length, by unique names.

    `model` is a digest of the model and the window, which the vectors depend on; no paths where they do not matter.
    """

    ids: list[str]
    vectors: Vectors
    seconds: FloatArray
    model: str = ""
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.vectors) == len(self.seconds)

    def take(self, names: Iterable[str]) -> Self:
        """Return those of the given names, in that order; names without an embedding are left out."""
        known = {name: place for place, name in enumerate(self.ids)}
        chosen = np.array([known[name] for name in names if name in known], dtype=np.int64)
        ids, paths = ([of[place] for place in chosen.tolist()] if of else [] for of in (self.ids, self.paths))
        return type(self)(ids, self.vectors[chosen], self.seconds[chosen], self.model, paths)

    def write(self, path: str | Path) -> None:
        """Write them as safetensors, with the names in its header."""
        about: dict[str, Any] = {"format": FORMAT, "model": self.model, "ids": self.ids, "paths": self.paths}
        vectors = np.ascontiguousarray(self.vectors)
        about[DIGESTS] = _digest(about, vectors, self.seconds)
        header = {"about": json.dumps(about)}  # one entry: safetensors writes several in any order
        with atomic_write(path, "wb") as handle:
            handle.write(save({"vectors": vectors, "seconds": self.seconds}, header))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read them back."""
        try:
            with safe_open(path, "numpy") as file:
                about = parse_json((file.metadata() or {}).get("about", "{}"), math.inf)
                if about.get("format") != FORMAT:
                    raise ValueError("another format")
                vectors, seconds = file.get_tensor("vectors"), file.get_tensor("seconds")
                ids, paths = (list(map(str, about[key])) for key in ("ids", "paths"))
            count = len(set(ids))
            if vectors.ndim != 2 or {len(vectors), len(ids), len(paths)} != {count} or seconds.shape != (count,):
                raise ValueError("its parts do not belong together")
            if not np.isfinite(vectors).all():
                raise ValueError("not finite")
            if about.pop(DIGESTS, None) not in (None, _digest(about, vectors, seconds)):
                raise ValueError("damaged")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error}); check the path") from error
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path}: holds no embeddings of ours ({error}); name another file, or remove it"
            raise InputError(message) from error
        model = about.get("model", "")
        return cls(ids, vectors.astype(np.float32, copy=False), seconds.astype(np.float64), model, paths)


def write_npz(embeddings: Embeddings, path: Path) -> None:
    """Write `ids` [N], `embeddings` [N, E] float32 and `seconds` [N] as numpy reads them."""
    with atomic_write(path, "wb") as handle:
        np.savez(handle, ids=np.array(embeddings.ids, str), embeddings=embeddings.vectors, seconds=embeddings.seconds)


def write_kaldi(embeddings: Embeddings, path: Path) -> None:
    """Write binary float vectors, and beside the .ark an .scp that names the place of each.

    Source: Kaldi's documentation, "Kaldi I/O mechanisms": the key, a space, and from the named place on `\\0B`, the
    type `FV `, the size of an int32, the vector's width as one, and its values, little-endian.
    """
    places = []
    with atomic_write(path, "wb") as ark:
        for name, vector in zip(embeddings.ids, embeddings.vectors, strict=True):
            ark.write(f"{name} ".encode())
            places.append(f"{name} {path.absolute()}:{ark.tell()}\n")
            ark.write(b"\0BFV \4" + struct.pack("<i", len(vector)) + vector.astype("<f4").tobytes())
    with atomic_write(path.with_suffix(".scp")) as scp:
        scp.writelines(places)


WRITERS: dict[str, Callable[[Embeddings, Path], None]] = {".npz": write_npz, ".ark": write_kaldi}
"""Suffix -> form of embeddings for other programs."""


def embed(
    model: str | Path | Embedder,
    manifest: str | Path,
    out: str | Path,
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    device: str = "auto",
    skip_bad: bool = False,
) -> Embeddings:
    """Embed every utterance of a manifest into a file, with a detector or a verifier.

    A file that ends with .npz is numpy's, .ark Kaldi's with an .scp beside it, in the manifest's order; any other is
    ours, in which embeddings of this model that are there already are kept. Cut off, the next call goes on from
    `OUT.partial`. The other arguments are those of `score`.
    """
    out, utterances = Path(out), read_manifest(manifest)
    write = WRITERS.get(out.suffix)
    if write is write_kaldi and (names := [one.utt_id for one in utterances if len(one.utt_id.split()) > 1]):
        raise InputError(f"{manifest}: utt_id '{names[0]}' has a space, Kaldi's keys cannot; give --out as .npz")
    engine = Engine(load_embedder(model, device), batch_size, workers, window_seconds)
    if write is None:
        return embed_utterances(engine, utterances, out, out, skip_bad)
    return embed_utterances(engine, utterances, out, None, skip_bad, lambda found: write(found, out))


def embed_utterances(
    engine: Engine,
    utterances: Sequence[Utterance],
    out: Path,
    cache: Path | None = None,
    skip_bad: bool = False,
    keep: Callable[[Embeddings], None] = lambda _: None,
) -> Embeddings:
    """Return the embeddings of recordings whose names differ, in their order, the same to every process.

    Results so far and failures stand beside `out`, as in `run_resumable`. From the file `cache` embeddings are taken,
    and those that it lacks are added to it. With `skip_bad`, recordings that cannot be used are left out. The main
    process calls `keep` with new results before the partial ones are removed.
    """
    pieces = f"{engine.window_seconds!r}{' crops' if engine.crops else ''}"
    digest = processes.from_main(lambda: f"{fingerprint_model(engine.model, False)} {pieces}")
    known = Embeddings([], np.empty((0, engine.model.embedding_width), dtype=np.float32), np.empty(0), digest)
    if cache is not None and processes.from_main(cache.exists):
        known = Embeddings.read(cache)
        if known.model != digest:
            raise InputError(
                f"{cache}: holds embeddings of another model, or in windows of another length; name another file"
            )
    paths = dict(zip(known.ids, known.paths, strict=True))
    for utterance in utterances:  # two manifests may use one name twice
        path = str(utterance.path.absolute())
        if paths.get(utterance.utt_id, path) != path:
            raise InputError(
                f"{cache}: '{utterance.utt_id}' is {paths[utterance.utt_id]} there, not {path}; name another file for "
                "these recordings"
            )
    lacking = [utterance for utterance in utterances if utterance.utt_id not in paths]

    def gather(found: FloatArray, samples: FloatArray) -> Embeddings:
        """Return the embeddings that are known by now."""
        good = np.flatnonzero(np.isfinite(found).all(axis=1))
        chosen = [lacking[place] for place in good.tolist()]
        vectors = np.concatenate([known.vectors, found[good].astype(np.float32)])
        seconds = np.concatenate([known.seconds, samples[good] / SAMPLE_RATE_HZ])
        ids, files = [u.utt_id for u in chosen], [str(u.path.absolute()) for u in chosen]
        return Embeddings([*known.ids, *ids], vectors, seconds, digest, [*known.paths, *files])

    def write(found: FloatArray, samples: FloatArray) -> None:
        every = gather(found, samples)
        keep(every)
        if cache is not None:
            every.write(cache)

    if lacking:
        known = gather(*run_resumable(engine, lacking, out, "embeddings", write, skip_bad))
    return known.take(utterance.utt_id for utterance in utterances)


def _digest(about: Any, *arrays: Vectors | FloatArray) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
