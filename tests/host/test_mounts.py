"""Mounts near the model folders: which ones count, and that a change is noticed."""

import asyncio
import subprocess
import time
from pathlib import Path, PurePosixPath

import pytest

from magid.host.mounts import MountWatch, foreign_mounts, mount_on_the_way, mounts_at
from tests.support.deadlines import PATIENCE_S

TABLE = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 8:2 / /srv rw - ext4 /dev/sda2 rw
41 40 8:3 / /srv/models/big rw - xfs /dev/sdb1 rw
42 22 8:4 / /srv/my\040models rw - ext4 /dev/sdc1 rw
50 22 0:9 / /net rw - autofs systemd-1 rw
51 50 0:8 / /net rw - nfs4 server:/models rw
43 22 0:5 / /proc rw - proc proc rw
""".strip()


@pytest.mark.parametrize(
    ("folder", "points"),
    [
        ("/srv/models", {"/", "/srv", "/srv/models/big"}),
        ("/srv/models/big", {"/", "/srv", "/srv/models/big"}),
        ("/srv/models/big/", {"/", "/srv", "/srv/models/big"}),
        ("/srv/my models/x", {"/", "/srv", "/srv/my models"}),
        ("/srv/mode", {"/", "/srv"}),
        ("/var/lib/magi", {"/"}),
        ("/net/models", {"/"}),  # mounted on demand
    ],
)
def test_which_mounts_count(folder: str, points: set[str]) -> None:
    assert {point for *_, point in mounts_at(TABLE, [folder])} == points
    assert mounts_at("", [folder]) == mounts_at(TABLE, []) == frozenset()


FOREIGN = rf"""
{TABLE}
60 22 0:10 / /opt/share rw - fuse.sshfs host:/ rw
61 22 0:11 / /mnt/my\040nas rw - cifs //host/share rw
62 22 0:12 / /covered rw - nfs host:/ rw
63 62 8:9 / /covered rw - ext4 /dev/sdd1 rw
""".strip()
LINKS = {
    "/usr/local/bin/llama-server": "/opt/share/bin/llama-server",
    "/usr/bin/llama-server": "../../net/llama-server",
    "/usr/loop": "/usr/loop",
    "/home": "/srv",
}


def link(path: str) -> str | None:
    folders = ("/net", "/opt/share", "/mnt/my nas")
    assert not any(PurePosixPath(path).is_relative_to(folder) for folder in folders), "would hang"
    if path == "/srv/absent":
        raise FileNotFoundError(path)
    return LINKS.get(path)


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/srv/models/big/llama-server", None),
        ("/net/llama-server", "/net"),
        ("/opt/share/bin/llama-server", "/opt/share"),
        ("/opt/share", "/opt/share"),
        ("/opt/shared/llama-server", None),
        ("/mnt/my nas/llama-server", "/mnt/my nas"),
        ("/usr/local/bin/llama-server", "/opt/share"),
        ("/usr/bin/llama-server", "/net"),
        ("/usr/../net/x", "/net"),
        ("/usr/./x//y", None),
        ("/srv/../../opt/share/x", "/opt/share"),
        ("/home/x", None),
        ("/home/absent/../../net/x", None),  # the kernel ends there too
        ("/usr/loop/x", None),
        ("/covered/x", None),
        ("/", None),
    ],
)
def test_a_way_over_a_mount_that_may_hang(path: str, mount: str | None) -> None:
    assert mount_on_the_way(path, foreign_mounts(FOREIGN), link) == mount


async def test_a_mount_that_comes_and_goes_is_noticed(tmp_path: Path) -> None:
    folder, other = tmp_path / "models", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    changed = asyncio.Event()
    watch = MountWatch(lambda: [str(folder)], changed.set, pause_s=0.01)
    watch.open()
    try:
        for command in (["mount", "-t", "tmpfs", "magi-test"], ["umount"]):
            await asyncio.to_thread(subprocess.run, [*command, str(folder)], check=True)
            await asyncio.wait_for(changed.wait(), PATIENCE_S)
            changed.clear()
        await asyncio.to_thread(
            subprocess.run, ["mount", "-t", "tmpfs", "magi-test", str(other)], check=True
        )
        await asyncio.to_thread(subprocess.run, ["umount", str(other)], check=True)
        await asyncio.sleep(0.1)  # ten pauses
        assert not changed.is_set()
    finally:
        watch.close()
        watch.close()


async def test_many_changes_are_read_together(tmp_path: Path) -> None:
    """As when containers start: the table is long, and changes many times a second."""
    reads = 0

    def folders() -> list[str]:
        nonlocal reads
        reads += 1
        return [str(tmp_path)]

    changed = asyncio.Event()
    watch = MountWatch(folders, changed.set, pause_s=1.0)
    watch.open()
    try:
        script = "for i in 1 2 3 4 5; do mount -t tmpfs magi-test $0; umount $0; done; "
        script += "mount -t tmpfs magi-test $0"
        began = time.monotonic()
        await asyncio.to_thread(subprocess.run, ["sh", "-ec", script, str(tmp_path)], check=True)
        await asyncio.wait_for(changed.wait(), PATIENCE_S)
        took_s = time.monotonic() - began
    finally:
        watch.close()
        await asyncio.to_thread(subprocess.run, ["umount", str(tmp_path)], check=True)
    assert reads <= 2 + took_s
