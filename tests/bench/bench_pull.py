"""A download of 2 GiB over loopback against `curl` to the same disk; `python -m` this module.

Both get the file from the same hub, in a process of its own, in turns. curl writes and that is all;
magi-download hashes, makes durable, and checks. Its memory is the largest that it had resident.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter

from magid.library.source import ModelSource
from tests.support.hub import HubRepository, running_hub

SIZE = 2 << 30
ROUNDS = 3
SOURCE = ModelSource("org/Big", file="big-F16.gguf")


def serve(path: Path, tell: Connection) -> None:
    with running_hub({"org/Big": HubRepository({SOURCE.file: path})}) as hub:
        tell.send((hub.url, hub.repositories["org/Big"].commit))
        tell.recv()


def write(path: Path) -> None:
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(block)


def timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def curl(url: str, commit: str, target: Path) -> None:
    address = f"{url}/org/Big/resolve/{commit}/{SOURCE.file}"
    subprocess.run(
        ["curl", "--silent", "--fail", "--location", "--output", target, address], check=True
    )


def download(url: str, library: Path) -> int:
    """Returns the largest resident size, in bytes."""
    argv = [
        sys.executable, "-m", "magid.library.transfer", "run", f"--library={library}",
        f"--endpoint={url}", f"--repository={SOURCE.repository}", "--revision=main",
        f"--file={SOURCE.file}", "--reserve=0",
    ]  # fmt: skip
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "the download has failed"
    return used.ru_maxrss * 1024


def compare(folder: Path, url: str, commit: str) -> None:
    by_curl, by_magid, memory = [], [], 0
    library, target = folder / "library", folder / "curl.gguf"
    for _ in range(ROUNDS):
        by_curl.append(timed(lambda: curl(url, commit, target)))
        target.unlink()
        library.mkdir()
        began = perf_counter()
        memory = max(memory, download(url, library))
        by_magid.append(perf_counter() - began)
        subprocess.run(["rm", "-r", library], check=True)
    ratio = median(by_curl) / median(by_magid)
    print(f"2 GiB: curl {median(by_curl):.2f} s, magi-download {median(by_magid):.2f} s")
    print(f"throughput against curl: {ratio:.2f}x; resident at most {memory / 1e6:.0f} MB")


def main() -> None:
    # Not /tmp: it may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as made:
        folder = Path(made)
        write(folder / "source.gguf")
        here, there = multiprocessing.Pipe()
        hub = multiprocessing.Process(target=serve, args=(folder / "source.gguf", there))
        hub.start()
        try:
            compare(folder, *here.recv())
        finally:
            here.send(None)
            hub.join()


if __name__ == "__main__":
    main()
