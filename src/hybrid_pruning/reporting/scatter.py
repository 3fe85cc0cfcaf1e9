"""Embeddings in the plane of their two principal components, coloured by what tells the recordings apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hybrid_pruning.data.manifest import UNKNOWN, Utterance
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.reporting import plots
from hybrid_pruning.tasks import Label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One per group, for print without colour."""
MOST_POINTS = 2_000
"""Of a group, drawn at random from more of them; the components are those of all."""


def draw_embeddings(embeddings: npt.ArrayLike, utterances: Sequence[Utterance]) -> "Figure":
    """Draw embeddings [N, E] of utterances [N] by their two principal components.

    Groups are bona fide speech and spoofs, with the attacks apart where they are few; where all are of one class, the
    speakers where they are few.
    """
    points, shares = principal_components(embeddings)
    groups, draw = _groups(utterances), np.random.default_rng(0)
    classes = {str(Label.BONAFIDE): plots.BONAFIDE, str(Label.SPOOF): plots.SPOOF}
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, plots.WIDTH)
        for index, name in enumerate(names := sorted(set(groups), key=lambda name: (name != Label.BONAFIDE, name))):
            places = np.flatnonzero([group == name for group in groups])
            shown = draw.permutation(places)[:MOST_POINTS]
            count = f"{len(places):,}" if len(shown) == len(places) else f"{len(shown):,} of {len(places):,}"
            colour = classes[name] if set(names) <= set(classes) else plots.colour_of(index)
            look: Any = {"markersize": 5 if len(groups) < 1000 else 3, "alpha": 0.55, "markeredgewidth": 0}
            label = plots.label_of(f"{name or 'recordings'} ({count})")
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(*points[shown].T, linestyle="none", marker=marker, color=colour, label=label, **look)
        first, second = (
            f"principal component {place}, {share:.1%} of the variance" for place, share in enumerate(shares, 1)
        )
        axes.set(xlabel=first, ylabel=second)  # each on a scale of its own: of a detector the first has nearly all
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def principal_components(embeddings: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return [N, 2] coordinates of embeddings [N, E], and the two shares of the variance.

    A component's largest weight is positive, so that equal data give the same picture.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    x = np.pad(x - x.mean(axis=0), ((0, 0), (0, max(0, 2 - x.shape[1]))))
    values, vectors = np.linalg.eigh(x.T @ x)  # [E, E]: there are far more recordings than dimensions
    first = vectors[:, ::-1][:, :2]
    first = first * np.sign(np.take_along_axis(first, np.abs(first).argmax(axis=0)[None], axis=0))
    shares = values[::-1][:2].clip(0) / max(values.sum(), np.finfo(float).tiny)
    return x @ first, shares


def _groups(utterances: Sequence[Utterance]) -> list[str]:
    """Return the group [N] of each utterance, its name in the figure; "" where nothing tells them apart."""
    attacks = {one.attack for one in utterances if one.label == Label.SPOOF}
    few = UNKNOWN not in attacks and 1 < len(attacks) < len(plots.COLOURS)
    words = [one.attack if few and one.label == Label.SPOOF else str(one.label) for one in utterances]
    if len(set(words)) > 1:
        return words
    speakers = {one.speaker for one in utterances}
    few = UNKNOWN not in speakers and 1 < len(speakers) <= len(plots.COLOURS)
    return [one.speaker if few else "" for one in utterances]
