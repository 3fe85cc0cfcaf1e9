"""A stage is done once, again when what it was made from changes, and never left half done."""

from pathlib import Path

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.stages import Stage, bring_up_to_date, was_made_from


class Job:
    """Two stages, the second made from the first, that count how often they were done."""

    def __init__(self, folder: Path) -> None:
        self.out, self.source, self.done = folder / "out", folder / "source.txt", list[str]()
        self.source.write_text("one")
        self.settings = {"size": 1}
        self.broken = False

    def stages(self) -> list[Stage]:
        first = Stage("first", self.act("first"), (self.out / "first.txt",), self.settings, (self.source,))
        return [first, Stage("the second", self.act("the second"), (self.out / "the second.txt",), needs=(first,))]

    def act(self, name: str):
        def action() -> None:
            if self.broken and name == "the second":
                raise InputError("no more")
            self.done.append(name)
            self.out.mkdir(exist_ok=True)
            (self.out / f"{name}.txt").write_text(self.source.read_text())

        return action

    def run(self) -> list[str]:
        self.done.clear()
        bring_up_to_date(self.stages(), self.out)
        return list(self.done)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_all_is_done_once(job: Job, capsys: pytest.CaptureFixture[str]):
    assert job.run() == ["first", "the second"]
    assert capsys.readouterr().out == "first: working\nthe second: working\n"
    assert job.run() == []
    assert capsys.readouterr().out == "first: up to date\nthe second: up to date\n"


def test_a_change_is_followed_to_the_end(job: Job):
    job.run()
    job.source.write_text("two")
    assert was_made_from(job.stages()[0], job.out) is False
    assert job.run() == ["first", "the second"]
    job.settings = {"size": 2}
    assert job.run() == ["first", "the second"]
    assert was_made_from(job.stages()[0], job.out) is True


def test_content_counts_and_not_the_date(job: Job):
    job.run()
    job.source.write_text("one")
    assert job.run() == []


def test_what_is_missing_is_made_again(job: Job):
    job.run()
    (job.out / "the second.txt").unlink()
    assert job.run() == ["the second"]
    (job.out / "stages" / "first.json").write_text("{")
    assert job.run() == ["first"]


def test_what_was_done_before_a_failure_stays_done(job: Job):
    job.broken = True
    with pytest.raises(InputError, match="no more"):
        job.run()
    assert job.done == ["first"]
    assert was_made_from(job.stages()[1], job.out) is None
    job.broken = False
    assert job.run() == ["the second"]


def test_an_input_that_cannot_be_read(job: Job):
    job.source.unlink()
    with pytest.raises(InputError, match=r"source\.txt: cannot be read"):
        job.run()
    assert not job.out.exists()
