"""Folders that cost minutes to make, made once: outside the checkout, by the first who needs them.

A layer is named after its recipe, so another recipe makes another layer and an unfinished one is
never seen. Those of old recipes stay: another checkout may run on them. Nothing but time is lost
when the whole folder is deleted while no container runs.
"""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class LabError(Exception):
    """Why the laboratory cannot do it, and what would help."""


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """MAGI_CACHE/lab, else ~/.cache/magi/lab."""
    cache = environment.get("MAGI_CACHE")
    return (Path(cache).absolute() if cache else Path.home() / ".cache" / "magi") / "lab"


def layer(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """The folder of this recipe; `build` fills an empty one first where there is none.

    Blocks for the build, also for one that another process is at. What a failed or killed one
    left is removed by the next.
    """
    path = home() / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if path.is_dir():
        return path
    with locked(home() / f"{name}.lock"):
        if not path.is_dir():
            work = home() / f"new-{name}"
            remove(work)
            work.mkdir()
            work.chmod(0o755)  # it becomes the `/` of containers, whatever the umask is
            build(work)
            work.rename(path)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; waits for its holder. The kernel lets go when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def contained(command: Sequence[str]) -> list[str]:
    """The command with mounts and processes of its own: none outlives it, even if it is killed."""
    return ["unshare", "--mount-proc", "--pid", "--fork", "--kill-child", "--", *command]


def remove(folder: Path) -> None:
    """Never goes into what is mounted below."""
    if folder.exists():
        output(["rm", "-rf", "--one-file-system", "--", str(folder)])


def output(command: Sequence[str], **options: str) -> str:
    """What a program that must not fail prints. `options` are standard input and folder."""
    done = subprocess.run(
        command,
        input=options.get("input", ""),
        cwd=options.get("cwd"),
        capture_output=True,
        text=True,
        errors="replace",
        umask=0o022,
        check=False,
    )
    if done.returncode != 0:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-15:])
        raise LabError(f"cannot go on: {command[0]} ended with {done.returncode}:\n{said}")
    return done.stdout
