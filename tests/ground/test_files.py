"""A file is there whole or not at all."""

import errno
import os
import re
import signal
import socket
import stat
import time

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import (
    LOCK,
    TEMPORARY,
    UNFINISHED,
    atomic_write,
    find_danger,
    hold,
    new_folder,
    remove_leftovers,
    require_new_folder,
    write_json,
)
from runs import another


@pytest.mark.parametrize(("mode", "old", "new"), [("w", "alt\n", "neu: é\n"), ("wb", b"alt", b"neu\r\n\x00")])
def test_a_block_that_ends_well_replaces_the_file(tmp_path, mode, old, new):
    path = tmp_path / "new" / "folder" / "file.txt"
    for content in (old, new):
        with atomic_write(path, mode) as handle:
            handle.write(content)
    expected = new if isinstance(new, bytes) else new.encode()
    assert path.read_bytes() == expected
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as handle:
            handle.write("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_when_it_is_whole_with_the_permissions_of_any_new_one(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as handle:
        handle.write("half")
        handle.flush()
        assert not (tmp_path / "atomic").exists()
    plain, atomic = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic"))
    assert atomic == plain


@pytest.mark.parametrize(("place", "message"), [("file/below", "cannot be written"), ("folder", "is a folder")])
def test_an_impossible_place_is_the_users_mistake(tmp_path, place, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{place}.*{message}"), atomic_write(tmp_path / place):
        pytest.fail("the block must not run: its result would be lost")
    assert len(list(tmp_path.iterdir())) == 2


def covered(error):
    """Raise the error that torch.save makes of a failed write."""
    try:
        raise error
    except OSError:
        raise RuntimeError("unexpected pos 768 vs 662")  # noqa: B904  as torch does


def plain(error):
    raise error


@pytest.mark.parametrize("fail", [plain, covered])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, fail):
    path = tmp_path / "file.txt"
    path.write_text("old")
    expected = r"file.txt: cannot be written \(No space left on device\); make room there, or choose another place"
    with pytest.raises(InputError, match=expected), atomic_write(path):
        fail(OSError(errno.ENOSPC, "No space left on device"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_other_kinds_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_write(tmp_path / "file.txt"):
        (tmp_path / "elsewhere").read_text()
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    for name in (".file.txt.k3x_9abc.tmp", ".hidden", "notes.tmp"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "notes.tmp"]


def test_a_new_folder_is_missing_or_empty(tmp_path):
    for name in ("empty", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / ".hidden").write_text("")
    for name in ("missing", "empty"):
        assert require_new_folder(str(tmp_path / name)) == tmp_path / name
    assert not (tmp_path / "missing").exists()
    for taken, message in (("folder", "is not empty"), ("folder/.hidden", "is a file")):
        with pytest.raises(InputError, match=message):
            require_new_folder(tmp_path / taken)


def test_a_folder_is_held_by_one_process_at_a_time_until_it_ends(tmp_path):
    folder = tmp_path / "job"
    with another("with hold('job'), hold('job'):", tmp_path) as process:
        holder = f"job: is in use by process {process.pid} on {re.escape(socket.gethostname())} since 20.*: -c; wait"
        with pytest.raises(InputError, match=holder), hold(folder):
            pytest.fail("two in one folder")
    assert require_new_folder(folder) == folder, "a lock is no content"


def test_a_folder_that_is_waited_for_is_held_when_the_other_process_ends(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "job"
    with another("with hold('job'):", tmp_path) as process:
        naps = []
        monkeypatch.setattr(time, "sleep", lambda seconds: naps.append(seconds) or len(naps) < 3 or end(process))
        with hold(folder, wait=True):
            assert (len(naps), process.returncode) == (3, -signal.SIGKILL)
    said = capsys.readouterr().out
    assert (said.count("waiting for"), f"job: waiting for process {process.pid} on " in said) == (1, True)


def end(process):
    process.kill()
    process.wait()


def test_a_folder_may_be_held_twice_by_its_process_and_is_left_as_it_was(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    with hold(folder), hold(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK]
    with hold(tmp_path / "new" / "job"):
        pass
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


def test_a_file_that_another_process_is_writing_stays(tmp_path):
    def temporary():
        return sorted(path.name for path in tmp_path.iterdir())

    with another("with atomic_write('a.txt') as handle:", tmp_path):
        remove_leftovers(tmp_path)
        with atomic_write(tmp_path / "a.txt") as handle:
            handle.write("ours")
        assert temporary() == [f".a.txt{TEMPORARY}", "a.txt"]
    assert temporary() == [f".a.txt{TEMPORARY}", "a.txt"], "killed"
    with atomic_write(tmp_path / "a.txt"):
        pass
    assert temporary() == ["a.txt"]


def test_a_new_folder_is_filled_whole(tmp_path):
    out = tmp_path / "new" / "model"
    with new_folder(out) as folder:
        (folder / "part").mkdir()
        for name in ("config.json", "part/config.json", "weights"):
            (folder / name).write_text(name)
        assert require_new_folder(out) == out
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == ["config.json", "part/config.json"]
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "part", "weights"]
    with pytest.raises(InputError, match="is not empty"), new_folder(out):
        pytest.fail("taken")


def test_a_folder_that_was_not_filled_counts_as_empty_and_keeps_other_files(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "a" / "b") as folder:
        (folder / "weights").write_bytes((folder / "missing").read_bytes())
    assert not list(tmp_path.iterdir())
    out = tmp_path / "model"
    (out / UNFINISHED / "part").mkdir(parents=True)  # as a kill leaves it, with the weights moved already
    (out / UNFINISHED / "part" / "x").write_text("old")
    (out / "weights").write_text("old")
    (out / "notes.txt").write_text("another")
    with pytest.raises(KeyboardInterrupt), new_folder(out):
        raise KeyboardInterrupt
    with new_folder(out) as folder:
        assert [path.name for path in folder.iterdir()] == [LOCK]
        (folder / "weights").write_text("new")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"notes.txt": "another", "weights": "new"}


@pytest.fixture
def closed_folder(tmp_path):
    """A folder that one may not look into; root, who may, becomes nobody."""
    if not hasattr(os, "geteuid"):
        pytest.skip("there are no such permissions on this system")
    folder, user = tmp_path / "closed", os.geteuid()
    folder.mkdir(mode=0o000)
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_a_folder_without_permission_is_named(closed_folder):
    expected = r"closed/new: cannot be written \(Permission denied\); make room there, or choose another place"
    with pytest.raises(InputError, match=expected):
        require_new_folder(closed_folder / "new")
    with pytest.raises(InputError, match=expected), atomic_write(closed_folder / "new"):
        pytest.fail("the block must not run: its result would be lost")


NAMES = {
    "None": ("a", "a.b", "id1/x/1.wav", "a..b", ".a", "...", "a b", "ü/ö", "-a", "~a", "a\N{NO-BREAK SPACE}"),
    "leads elsewhere": (
        *("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/./b", "a/../b", "\\a", "a\\..\\b", "c:a"),
    ),
    "holds control characters": (
        *("a\tb", "a\nb", "a\rb", "a\0b", "a\x1b[2J", "a\x7f", "a\x85b", "a\u2029b", "\udcff"),
    ),
}


@pytest.mark.parametrize("danger", NAMES)
def test_dangers_of_names(danger):
    for name in NAMES[danger]:
        assert danger in str(find_danger(name)), repr(name)


def test_json_has_no_infinity(tmp_path):
    for value in (float("nan"), float("inf"), [-float("inf")]):
        with pytest.raises(InputError, match="a figure in it is not finite"):
            write_json(tmp_path / "a.json", {"x": value})
    assert not list(tmp_path.iterdir())
