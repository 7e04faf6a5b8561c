"""How long scans take, as multiples of what cannot be avoided: `python -m` this module.

Small models stand for rescans, where only their number counts; headers of 7 MB (as of a Qwen3-8B,
over a hole) for first scans, and the first 16 KiB of one for first listings. Ratios are medians of
the ratios of rounds measured side by side, latencies medians of the rounds' quantiles: what else
the machine does shows in the line "at rest". "Cold" has the files' pages dropped first
(posix_fadvise), not the folders' and inodes'.
"""

import asyncio
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

from magid.discovery.gguf_file import HEAD_BYTES
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from tests.bench.bench_gguf import cpu, write_model
from tests.support import ggufs

MODELS = 1000
BIG_HEADERS = 300
THREADS = 2  # as many as the scanner has
ROUNDS = 15
COLD_ROUNDS = 3
LATENCY_ROUNDS = 5
RESCAN_TARGET = 3.0  # times a bare scandir + stat
P99_TARGET_MS = 20.0
_NAMES = ("Qwen3-{}B-Q4_K_M", "Llama-3.1-{}B-Instruct-Q6_K", "Mistral-{}B-v0.3-IQ4_XS")


def write_small(folder: Path) -> None:
    """MODELS files in 20 folders, each an inode of its own."""
    source = ggufs.write_chat_model(folder / "source", template=ggufs.TOGGLE_TEMPLATE)
    for number in range(MODELS):
        below = folder / f"publisher-{number % 20}"
        below.mkdir(exist_ok=True)
        shutil.copy(source, below / f"{_NAMES[number % 3].format(number)}.gguf")
    source.unlink()


def write_big(folder: Path, count: int, limit: int | None = None) -> int:
    """Files with the first `limit` bytes of a real header of 7 MB over a hole; returns its size."""
    first = folder / "Model-0B-Q4_K_M.gguf"
    size = write_model(first)
    with first.open("rb") as file:
        header = file.read(limit or size)
    for number in range(1, count):
        path = folder / f"Model-{number}B-Q4_K_M.gguf"
        path.write_bytes(header)
        os.truncate(path, first.stat().st_size)
    return size


def bare(folder: str) -> Iterator[os.stat_result]:
    """The least that a scan can do."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from bare(entry.path)
            else:
                yield entry.stat(follow_symlinks=False)


def pread_all(paths: list[str], size: int, threads: int) -> None:
    def one(path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.pread(fd, size, 0)
        finally:
            os.close(fd)

    with ThreadPoolExecutor(threads) as readers:
        list(readers.map(one, paths))


def drop_pages(paths: list[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def seconds(call: Callable[[], object]) -> float:
    """By the clock on the wall: readers are processes of their own."""
    start = perf_counter()
    call()
    return perf_counter() - start


def ratio(
    label: str, base: Callable[[], object], ours: Callable[[], object],
    *, rounds: int = ROUNDS, before: Callable[[], object] = lambda: None,
) -> float:  # fmt: skip
    """Measure the two in turn, print and return the median ratio."""
    pairs = []
    for number in range(rounds):
        took = {}
        order = (base, ours) if number % 2 else (ours, base)
        for call in order:
            before()
            took[call] = seconds(call)
        pairs.append((took[base], took[ours]))
    result = median(ours_s / base_s for base_s, ours_s in pairs)
    base_ms, ours_ms = (1000 * median(column) for column in zip(*pairs, strict=True))
    print(f"{label:44} {result:6.2f}x   {ours_ms:9.2f} ms beside {base_ms:9.2f} ms")
    return result


def rescans(folder: Path, cache: Path) -> None:
    """Unchanged files: in the same process, and by a new one that has the cache."""
    scanner = Scanner([folder], Thresholds(), cache)
    scanner.scan()
    met = "met" if ratio(
        f"rescan of {MODELS} unchanged / scandir + stat",
        lambda: list(bare(str(folder))),
        scanner.scan,
    ) <= RESCAN_TARGET else "MISSED"  # fmt: skip
    print(f"{'':44} target {RESCAN_TARGET}x: {met}")
    ratio(
        "after a restart: load the cache, then scan",
        lambda: list(bare(str(folder))),
        lambda: Scanner([folder], Thresholds(), cache).scan(),
    )
    ratio(
        "of these, loading the cache and looking",
        lambda: list(bare(str(folder))),
        lambda: Scanner([folder], Thresholds(), cache).first_listing(),
    )
    print(f"{'':44} the cache has {cache.stat().st_size >> 10} KiB")


def first_listings(folder: Path) -> None:
    paths = [str(path) for path in folder.rglob("*.gguf")]

    def listing() -> None:
        Scanner([folder], Thresholds(), None).first_listing()

    ratio(f"first listing / {MODELS} preads of 16 KiB, warm",
          lambda: pread_all(paths, HEAD_BYTES, THREADS), listing)  # fmt: skip
    ratio(f"first listing / {MODELS} preads of 16 KiB, cold",
          lambda: pread_all(paths, HEAD_BYTES, THREADS), listing,
          rounds=COLD_ROUNDS, before=lambda: drop_pages(paths))  # fmt: skip


def first_scans(folder: Path, header_bytes: int) -> None:
    paths = [str(path) for path in folder.rglob("*.gguf")]

    def scan() -> None:
        Scanner([folder], Thresholds(), None).scan()

    raw = lambda: pread_all(paths, header_bytes, THREADS)  # noqa: E731 - two words for a table
    label = f"first scan of {len(paths)} / pread of {header_bytes >> 20} MiB each"
    ratio(f"{label}, warm", raw, scan, rounds=COLD_ROUNDS)
    ratio(f"{label}, cold", raw, scan, rounds=COLD_ROUNDS, before=lambda: drop_pages(paths))


async def lateness(work: Callable[[], object] | None) -> list[float]:
    """How late (ms) a task of every millisecond is while `work` runs in a thread."""
    late = []
    running = asyncio.create_task(asyncio.to_thread(work or (lambda: sleep(1.0))))
    while not running.done():
        start = perf_counter()
        await asyncio.sleep(0.001)
        late.append(1000 * (perf_counter() - start) - 1.0)
    await running
    return late


def latencies(folder: Path) -> None:
    """What an event loop in the same process feels of a first scan."""
    cases: dict[str, Callable[[], object] | None] = {
        "at rest": None,
        "first scan": lambda: Scanner([folder], Thresholds(), None).scan(),
    }
    rounds: dict[str, list[tuple[float, float]]] = {label: [] for label in cases}
    for _ in range(LATENCY_ROUNDS):
        for label, work in cases.items():
            late = asyncio.run(lateness(work))
            rounds[label].append((median(late), quantiles(late, n=100)[98]))
    for label, pairs in rounds.items():
        p50, p99 = (median(column) for column in zip(*pairs, strict=True))
        print(f"event loop, 1 ms timer late, {label:15} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")
        if cases[label]:
            met = "met" if p99 < P99_TARGET_MS else "MISSED"
            print(f"{'':44} target p99 {P99_TARGET_MS} ms: {met}")


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="magid-bench-") as folder:
        small, heads, big = (Path(folder, name) for name in ("small", "heads", "big"))
        for below in (small, heads, big):
            below.mkdir()
        write_small(small)
        write_big(heads, MODELS, HEAD_BYTES)
        header_bytes = write_big(big, BIG_HEADERS)
        sleep(0.1)  # files that changed just now are not cached
        rescans(small, Path(folder, "cache.json"))
        first_listings(heads)
        first_scans(big, header_bytes)
        latencies(big)


if __name__ == "__main__":
    main()
