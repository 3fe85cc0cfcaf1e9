"""Trials of a corpus: official lists written anew under the names of the manifests, and lists of our own by chance."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from hybrid_pruning.data.corpora.preparation import FIRST, Options, Prepared
from hybrid_pruning.errors import InputError

COLUMNS = ("enrol", "test", "label")
"""Of speaker verification's key files, as `evaluate --sv` reads them."""
TARGET, NONTARGET = "target", "nontarget"
LABELS = {"1": TARGET, "0": NONTARGET}
LIMIT = 10_000
"""Target trials drawn for a dev set at most, and as many nontarget ones: more of few speakers tell little more."""

Trial = tuple[str, ...]


class Copying(NamedTuple):
    """An official list of trials that is written anew.

    Args:
        path: the list.
        unknown: what a trial names that is not known, for people.
        advice: what to do then.
        official: how many trials the releases of the list have; others are a warning, none here asks for nothing.
    """

    path: Path
    unknown: str
    advice: str
    official: Sequence[int] = ()


def copy_trials(
    copying: Copying,
    trials: Iterable[tuple[Trial, bool]],
    write: Callable[[Trial], None],
    prepared: Prepared,
    options: Options,
) -> None:
    """Write the trials of a list that are known.

    Args:
        copying: where they come from.
        trials: cells of each, and whether what it names is there.
        write: takes those that are known.
        prepared: what was written before; warnings are added to it.
        options: with `allow_missing`, trials that name what is not there are left out.

    Raises:
        InputError: one names what is not there, or the list is empty.
    """
    listed, unknown, first = 0, 0, list[str]()
    for cells, known in trials:
        listed += 1
        if known:
            write(cells)
            continue
        unknown += 1
        if len(first) < FIRST:
            first.append(" ".join(cells[:2]))
    message = f"{copying.path}: {unknown:,} of {listed:,} trials name {copying.unknown}, first {', '.join(first)}"
    if not listed:
        raise InputError(f"{copying.path}: no trials; is the file whole?")
    if unknown and not options.allow_missing:
        raise InputError(f"{message}; {copying.advice}")
    if unknown:
        prepared.warnings.append(f"{message}; left out")
    if copying.official and listed not in copying.official:
        expected = " or ".join(f"{count:,}" for count in copying.official)
        prepared.warnings.append(f"{copying.path}: expected {expected} trials, as released, found {listed:,}")


def draw_trials(speech: Sequence[tuple[str, str]], seed: int, limit: int = LIMIT) -> list[Trial]:
    """Return target trials, all pairs of a speaker's utterances or `limit` of them, and as many nontarget ones.

    Args:
        speech: (speaker, utt_id) of each utterance, a speaker's side by side.
        seed: of the choice, in which every pair is as likely as any other.
        limit: of either kind.

    Returns:
        (enrol, test, label), in the order of the utterances, the target trials first.
    """
    ends: dict[str, int] = {speaker: index for index, (speaker, _) in enumerate(speech, start=1)}
    rng = random.Random(seed)
    own = [range(index + 1, ends[speaker]) for index, (speaker, _) in enumerate(speech)]
    others = [range(ends[speaker], len(speech)) for speaker, _ in speech]
    targets = list(_draw_pairs(own, limit, rng))
    kinds = ((TARGET, targets), (NONTARGET, _draw_pairs(others, len(targets), rng)))
    return [(speech[enrol][1], speech[test][1], label) for label, pairs in kinds for enrol, test in pairs]


def _draw_pairs(partners: Sequence[range], limit: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Yield up to `limit` different pairs of an index and one of its partners, every pair as likely as any other."""
    ends = list(accumulate(map(len, partners)))
    total = ends[-1] if ends else 0
    for place in sorted(rng.sample(range(total), min(limit, total))):
        index = bisect_right(ends, place)
        yield index, partners[index][place - ends[index]]  # counted from its end
