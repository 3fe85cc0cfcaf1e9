"""The affine calibration that a model carries: its scores -> log-likelihood ratios."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from hybrid_pruning.errors import InputError

QUALITIES = tuple(
    f"{name}-{end}" for name in ("log-seconds", "embedding-length", "impostor-mean") for end in ("min", "max")
)
"""Quality measures of a verification trial, the smaller and the larger of its two sides: columns of its score file."""

Scores = TypeVar("Scores", bound=Any)


@dataclass(frozen=True, slots=True)
class Fit:
    """One calibration, and the data it was fitted on; positives are bona fide or target trials."""

    scale: float
    offset: float
    prior: float
    scores: str
    keys: str
    digest: str
    """SHA-256 of the score file."""
    positives: int
    negatives: int
    qualities: Mapping[str, float] = field(default_factory=dict)
    """Weights of the trial's quality measures."""
    seen: Sequence[float] | None = field(default=None, repr=False)
    """The least and the largest LLR of the scores that it was fitted on; not known of earlier versions' fits."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("qualities", "seen")}


@dataclass(frozen=True, slots=True)
class Calibration:
    """An affine map of a model's scores to log-likelihood ratios: each fit on scores calibrated by those before it."""

    fits: tuple[Fit, ...] = ()

    @property
    def scale(self) -> float:
        """The factor of the model's own scores; above 0."""
        return math.prod(fit.scale for fit in self.fits)

    @property
    def offset(self) -> float:
        """The constant that is added after."""
        offset = 0.0
        for fit in self.fits:
            offset = fit.scale * offset + fit.offset
        return offset

    @property
    def qualities(self) -> dict[str, float]:
        """The factors of the trial's quality measures, of those that count."""
        weights: dict[str, float] = {}
        for fit in self.fits:
            names = {**weights, **fit.qualities}
            weights = {name: fit.scale * weights.get(name, 0.0) + fit.qualities.get(name, 0.0) for name in names}
        return weights

    @property
    def seen(self) -> tuple[float, float] | None:
        """The least and the largest LLR that it was fitted on, None where that is not known."""
        found = self.fits[-1].seen if self.fits else None
        return None if found is None else (found[0], found[1])

    def apply(self, scores: Scores, qualities: Mapping[str, Scores] | None = None) -> Scores:
        """Return calibrated scores of a model's own [N], an array or a tensor; `qualities` are name -> [N]."""
        calibrated = scores * self.scale + self.offset
        for name, weight in self.qualities.items():
            calibrated = calibrated + weight * (qualities or {})[name]
        return calibrated

    def then(self, fit: Fit) -> Self:
        """Return the calibration after one more fit, on scores that this one calibrated.

        A fit on a score file that was already fitted on takes that fit's place and that of all later ones: the file was
        written before them.
        """
        before = [earlier.digest for earlier in self.fits]
        kept = self.fits[: before.index(fit.digest)] if fit.digest in before else self.fits
        return replace(self, fits=(*kept, fit))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the artifact."""
        return {"scale": self.scale, "offset": self.offset, "fits": [fit.to_json() for fit in self.fits]}

    @classmethod
    def from_json(cls, values: Any, where: str) -> Self:
        """Read back and check the values of `to_json`; `where` is their file, for the message."""
        try:
            fits = tuple(Fit(**fit) for fit in values["fits"])
            for fit in fits:
                if fit.seen is not None and not (len(fit.seen) == 2 and all(map(math.isfinite, fit.seen))):
                    raise TypeError(f"seen {fit.seen}: expected two numbers")
                if unknown := sorted(set(fit.qualities) - set(QUALITIES)):
                    raise TypeError(f"quality measure '{unknown[0]}' is unknown")
                if not (fit.scale > 0 and all(map(math.isfinite, (fit.scale, fit.offset, *fit.qualities.values())))):
                    raise InputError(
                        f"{where}: calibration has scale {fit.scale} and offset {fit.offset}; calibrate anew"
                    )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where}: calibration cannot be understood ({error})") from error
        return cls(fits)


def read_calibration(description: Mapping[str, Any], path: Path) -> Calibration | None:
    """Return the calibration in a model's description, which is read from `path`; None where it has none."""
    values = description.get("calibration")
    return None if values is None else Calibration.from_json(values, str(path))
