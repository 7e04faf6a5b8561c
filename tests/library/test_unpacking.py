"""Archives and folders that try to write elsewhere, or too much."""

import ctypes
import io
import os
import stat
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from magid.errors import InvalidInput
from magid.library.unpacking import copy_folder, unpack_archive

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def archive(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    made.seek(0)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "top" / "files"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_folders_and_links_within(folder: Path, mode: str) -> None:
    unpack_archive(
        archive(
            (member("build/lib.so", tarfile.SYMTYPE, linkname="lib.so.1"), b""),
            (member("./build/bin/llama-server", mode=0o6755), b"program"),
            (member("build/lib.so.1", mode=0o666), b"library"),
            (member("build/hard", tarfile.LNKTYPE, linkname="build/lib.so.1"), b""),
            (member("empty", tarfile.DIRTYPE), b""),
            mode=mode,
        ),
        folder,
    )
    program, library = folder / "build/bin/llama-server", folder / "build/lib.so.1"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert stat.S_IMODE(library.stat().st_mode) == 0o644
    assert (folder / "build/lib.so").read_bytes() == b"library"
    assert (folder / "build/hard").read_bytes() == b"library"
    assert (folder / "empty").is_dir()


HOSTILE: dict[str, Callable[[], io.BytesIO]] = {
    "does not stay within": lambda: archive((member("../outside"), b"x")),
    "'/tmp/outside' does not stay": lambda: archive((member("/tmp/outside"), b"x")),
    "'a/../../outside' does not": lambda: archive((member("a/../../outside"), b"x")),
    "the link a leads out of it, to '/etc'": lambda: archive(
        (member("a", tarfile.SYMTYPE, linkname="/etc"), b"")
    ),
    "the link b/a leads out of it, to '../../x'": lambda: archive(
        (member("b/a", tarfile.SYMTYPE, linkname="../../x"), b"")
    ),
    "the link c leads out of it, to 'x/../../y'": lambda: archive(
        (member("c", tarfile.SYMTYPE, linkname="x/../../y"), b"")
    ),
    "the link c leads out of it, to 'x/../e'": lambda: archive(
        (member("x", tarfile.SYMTYPE, linkname="."), b""),
        (member("c", tarfile.SYMTYPE, linkname="x/../e"), b""),
    ),
    "a/b is below a link": lambda: archive(
        (member("a", tarfile.SYMTYPE, linkname="."), b""),
        (member("a/b", tarfile.SYMTYPE, linkname="../e"), b""),
    ),
    "'../../etc/passwd' does not stay": lambda: archive(
        (member("d", tarfile.LNKTYPE, linkname="../../etc/passwd"), b"")
    ),
    "pipe is no file": lambda: archive((member("pipe", tarfile.FIFOTYPE), b"")),
    "disk is no file": lambda: archive((member("disk", tarfile.BLKTYPE, devmajor=8), b"")),
    "has x twice": lambda: archive((member("x"), b"1"), (member("x"), b"2")),
    "has y twice": lambda: archive(
        (member("y", tarfile.SYMTYPE, linkname="z"), b""), (member("y"), b"2")
    ),
    "too large together": lambda: archive((member("a"), b"x" * 600), (member("b"), b"x" * 600)),
    "no tar archive, or broken": lambda: io.BytesIO(b"PK\x03\x04" + b"x" * 600),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_hostile_archives(folder: Path, said: str) -> None:
    with pytest.raises(InvalidInput, match="cannot unpack it: ") as caught:
        unpack_archive(HOSTILE[said](), folder, max_bytes=1000)
    assert said in str(caught.value)
    assert sorted(folder.parent.iterdir()) == [folder]
    assert not Path("/tmp/outside").exists()


def test_a_link_redirects_no_file(folder: Path) -> None:
    """A file below a link is one below a folder of that name, which the link then finds taken."""
    outside = folder.parent / "outside"
    outside.mkdir()
    with pytest.raises((InvalidInput, OSError)):
        unpack_archive(
            archive(
                (member("a", tarfile.SYMTYPE, linkname="b"), b""),
                (member("a/x"), b"1"),
            ),
            folder,
        )
    assert not list(outside.iterdir())


def test_too_many_files(folder: Path) -> None:
    members = ((member(f"d{n}", tarfile.DIRTYPE), b"") for n in range(11))
    with pytest.raises(InvalidInput, match="more entries than 10"):
        unpack_archive(archive(*members), folder, max_entries=10)


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin/llama-server").write_text("x")
    (source / "bin/llama-server").chmod(0o4755)
    (source / "lib").symlink_to("bin")
    copy_folder(source, folder)
    assert stat.S_IMODE((folder / "bin/llama-server").stat().st_mode) == 0o755
    assert (folder / "lib").readlink() == Path("bin")
    (source / "out").symlink_to("/etc")
    with pytest.raises(InvalidInput, match="leads out"):
        copy_folder(source, tmp_path / "first")
    (source / "out").unlink()
    os.mkfifo(source / "pipe")
    with pytest.raises(InvalidInput, match="no file, folder or link"):
        copy_folder(source, tmp_path / "second")


def test_a_folder_that_its_owner_swaps_for_a_link_all_the_time(tmp_path: Path) -> None:
    """Whatever the moment: nothing of what the link leads to is copied, which root could read."""
    source, secret = tmp_path / "source", tmp_path / "secret"
    (source / "b").mkdir(parents=True)
    secret.mkdir()
    (secret / "key").write_text("secret")
    (tmp_path / "link").symlink_to(secret)
    exchange = ctypes.CDLL(None).renameat2
    names = os.fsencode(source / "b"), os.fsencode(tmp_path / "link")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(1000):
            target = tmp_path / f"copy-{number}"
            target.mkdir()
            with suppress(InvalidInput, OSError):
                copy_folder(source, target)
            assert not list(target.rglob("key"))
    finally:
        stop.set()
        swapper.join()
