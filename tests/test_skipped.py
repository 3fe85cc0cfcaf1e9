"""Unreadable training files: each counted once, too many of them refused."""

import pytest

from hybrid_pruning.config import DataConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.trainer import Skipped


def skipped(total: int, limit: float = 0.01) -> Skipped:
    return Skipped(DataConfig(train="train.tsv", dev="dev.tsv", skip_limit=limit), total)


def messages(count: int) -> list[str]:
    return [f"clips/{index}.flac: cannot be decoded" for index in range(count)]


def test_a_file_counts_once():
    found = skipped(1000)
    found.add(messages(2))
    found.add(["clips/1.flac: cannot be decoded (another reason, at another place)"])
    assert len(found) == 2
    assert found.messages() == messages(2)
    found.join()
    assert len(found) == 2


@pytest.mark.parametrize(("total", "limit", "allowed"), [(1000, 0.01, 10), (10, 0.01, 1), (10, 0.0, 1), (5, 1.0, 5)])
def test_more_than_allowed_are_refused(total: int, limit: float, allowed: int):
    found = skipped(total, limit)
    found.add(messages(allowed))
    expected = rf"train.tsv: {allowed + 1} of {total} .* data.skip_limit {limit:g} allows {allowed}; .* clips/{allowed}"
    with pytest.raises(InputError, match=expected):
        found.add(messages(allowed + 1))


def test_the_first_ten_are_reported():
    found = skipped(2000)
    found.add(messages(12))
    assert found.record() == {"skipped": {"files": 12, "first": messages(10)}}
    title, *lines, rest = found.explain()
    assert title == "12 of 2000 training files could not be read and were replaced by others:"
    assert [line.strip() for line in lines] == messages(10)
    assert rest.strip() == "and 2 more"
