"""The same batches for any number of worker processes and at every call; workers end whole, or with a line."""

import ctypes
import errno
import faulthandler
import multiprocessing
import operator
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from corpus import SAMPLE_RATE_HZ, configure, noise, write_world
from hybrid_pruning.audio import read_audio
from hybrid_pruning.data.batches import ATTEMPTS, Batch, Crops, Example, collate
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.trainset import TrainSet, read_set
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

CROP = 1000


@pytest.fixture
def utterances(tmp_path):
    """Five clips: shorter than a crop, as long as one, and longer."""
    found = []
    for index, samples in enumerate((300, CROP, 1500, 4000, 2500)):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, noise(samples, seed=index), SAMPLE_RATE_HZ, subtype="FLOAT")
        found.append(Utterance(str(index), path, Label.SPOOF))
    return found


def crops(utterances, seed=0):
    return Crops(utterances, [index % 2 for index in range(len(utterances))], CROP, seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_a_function_of_seed_epoch_and_index(utterances, workers):
    addresses = [[(0, 4), (0, 3)], [(1, 3), (0, 0)], [(0, 3)]]
    first, second, third = work_in_processes(crops(utterances).load, addresses, workers)
    assert torch.equal(first.wave[1], third.wave[0]), "whatever was read before"
    assert not torch.equal(first.wave[1], second.wave[0]), "another epoch, another place"
    assert not torch.equal(first.wave[1], crops(utterances, seed=1)[0, 3].wave), "another seed, another place"
    alone = torch.stack([crops(utterances)[address].wave for address in addresses[0]])
    assert torch.equal(first.wave, alone), "in any process"
    assert first.target.tolist() == [0, 1]
    assert first.index.tolist() == [4, 3]
    assert first.lengths is None


def test_a_crop_is_a_piece_of_its_utterance_or_its_repetition(utterances):
    whole = torch.from_numpy(read_audio(utterances[3].path))
    pieces = whole.unfold(0, CROP, 1)
    starts = {int((pieces == crops(utterances)[epoch, 3].wave).all(1).nonzero().item()) for epoch in range(20)}
    assert len(starts) > 15
    assert max(starts) - min(starts) > 1500
    example, whole = crops(utterances)[0, 0], torch.from_numpy(read_audio(utterances[0].path))
    assert isinstance(example, Example)
    assert torch.equal(example.wave, whole.repeat(4)[:CROP])
    assert example.repeated == CROP - 300


def test_the_crop_of_an_unreadable_file_is_one_of_another_of_its_class(utterances):
    utterances[4].path.write_text("no audio")
    examples = [crops(utterances)[epoch, 4] for epoch in range(20)]
    assert all(isinstance(example, Example) for example in examples)
    assert {example.index for example in examples} == {0, 2}, "either of the class's others"
    assert {example.target for example in examples} == {0}
    assert all("4.wav: cannot be decoded" in message for example in examples for message in example.skipped)
    assert all(len(example.skipped) == 1 for example in examples)
    whole = torch.from_numpy(read_audio(utterances[2].path))
    one = next(example for example in examples if example.index == 2)
    assert (whole.unfold(0, CROP, 1) == one.wave).all(1).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_substitute_is_a_function_of_seed_epoch_and_index(utterances, workers):
    utterances[4].path.write_text("no audio")
    addresses = [[(epoch, 4), (epoch, 1)] for epoch in range(6)]
    found = list(work_in_processes(crops(utterances).load, addresses, workers))
    again = list(work_in_processes(crops(utterances).load, addresses[3:], 0))  # as a resumed run
    assert all(torch.equal(a.wave, b.wave) and a.skipped == b.skipped for a, b in zip(found[3:], again, strict=True))
    assert all(len(batch.skipped) == 1 for batch in found)
    alone = [crops(utterances)[address[0]] for address in addresses]
    assert [batch.index[0] for batch in found] == [example.index for example in alone]
    others = [crops(utterances, seed=1)[epoch, 4].index for epoch in range(6)]
    assert others != [example.index for example in alone]


def test_a_class_of_which_nothing_can_be_read_stops_after_a_few_attempts(utterances, monkeypatch):
    for index in (1, 3):
        utterances[index].path.write_text("no audio")
    with pytest.raises(InputError, match=r"[13]\.wav: cannot be decoded"):
        list(work_in_processes(crops(utterances).load, [[(0, 1)]], 0))
    with pytest.raises(InputError, match=r"1\.wav: cannot be decoded"):  # nothing can stand in for the only one
        list(work_in_processes(Crops(utterances[1:2], [0], CROP, 0).load, [[(0, 0)]], 1))
    tried = []

    def fail(path):
        tried.append(path)
        raise InputError(f"{path}: no")

    monkeypatch.setattr("hybrid_pruning.data.batches.AudioFile", fail)
    with pytest.raises(InputError, match="no"):
        crops(utterances)[0, 0]
    assert len(tried) == ATTEMPTS
    assert {path.name for path in tried} == {"0.wav", "2.wav", "4.wav"}, "not the same again and again"


def test_another_duration_than_the_manifests_is_a_fault(utterances):
    utterances[3] = replace(utterances[3], seconds=0.25)  # as it is
    utterances[4] = replace(utterances[4], seconds=4000 / SAMPLE_RATE_HZ + 0.2)
    fine, wrong = (crops(utterances)[0, index] for index in (3, 4))
    assert not fine.skipped
    assert "4.wav: lasts 0.156 s, its manifest says 0.450" in wrong.skipped[0]


def test_padding_is_zeros_or_repetitions_and_counted(utterances):
    cropped = collate([crops(utterances)[0, index] for index in (0, 1, 3)])
    assert cropped.padding == pytest.approx(700 / 3000)
    uneven = collate([Example(torch.ones(400), 0, 0, repeated=100), Example(torch.ones(4000), 0, 1)])
    assert uneven.padding == pytest.approx((3600 + 100) / 8000)
    assert collate([crops(utterances)[0, 3]]).padding == 0
    batch = collate([Example(torch.ones(2), 1, 7), Example(torch.ones(4), 0, 3)])
    assert batch.wave.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert (batch.lengths.tolist(), batch.target.tolist(), batch.index.tolist()) == ([2, 4], [1, 0], [7, 3])


@pytest.mark.parametrize("lengths", [None, torch.arange(5)])
@pytest.mark.parametrize(("parts", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (5, [1] * 5), (9, [1] * 5)])
def test_split_keeps_every_row_once(lengths, parts, sizes):
    batch = Batch(torch.randn(5, 8), lengths, torch.arange(5) % 2, torch.arange(5), 0.25, ("a.wav: bad", "b.wav: bad"))
    found = batch.split(parts)
    assert [message for part in found for message in part.skipped] == list(batch.skipped)
    assert {part.padding for part in found} == {0.25}
    assert [len(part.wave) for part in found] == sizes
    for name in ("wave", "target", "index", "lengths"):
        columns, whole = [getattr(part, name) for part in found], getattr(batch, name)
        assert columns == [None] * len(found) if whole is None else torch.equal(torch.cat(columns), whole)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.wave, batch.wave)
    assert (moved.padding, moved.skipped) == (batch.padding, batch.skipped)


LARGE = 300_000


def square(item):
    return item * item


def pack(item):
    return torch.full((LARGE,), float(item)), {"a": np.arange(item), "two": np.ones((3, 2), np.float32).T}


@pytest.mark.parametrize(("workers", "count"), [(0, 7), (1, 0), (1, 1), (3, 7), (9, 7)])
def test_results_come_in_order(workers, count):
    assert list(work_in_processes(square, range(count), workers)) == [square(item) for item in range(count)]


def test_workers_need_not_be_forked():
    assert list(work_in_processes(operator.neg, range(3), 1, "spawn")) == [0, -1, -2]


def test_tensors_and_arrays_arrive_whole_and_may_be_written_to():
    for item, (tensor, arrays) in enumerate(work_in_processes(pack, range(4), 2, "fork")):
        assert torch.equal(tensor, pack(item)[0])
        assert arrays["a"].tolist() == list(range(item))
        assert arrays["two"].shape == (2, 3)
        tensor.add_(1)
        arrays["two"] += 1


def test_work_that_nobody_waits_for_any_more_ends():
    results = work_in_processes(pack, range(100), 2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


ENDINGS = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed by signal 9 \(Killed\)"),
    "terminated": (lambda: os.kill(os.getpid(), signal.SIGTERM), r"was killed by signal 15 \(Terminated\)"),
    "a fault of a library": (lambda: ctypes.string_at(0), r"was killed by signal 11 \(Segmentation fault\)"),
    "aborted": (os.abort, r"was killed by signal 6 \(Aborted\)"),
    "left": (lambda: os._exit(3), "ended with exit code 3"),
    "left in good order": (lambda: sys.exit(0), "ended with exit code 0"),
    "out of memory": (lambda: np.empty(2**62, np.uint8), "ran out of memory"),
}


@pytest.mark.parametrize(("how", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_a_worker_that_dies_ends_the_work_with_a_line(how, expected):
    faulthandler.disable()  # pytest's, whose traceback is not needed

    def die(item):
        if item == 3:
            how()
        return pack(item)

    results = work_in_processes(die, range(8), 2, "fork")
    assert [len(next(results)[0]) for _ in range(3)] == [LARGE] * 3
    with pytest.raises(InputError, match=rf"^a worker process {expected}; .* goes on with --resume$"):
        next(results)


def test_an_error_of_the_action_is_raised():
    def fail(item):
        raise BrokenPipeError("its own") if item else InputError("wave.wav: cannot be decoded")

    with pytest.raises(InputError, match=r"^wave.wav: cannot be decoded$"):
        list(work_in_processes(fail, range(2), 2, "fork"))
    with pytest.raises(RuntimeError, match="BrokenPipeError: its own") as caught:
        list(work_in_processes(fail, [1], 1, "fork"))
    assert "in fail" in caught.value.__notes__[0]


def test_workers_that_cannot_be_started_are_a_line(monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(InputError, match=r"9 worker processes cannot be started .*temporarily unavailable"):
        list(work_in_processes(square, range(9), 9, "fork"))


FULL = "dd if=/dev/zero of=/dev/shm/full bs=4k"
FILL = f"mount --make-rprivate / && mount -t tmpfs -o size=64k tmpfs /dev/shm && ! {FULL} 2>/dev/null"
NEW_MOUNTS, IMPOSSIBLE = 0x20000, 77


def test_training_data_needs_no_shared_memory(tmp_path, capfd):
    """Docker gives 64 MB, here not a byte is left."""
    config = configure(write_world(tmp_path), data__workers=2)

    def load():
        if ctypes.CDLL(None).unshare(NEW_MOUNTS) or os.system(FILL):
            os._exit(IMPOSSIBLE)
        batches = TrainSet(read_set(config.data.train), config).batches(0)
        os._exit(0 if sum(len(batch.wave) for batch in batches) == 24 else 1)

    child = multiprocessing.get_context("fork").Process(target=load)
    child.start()
    child.join(60)
    if child.exitcode == IMPOSSIBLE:
        pytest.skip("a file system cannot be mounted here")
    assert (child.exitcode, *capfd.readouterr()) == (0, "", "")
