"""A real mount that answers, or does not: a small file system of one folder of files, by FUSE.

    python hung_mount.py FOLDER [PID] < COMMANDS      FOLDER's files, mounted over FOLDER itself

With PID, FOLDER is what that process sees under this name: a container has no /dev/fuse.

Each line on stdin is a command: `hang` (requests are taken, which makes the waiting callers
unkillable, and not answered), `mute` (so with what opens and reads files, not with folders),
`thaw` (all of them are answered, and so are later ones). Each is acknowledged by a line on stdout.
At the end of the input everything that waits is let go.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ = 1, 2, 3, 5, 14, 15
STATFS, RELEASE, FLUSH, INIT, OPENDIR, READDIR = 17, 18, 25, 26, 27, 28
RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = 29, 34, 36, 42
SILENT = (FORGET, INTERRUPT, BATCH_FORGET)  # that get no answer
CONTENT = frozenset({OPEN, READ})
EVERYTHING = frozenset(range(100)) - {INIT}
HEADER = struct.Struct("<IIQQIIII")
MS_NOSUID_NODEV_RDONLY = 2 | 4 | 1
MNT_DETACH = 2
CLONE_NEWNS = 0x20000
ROOT = 1


class Files:
    """The contents of one folder, read before it is mounted over."""

    def __init__(self, folder: str) -> None:
        names = sorted(path.name for path in Path(folder).iterdir())
        paths = {number: Path(folder, name) for number, name in enumerate(names, start=ROOT + 1)}
        self.contents = {n: (path.name, path.read_bytes()) for n, path in paths.items()}
        self.modes = {n: path.stat().st_mode & 0o755 | 0o644 for n, path in paths.items()}

    def attributes(self, node: int) -> bytes:
        mode, size = stat.S_IFDIR | 0o755, 4096
        if node != ROOT:
            mode, size = stat.S_IFREG | self.modes[node], len(self.contents[node][1])
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0,
                           mode, 1, 0, 0, 0, 4096, 0)  # fmt: skip

    def entry(self, name: str) -> bytes:
        node = next((n for n, (known, _) in self.contents.items() if known == name), 0)
        if not node:
            raise OSError(errno.ENOENT, name)
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def listing(self, offset: int) -> bytes:
        if offset:
            return b""
        made = b""
        for number, (node, (name, _)) in enumerate(self.contents.items(), start=1):
            text = name.encode()
            made += struct.pack("<QQII", node, number, len(text), stat.S_IFREG >> 12) + text
            made += b"\0" * (-len(made) % 8)
        return made

    def read(self, node: int, offset: int, size: int) -> bytes:
        return self.contents[node][1][offset : offset + size]


def reply(files: Files, code: int, node: int, body: bytes) -> bytes:
    """Nothing is kept in the kernel's caches, so that every look asks. Raises OSError."""
    if code == INIT:
        _major, minor, ahead, _flags = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHHIIII4x16x", 7, min(minor, 31), ahead, 0, 8, 8, 1 << 17,
                           1, 0, 0, 0, 0, 0, 0)[:64]  # fmt: skip
    if code == LOOKUP:
        return files.entry(body.rstrip(b"\0").decode())
    if code == GETATTR:
        return struct.pack("<QII", 0, 0, 0) + files.attributes(node)
    if code in (OPEN, OPENDIR):
        return struct.pack("<QII", 0, 0, 0)  # the kernel forgets its pages with every open
    if code == READDIR:
        return files.listing(struct.unpack_from("<QQ", body)[1])
    if code == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return files.read(node, offset, size)
    if code == STATFS:
        return struct.pack("<QQQQQIII", 1, 0, 0, 1, 0, 4096, 255, 0).ljust(80, b"\0")
    if code in (RELEASE, RELEASEDIR, FLUSH, ACCESS):
        return b""
    raise OSError(errno.ENOSYS, "not here")


class Mount:
    def __init__(self, folder: str, within: str | None) -> None:
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        if within:
            _enter(within)
        self.files = Files(folder)
        self.folder = folder
        self.held: list[bytes] = []
        self.hangs: frozenset[int] = frozenset()
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other"
        _call("mount", b"hung", os.fsencode(folder), b"fuse", MS_NOSUID_NODEV_RDONLY,
              options.encode())  # fmt: skip

    def serve(self) -> None:
        poll = select.poll()
        for descriptor in (0, self.device):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.device:
                    with suppress(BlockingIOError):  # who asked was killed meanwhile
                        self.take(os.read(self.device, 1 << 18))
                elif not self.obey(os.read(0, 100).decode().split()):
                    return

    def obey(self, commands: list[str]) -> bool:
        for command in commands:
            self.hangs = {"hang": EVERYTHING, "mute": CONTENT}.get(command, frozenset())
            if not self.hangs:
                held, self.held = self.held, []
                for request in held:
                    self.take(request)
            say(command)
        return bool(commands)

    def take(self, request: bytes) -> None:
        _, code, unique, node, *_ = HEADER.unpack_from(request)
        if code in SILENT:
            return
        if code in self.hangs:
            self.held.append(request)
            return
        failed, body = 0, b""
        try:
            body = reply(self.files, code, node, request[HEADER.size :])
        except OSError as error:
            failed = -(error.errno or errno.EIO)
        try:
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), failed, unique) + body)
        except OSError as error:  # who asked was killed meanwhile
            if error.errno != errno.ENOENT:
                raise

    def close(self) -> None:
        """Whoever waits gets ENOTCONN when the device is closed."""
        os.close(self.device)
        _call("umount2", os.fsencode(self.folder), MNT_DETACH)


def _enter(process: str) -> None:
    root = os.open(f"/proc/{process}/root", os.O_PATH | os.O_CLOEXEC)
    mounts = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _call("setns", mounts, CLONE_NEWNS)
    os.fchdir(root)
    os.chroot(".")


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    mount = Mount(sys.argv[1], sys.argv[2] if sys.argv[2:] else None)
    say("mounted")
    try:
        mount.serve()
    finally:
        mount.close()


if __name__ == "__main__":
    main()
