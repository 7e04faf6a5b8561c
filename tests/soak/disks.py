"""Disks that are full, out of inodes, read-only: real ones, in a mount namespace of their own.

`python -m tests.soak.disks SEED FOLDER` as root of a namespace (`unshare --mount`).
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from magid.catalog.profile import Profile
from magid.catalog.profile_store import ProfileDir
from magid.errors import CannotWrite, MagidError
from magid.files.document import Store
from tests.soak.figures import Figures
from tests.soak.kills import number_in

SIZE = 64 * 1024


def mounted(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def remounted(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def refused(write: Callable[[], object]) -> str:
    """With which error the system refused it; "" if it did not."""
    try:
        write()
    except CannotWrite as error:
        return str(error.details.get("errno"))
    return ""


def is_there(folder: Path, number: int, figures: Figures, what: str) -> None:
    with figures.recovery():
        loaded = Store(folder / "registry.json", ballast_bytes=4096).load(number_in)
    figures.check(
        (loaded.value, loaded.problems) == (number, ()),
        f"{what}: {number} was acknowledged; {loaded.value} is there, {loaded.problems}",
    )


def fill_up(folder: Path, figures: Figures, dice: random.Random) -> None:
    """Ever larger registries until no more fits; a smaller one must fit again."""
    store = Store(folder / "registry.json", generations=2, ballast_bytes=4096)
    store.load(number_in)
    number, size, full = 0, 100, 0
    while not full:
        figures.rounds += 1
        wanted = {"n": number + 1, "fill": "x" * size}
        why = refused(partial(store.save, wanted))
        figures.check(why in ("", "ENOSPC"), f"full: refused with {why}")
        number, full = (number, 1) if why else (number + 1, 0)
        is_there(folder, number, figures, "full")
        size += dice.randint(500, 3000)
    figures.check(
        not refused(lambda: store.save({"n": number + 1})), "full: a small one is refused"
    )
    is_there(folder, number + 1, figures, "full, and then a small one")


def fill_with_profiles(folder: Path, figures: Figures) -> None:
    """Profiles until no more fits: all that were acknowledged can be read, no half one is there."""
    profiles, made, why = ProfileDir(folder), list[str](), ""
    one = Profile(name="p0", description="x" * 400)
    while not (why := refused(partial(profiles.create, one))):
        figures.rounds += 1
        made.append(one.name)
        one = replace(one, name=f"p{len(made)}")
    figures.check(why == "ENOSPC", f"profiles: refused with {why}")
    readable_profiles(folder, made, figures)
    figures.check(bool(refused(lambda: profiles.create(one))), "profiles: there is room again")
    profiles.delete(made.pop())
    figures.check(not refused(lambda: profiles.create(one)), "profiles: no room behind a deletion")
    readable_profiles(folder, [*made, one.name], figures)


def readable_profiles(folder: Path, names: list[str], figures: Figures) -> None:
    found = ProfileDir(folder)
    figures.check(found.list() == sorted(names), f"profiles: {found.list()} are there")
    for name in names:
        try:
            found.get(name)
        except MagidError as error:
            figures.failures.append(f"profiles: unreadable: {error.message}")
    left = [n for n in os.listdir(folder) if n.startswith(".")]  # noqa: PTH208 - names alone
    figures.check(not left, f"profiles: left over: {left}")


def read_only(folder: Path, figures: Figures) -> None:
    store = Store(folder / "registry.json", ballast_bytes=0)
    number = store.save({"n": 1})
    profiles = ProfileDir(folder / "profiles")
    profiles.path.mkdir()
    profiles.create(Profile(name="one"))
    remounted(folder, "ro")
    figures.rounds += 1
    for write in (
        lambda: store.save({"n": number + 1}),
        lambda: profiles.create(Profile(name="two")),
        lambda: profiles.replace("one", Profile(name="one", description="x"), None),
        lambda: profiles.delete("one"),
    ):
        figures.check(refused(write) == "EROFS", "read-only: a write was not refused as such")
    is_there(folder, number, figures, "read-only")
    readable_profiles(profiles.path, ["one"], figures)
    remounted(folder, "rw")
    figures.check(not refused(lambda: store.save({"n": number + 1})), "writable again: refused")
    is_there(folder, number + 1, figures, "writable again")


def no_inodes(folder: Path, figures: Figures) -> None:
    """Room for bytes, and for no file: each save needs a new one."""
    store = Store(folder / "registry.json", ballast_bytes=0)
    store.save({"n": 1})
    names = [folder / f"filler{n}" for n in range(50)]
    made = [name for name in names if not refused_touch(name)]
    figures.rounds += 1
    figures.check(len(made) < len(names), "inodes: they were not used up")
    figures.check(refused(lambda: store.save({"n": 2})) == "ENOSPC", "inodes: not refused as such")
    is_there(folder, 1, figures, "no inodes")
    made[0].unlink()
    made[1].unlink()
    figures.check(not refused(lambda: store.save({"n": 3})), "inodes: refused with two free ones")
    is_there(folder, 3, figures, "inodes again")


def refused_touch(path: Path) -> bool:
    try:
        path.touch()
    except OSError:
        return True
    return False


def run(seed: int, folder: Path) -> Figures:
    figures, dice = Figures("full and read-only disks", seed), random.Random(seed)
    for name, options in (
        ("registry", f"size={SIZE}"), ("profiles", f"size={SIZE}"),
        ("read-only", "size=1m"), ("inodes", "size=1m,nr_inodes=12"),
    ):  # fmt: skip
        (folder / name).mkdir()
        mounted(folder / name, options)
    fill_up(folder / "registry", figures, dice)
    fill_with_profiles(folder / "profiles", figures)
    read_only(folder / "read-only", figures)
    no_inodes(folder / "inodes", figures)
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[1]), Path(sys.argv[2]))
    print(done.line())
    sys.exit(bool(done.failures))
