"""Of a scoring that was cut off, whole lines are taken up, and by the same scoring alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import tiny_detector
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import fingerprint_model
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.engine import GroupResult
from hybrid_pruning.scoring.resume import Partial, fingerprint_manifest
from hybrid_pruning.tasks import Label

SETTINGS = {"model": "a", "batch_size": 4}
RESULTS = [GroupResult(3, {1: 0.1 + 0.2, 7: -1e-30}, {}), GroupResult(0, {}, {4: "x.wav: is\tbad"}, frozenset({2}))]


def fill(out: Path, *results: GroupResult) -> Path:
    with Partial(out, SETTINGS) as partial:
        for result in results or RESULTS:
            partial.add(result)
    return partial.folder


def left(out: Path, settings: dict[str, Any] = SETTINGS) -> list[GroupResult]:
    with Partial(out, settings) as partial:
        return partial.results()


def test_results_come_back_bit_for_bit(tmp_path: Path):
    fill(tmp_path / "new" / "scores.tsv")
    assert left(tmp_path / "new" / "scores.tsv") == RESULTS
    vector = np.array([0.1, -1e-30, 3e38], dtype=np.float32)
    fill(tmp_path / "e", GroupResult(0, {5: vector}, {}))
    ((index, found),) = left(tmp_path / "e")[0].values.items()
    assert (index, found.dtype, found.tolist()) == (5, np.float32, vector.tolist())


def test_a_line_that_was_cut_short_does_not_count(tmp_path: Path):
    out = tmp_path / "scores.tsv"
    (path,) = fill(out).glob("results-*")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in (*range(0, len(whole), 7), first - 2, first - 1, first, first + 1, len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        ended = size >= len(whole) - 1  # the line is all there, but for its end
        assert left(out) == (RESULTS if ended else RESULTS[:1] if size >= first - 1 else [])
    path.write_bytes(whole[: first + 5])
    fill(out, RESULTS[1])
    assert left(out) == RESULTS, "a new result stands on a line of its own"
    path.write_bytes(whole + b"\0\0\xff{}\nnull\n" + whole)
    assert left(out) == RESULTS * 2


@pytest.mark.parametrize("change", [{"model": "b"}, {"batch_size": 5}, {"window_seconds": 30.0}])
def test_another_scoring_starts_anew_with_a_notice(
    tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    folder = fill(tmp_path / "scores.tsv")
    assert left(tmp_path / "scores.tsv", SETTINGS | change) == []
    words = next(iter(change)).replace("_", " ")
    assert capsys.readouterr().out == f"{folder}: is of another {words}; starting anew\n"
    assert left(tmp_path / "scores.tsv") == [], "nor is the old one taken up later"
    fill(tmp_path / "scores.tsv")
    (folder / "settings.json").write_text(json.dumps(SETTINGS)[:-3])
    assert left(tmp_path / "scores.tsv") == [], "nor one without settings"


def test_lengths_are_measured_once(tmp_path: Path):
    measured = np.array([1.0, np.nan, 3.0])
    with Partial(tmp_path / "scores.tsv", SETTINGS) as partial:
        assert partial.lengths(lambda: (measured, {1: "bad"})) == (measured, {1: "bad"})
        again, failed = partial.lengths(lambda: pytest.fail("measured again"))
    np.testing.assert_array_equal(again, measured)
    assert failed == {}


def test_everything_is_removed_but_other_files(tmp_path: Path):
    for foreign in ([], ["notes.txt"]):
        folder = fill(tmp_path / "scores.tsv")
        for name in (".lengths.npy.123.tmp", *foreign):
            (folder / name).write_text("left by a kill, or the user's")
        with Partial(tmp_path / "scores.tsv", SETTINGS) as partial:
            partial.remove()
        assert [path.name for path in tmp_path.rglob("*")] == (["scores.tsv.partial", *foreign] if foreign else [])


def test_places_that_cannot_be_written_to_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="is a folder"):
        Partial(tmp_path, SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"scores\.tsv\.partial: cannot be written"):
        Partial(tmp_path / "file" / "scores.tsv", SETTINGS)


@pytest.mark.parametrize("change", ["weight", "classes", "nothing"])
def test_a_fingerprint_is_the_models_own(tmp_path: Path, change: str):
    model, other = tiny_detector(tmp_path), tiny_detector(tmp_path)
    if change == "weight":
        with torch.no_grad():
            next(other.parameters()).view(-1)[-1] += 1e-7
    elif change == "classes":
        other = SpeechModel(other.backbone, other.head, replace(other.classes, counts=(2, 1)), other.head_config)
        other.classifier = model.classifier
    assert (fingerprint_model(model) == fingerprint_model(other)) == (change == "nothing")


def test_a_manifests_fingerprint_is_of_its_files():
    utterances = [Utterance("a", Path("a.wav"), Label.SPOOF), Utterance("b", Path("b.wav"), Label.SPOOF)]
    same = [replace(utterances[0], label=Label.BONAFIDE, attack="A01"), utterances[1]]
    assert fingerprint_manifest(utterances) == fingerprint_manifest(same)
    others = [
        utterances[::-1],
        utterances[:1],
        [replace(utterances[0], seconds=1.0), utterances[1]],
        [replace(utterances[0], path=Path("c.wav")), utterances[1]],
        [replace(utterances[0], utt_id="c"), utterances[1]],
    ]
    assert len({fingerprint_manifest(one) for one in (utterances, *others)}) == 6
