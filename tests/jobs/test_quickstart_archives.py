"""Packages that would write, or lead, out of the folder they are unpacked in."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import remove_links_out_of
from hybrid_pruning.jobs.packages import unpack

FILE, LINK, HARD_LINK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
CONTROL = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


def pack(*entries: tuple[str, bytes, str]) -> bytes:
    """Return a tar of (name, type, content or target of the link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, value in entries:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == FILE:
                member.size = len(value)
            else:
                member.linkname = value
            archive.addfile(member, io.BytesIO(value.encode()))
    return buffer.getvalue()


def write_package(path: Path, *entries: tuple[str, bytes, str]) -> None:
    """Write a Debian package: an ar archive of a version and two tars."""
    members = {"debian-binary": b"2.0\n", "control.tar.gz": pack(("./control", FILE, CONTROL.decode()))}
    members["data.tar.gz"] = pack(*entries)
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """A folder for a package, with one beside it that nothing may be written to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


@needs_dpkg
@pytest.mark.parametrize(
    "entries",
    [
        (("../../outside/x", FILE, "x"),),
        (("./a", LINK, "../../../outside"), ("./a/x", FILE, "x")),
        (("./a", HARD_LINK, "/etc/hostname"),),
    ],
    ids=["a name that climbs", "a file through a link", "a hard link to the system"],
)
def test_packages_that_would_leave_the_folder_are_refused(staging: Path, entries: tuple[tuple[str, bytes, str], ...]):
    write_package(staging / "x.deb", ("./ok.ogg", FILE, "sound"), *entries)
    with pytest.raises(InputError, match="dpkg-deb failed"):
        unpack(staging, staging.parent / "target")
    assert not (staging.parent / "target").exists()
    assert not list((staging.parent / "outside").iterdir())


@needs_dpkg
def test_absolute_names_and_links_stay_within(staging: Path):
    absolute, sound = (f"{staging.parent}/outside/x", FILE, "x"), ("./a/b.ogg", FILE, "sound")
    write_package(staging / "x.deb", absolute, sound, ("./c.ogg", LINK, "a/b.ogg"), ("./d.ogg", LINK, "/etc/hostname"))
    unpack(staging, staging.parent / "target")
    assert not list((staging.parent / "outside").iterdir())
    assert {path.name: path.read_text() for path in (staging.parent / "target").glob("*.ogg")} == {"c.ogg": "sound"}


def test_only_links_that_stay_within_are_kept(tmp_path: Path):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_text("here")
    (tmp_path / "secret").write_text("there")
    links = {
        "good": "a/file",
        "good folder": "a",
        "a/good climb": "../a/file",
        "out": "../secret",
        "a/out": "../../secret",
        "absolute": str(tmp_path / "secret"),
        "through": "out",
        "nowhere": "missing",
        "circle": "circle",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    remove_links_out_of(folder)
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    assert kept == {"good", "good folder", "a/good climb"}
    assert (tmp_path / "secret").read_text() == "there"
