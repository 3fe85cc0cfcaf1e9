"""A step is done once, again when its inputs change, and never left half done."""

from pathlib import Path

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.steps import Step, bring_up_to_date


class Job:
    """Two steps, the second made from the first, that count how often they were done."""

    def __init__(self, folder: Path) -> None:
        self.out, self.source, self.done = folder / "out", folder / "source.txt", list[str]()
        self.source.write_text("one")
        self.settings = {"size": 1}
        self.broken = False

    def steps(self) -> list[Step]:
        first = Step("first", self.act("first"), (self.out / "first.txt",), self.settings, (self.source,))
        return [first, Step("the second", self.act("the second"), (self.out / "the second.txt",), needs=(first,))]

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
        bring_up_to_date(self.steps(), self.out)
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
    assert job.run() == ["first", "the second"]
    job.settings = {"size": 2}
    assert job.run() == ["first", "the second"]
    first = job.steps()[0]
    assert first.last_fingerprint(job.out) == first.fingerprint()


def test_a_missing_result_is_made_again_and_a_new_date_changes_nothing(job: Job):
    job.run()
    job.source.write_text("one")
    assert job.run() == []
    (job.out / "the second.txt").unlink()
    assert job.run() == ["the second"]
    (job.out / "stages" / "first.json").write_text("{")
    assert job.run() == ["first"]


def test_steps_before_a_failure_stay_done(job: Job):
    job.broken = True
    with pytest.raises(InputError, match="no more"):
        job.run()
    assert job.done == ["first"]
    assert job.steps()[1].last_fingerprint(job.out) is None
    job.broken = False
    assert job.run() == ["the second"]


def test_an_input_that_cannot_be_read(job: Job):
    job.source.unlink()
    with pytest.raises(InputError, match=r"source\.txt: cannot be read"):
        job.run()
    assert not job.out.exists()
