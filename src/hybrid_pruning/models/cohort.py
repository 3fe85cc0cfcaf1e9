"""The cohort that verification scores are normalised against: speakers' mean embeddings, and the mean of all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, check_digest

Vectors = npt.NDArray[np.float32]
FILE = "cohort.safetensors"
TOP_N = 300


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """A mean to centre embeddings with, and speakers to normalise scores against.

    Args:
        mean: [E] of a training manifest's embeddings, subtracted from every embedding.
        speakers: [C, E] of unit length: each speaker's mean of centred embeddings, each of unit length before.
        top_n: number of the closest of them that AS-norm takes; 2 to C.
    """

    mean: Vectors
    speakers: Vectors
    top_n: int
    source: str

    def __post_init__(self) -> None:
        require_speakers(len(self.speakers), self.top_n, self.source)

    def to_json(self) -> dict[str, Any]:
        """Return its part of the artifact's description."""
        return {"top_n": self.top_n, "speakers": len(self.speakers), "source": self.source}

    def write(self, folder: Path) -> None:
        """Write its vectors into an artifact."""
        with atomic_write(folder / FILE, "wb") as handle:
            handle.write(save({"mean": self.mean, "speakers": self.speakers}, {"about": json.dumps(self.to_json())}))


def read_cohort(folder: Path, description: Mapping[str, Any], width: int) -> Cohort | None:
    """Read the cohort beside a description, None where it has none; it has to fit that and the embeddings' width."""
    path, about = folder / FILE, description.get("cohort")
    if about is None:
        return None
    check_digest(path, description)
    try:
        vectors: Mapping[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the model its cohort again") from error
    try:
        mean, speakers = vectors["mean"], vectors["speakers"]
        top_n, count, source = int(about["top_n"]), int(about["speakers"]), str(about["source"])
        fitting = mean.dtype == speakers.dtype == np.float32 and speakers.shape == (count, width)
        if not fitting or mean.shape != (width,) or not (np.isfinite(mean).all() and np.isfinite(speakers).all()):
            raise ValueError(f"expected {count} finite vectors [{width}] and their mean")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: does not belong to config.json ({error}); give the model its cohort again"
        ) from error
    return Cohort(mean, speakers, top_n, source)


def require_speakers(count: int, top_n: int, source: str) -> None:
    """Require that AS-norm can take the closest `top_n` of a cohort's speakers, 2 at least."""
    if not 2 <= top_n <= count:
        raise InputError(
            f"{source}: top-n {top_n}, but this cohort has {count} speakers; choose --top-n from 2 up to that many"
        )
