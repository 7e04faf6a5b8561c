"""Gives magid's own files back to user magi, for example after a backup with other user ids.

Root runs it before each start of magid, outside magid's sandbox and without arguments. User magi
owns the folders, so a name in them may be a link, or may change at any time. Therefore each file
is opened without following links, and its owner is changed by descriptor. Model files are left
alone: they may belong to any user and group.

Never fails: magid itself reports files that it cannot use.
"""

import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress

STATE = "/var/lib/magi"
USAGE = f"{STATE}/usage"
PROFILES = "/etc/magi/profiles"
STATE_FILES = re.compile(
    r"model_registry\.json.*|(?:tokens|header_cache|predictions|boot|downloads)\.json|magid\.lock"
)
USAGE_FILES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.json")
PROFILE_FILES = re.compile(r"[^.].*\.ya?ml")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = "/proc/sys/fs/protected_hardlinks"
_MAX_BYTES = 2**26  # of a file that is copied: a registry has some


def main() -> int:
    try:
        magi = pwd.getpwnam("magi")
    except KeyError:
        return 0  # systemd reports that itself
    with suppress(OSError):
        os.mkdir(STATE, 0o750)  # noqa: PTH102
    places = ((STATE, STATE_FILES), (USAGE, USAGE_FILES), (PROFILES, PROFILE_FILES))
    for folder, names in places:
        for line in adopt(folder, names, magi.pw_uid, magi.pw_gid):
            sys.stderr.write(f"{line}\n")
    return 0


def adopt(
    folder: str, names: re.Pattern[str], uid: int, gid: int, links: str = _LINKS
) -> Iterator[str]:
    """Gives the folder, and the files in it with these names, to the user. Yields lines to log.

    `links` is a file that says "1" where the kernel lets users link their own files only.
    """
    try:
        descriptor = os.open(folder, _FOLDER | _no_follow(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        yield f"cannot read {folder}: {error.strerror}"
        return
    try:
        yield from _given(descriptor, folder, uid, gid)
        for name in sorted(filter(names.fullmatch, os.listdir(descriptor))):  # noqa: PTH208
            yield from _adopt_file(descriptor, name, f"{folder}/{name}", uid, gid, links)
    finally:
        os.close(descriptor)


def _no_follow(folder: str) -> int:
    """Returns O_NOFOLLOW unless only root can have made the folder's name, which may be a link."""
    above = os.stat(os.path.dirname(folder))  # noqa: PTH116, PTH120
    is_roots = above.st_uid == 0 and not above.st_mode & 0o022
    return 0 if is_roots else os.O_NOFOLLOW


def _adopt_file(folder: int, name: str, path: str, uid: int, gid: int, links: str) -> Iterator[str]:
    try:
        # Looked at before it is opened: to open a device can do something.
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid == uid:
            return
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        yield f"cannot look at {path}: {error.strerror}"
        return
    try:
        if os.fstat(descriptor).st_nlink > 1 and not _are_protected(links):
            yield (
                f"cannot give {path} to magi: it has a hard link, and may be another user's file; "
                "set fs.protected_hardlinks to 1 with sysctl, then restart magid"
            )
        elif os.fstat(descriptor).st_nlink > 1:
            yield from _copied(folder, name, descriptor, path, uid, gid)
        else:
            yield from _given(descriptor, path, uid, gid)
    finally:
        os.close(descriptor)


def _are_protected(links: str) -> bool:
    """Whether a file with a hard link in magi's folders was magi's to read when it was made.

    Otherwise the user magi could link any file there, and would be given a copy of what it holds.
    """
    try:
        with open(links, encoding="ascii") as file:  # noqa: PTH123
            return file.read().strip() == "1"
    except OSError:
        return False


def _given(descriptor: int, path: str, uid: int, gid: int) -> Iterator[str]:
    status = os.fstat(descriptor)
    if status.st_uid == uid:
        return
    try:
        os.fchown(descriptor, uid, gid)
    except OSError as error:
        yield f"cannot give {path} to magi: {error.strerror}"
    else:
        yield f"gave {path} to magi: it belonged to user {status.st_uid}"


def _copied(
    folder: int, name: str, descriptor: int, path: str, uid: int, gid: int
) -> Iterator[str]:
    """Puts a copy that is magi's in the place of a file with several names.

    The registry and its newest copy may be one file. But another name may be another user's, who
    would lose the file to magi: the user magi can move what lies in its folders to any name.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        yield f"cannot give {path} to magi: it has a hard link, which may be another user's"
        return
    spare = f".{name}.adopted"
    try:
        with suppress(FileNotFoundError):
            os.unlink(spare, dir_fd=folder)
        with open(os.open(spare, _NEW, 0o600, dir_fd=folder), "wb") as file:  # noqa: PTH123
            file.write(os.pread(descriptor, _MAX_BYTES, 0))
            file.flush()
            os.fchmod(file.fileno(), status.st_mode & 0o666)
            os.fchown(file.fileno(), uid, gid)
            os.fsync(file.fileno())
            os.rename(spare, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        yield f"cannot give {path} to magi: {error.strerror}"
    else:
        yield f"gave a copy of {path} to magi: it belonged to user {status.st_uid}"


if __name__ == "__main__":
    sys.exit(main())
