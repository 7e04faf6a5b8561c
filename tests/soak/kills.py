"""kill -9 at random instants of a program that writes the registry and profiles.

Each round forks a writer, which goes on from what it finds and says on a pipe what is acknowledged,
kills it some milliseconds after the fork or after its first write, and reads what is there: nothing
acknowledged may be lost, nothing unreadable. Run by itself, for a fork of few pages:
`python -m tests.soak.kills ROUNDS SEED FOLDER`.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magid.catalog.profile import Profile
from magid.catalog.profile_store import ProfileDir
from magid.errors import MagidError
from magid.files.document import Store
from tests.soak.figures import Figures

LONGEST_S = 0.02  # from the fork to the kill; a save takes 1 ms to 6
COUNTER = "Counter"

Write = Callable[[Path, Callable[[int], None]], None]


def number_in(document: Any) -> int:
    return int(document["n"])


def write_registry(folder: Path, acknowledge: Callable[[int], None]) -> None:
    store = Store(folder / "registry.json", ballast_bytes=0)
    number = store.load(number_in).value or 0
    while True:
        number += 1
        store.save({"n": number, "fill": "x" * (number * 997 % 30_000)})
        acknowledge(number)


def read_registry(folder: Path, figures: Figures) -> int:
    with figures.recovery():
        loaded = Store(folder / "registry.json", ballast_bytes=0).load(number_in)
    figures.check(not loaded.problems, f"registry: {loaded.problems}")
    figures.check(loaded.revision == (loaded.value or 0), "registry: a revision of another content")
    return loaded.value or 0


def profile_of(number: int) -> Profile:
    fill = "x" * (number * 97 % 400)
    return Profile(name=COUNTER, description=f"{number} {fill}", enabled_models=("*",))


def number_of(profile: Profile) -> int:
    return int(profile.description.split()[0])


def write_profile(folder: Path, acknowledge: Callable[[int], None]) -> None:
    profiles = ProfileDir(folder / "profiles")
    if "counter" not in profiles.list():
        profiles.create(profile_of(0))
    number = number_of(profiles.get("counter"))
    while True:
        number += 1
        profiles.replace("counter", profile_of(number), None)
        acknowledge(number)


def read_profile(folder: Path, figures: Figures) -> int:
    profiles = ProfileDir(folder / "profiles")
    with figures.recovery():
        names = profiles.list()
    figures.check(set(names) <= {"counter"}, f"profiles: left over: {names}")
    return number_of(profiles.get("counter")) if names else 0


def killed(write: Write, folder: Path, after_s: float, *, after_a_write: bool) -> int:
    """The last number that was acknowledged before the writer was killed; 0 if none was."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing of the parent may run on in here
        try:
            write(folder, lambda number: void(os.write(write_end, number.to_bytes(8, "big"))))
        finally:
            os._exit(1)
    os.close(write_end)
    said = os.read(read_end, 8) if after_a_write else b""
    time.sleep(after_s)  # waits for nothing: the kill comes at any moment
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(read_end, "rb") as pipe:
        said += pipe.read()
    whole = said[: len(said) // 8 * 8]
    return int.from_bytes(whole[-8:], "big")


def void(_: object) -> None:
    """For a callback whose result nobody wants."""


def run(rounds: int, seed: int, folder: Path) -> Figures:
    figures, dice = Figures("kill -9 of a writer", seed), random.Random(seed)
    (folder / "profiles").mkdir()
    last = {write_registry: 0, write_profile: 0}
    acknowledged = 0
    for figures.rounds in range(1, rounds + 1):
        write, read = dice.choice(((write_registry, read_registry), (write_profile, read_profile)))
        after_s, after_a_write = dice.uniform(0, LONGEST_S), dice.random() < 0.5
        said = killed(write, folder, after_s, after_a_write=after_a_write)
        acknowledged += max(said - last[write], 0)
        try:
            found = read(folder, figures)
        except (MagidError, OSError) as error:
            figures.failures.append(f"round {figures.rounds}: unreadable: {error}")
            continue
        figures.check(found >= max(said, last[write]), f"{said} was acknowledged, {found} is there")
        last[write] = found
    figures.more["acknowledged writes"] = acknowledged
    left = [name for name in os.listdir(folder) if "tmp" in name]  # noqa: PTH208 - names alone
    figures.check(not left, f"left over: {left}")
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))
