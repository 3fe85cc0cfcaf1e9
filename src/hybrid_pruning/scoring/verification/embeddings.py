"""The embeddings of named recordings, in memory and in a file."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import DIGESTS, atomic_write
from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.cohort import Vectors
from hybrid_pruning.trees import parse_json

FORMAT = "hybrid-pruning embeddings"


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Embeddings as a model gave them, neither centred nor of unit length.

    Args:
        ids: [N] the recordings' names, each once.
        vectors: [N, E] float32; of a recording in windows, the mean of theirs.
        seconds: [N] how long the recordings are.
        model: digest of the model and the window, which the vectors depend on.
        paths: [N] the audio files; none where they do not matter.
    """

    ids: list[str]
    vectors: Vectors
    seconds: FloatArray
    model: str = ""
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.vectors) == len(self.seconds)

    def take(self, places: IntArray) -> Self:
        """Return those at the given places, in that order."""
        chosen = [self.ids[place] for place in places.tolist()]
        paths = [self.paths[place] for place in places.tolist()] if self.paths else []
        return type(self)(chosen, self.vectors[places], self.seconds[places], self.model, paths)

    def joined_with(self, others: Self) -> Self:
        """Return these and, after them, others of the same model."""
        vectors = np.concatenate([self.vectors, others.vectors]) if len(self.ids) else others.vectors
        seconds = np.concatenate([self.seconds, others.seconds])
        return type(self)([*self.ids, *others.ids], vectors, seconds, self.model, [*self.paths, *others.paths])

    def write(self, path: str | Path) -> None:
        """Write them as safetensors, with the names in its header.

        Raises:
            InputError: the file cannot be written.
        """
        told = {"format": FORMAT, "model": self.model, "ids": self.ids, "paths": self.paths}
        vectors = np.ascontiguousarray(self.vectors)
        sealed = {**told, DIGESTS: _digest(told, vectors, self.seconds)}
        about = {"about": json.dumps(sealed)}  # one entry: safetensors writes several in any order
        with atomic_write(path, "wb") as handle:
            handle.write(save({"vectors": vectors, "seconds": self.seconds}, about))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read them back.

        Raises:
            InputError: the file cannot be read, or holds no embeddings.
        """
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
            raise InputError(
                f"{path}: holds no embeddings of ours ({error}); name another file, or remove it"
            ) from error
        model = about.get("model", "")
        return cls(ids, vectors.astype(np.float32, copy=False), seconds.astype(np.float64), model, paths)


def _digest(told: Any, *arrays: Vectors | FloatArray) -> str:
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
