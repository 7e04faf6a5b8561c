"""How long a GGUF header takes, as multiples of reading the same bytes: `python -m` this module.

The file is what a Qwen3-8B is to a reader: 151,936 tokens with types and scores, 151,387 merges,
399 tensors, and 5 GB of data that is a hole. All is in the page cache. Ratios are medians of the
ratios of rounds that are measured side by side, so that a slow spell of the machine hits both
sides. Each round reads once before the clock starts: the plain pread is as fast as it can be.
Times are CPU time of the process: nothing waits for a disk here, and neighbours do not count.
"""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from time import process_time

from magid.discovery.gguf_file import read_head, read_header
from magid.discovery.gguf_format import parse_header
from tests.support import gguf_bytes as raw

ROUNDS = 25
Q4_K, F32 = 12, 0
TARGET = 8.0  # times a plain pread of the header's bytes
_ORACLE = (
    "import sys, time; from gguf import GGUFReader; t = time.process_time(); "
    "GGUFReader(sys.argv[1]); print(time.process_time() - t)"
)


def qwen3_8b() -> list[tuple[str, tuple[int, ...], int]]:
    """Name, shape and type of each of the 399 tensors: 8,190,735,360 parameters."""
    wide, feed, heads, shared = 4096, 12_288, 128, 1024
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (wide,), "attn_q": (wide, wide), "attn_k": (wide, shared),
        "attn_v": (wide, shared), "attn_output": (wide, wide), "attn_q_norm": (heads,),
        "attn_k_norm": (heads,), "ffn_norm": (wide,), "ffn_gate": (wide, feed),
        "ffn_up": (wide, feed), "ffn_down": (feed, wide),
    }  # fmt: skip
    shapes = {"token_embd": (wide, 151_936), "output": (wide, 151_936), "output_norm": (wide,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(36) for name, shape in layer.items()}
    return [(f"{n}.weight", s, F32 if len(s) == 1 else Q4_K) for n, s in shapes.items()]


def write_model(path: Path) -> int:
    """Write the file, with a hole for its data; returns the bytes of its header."""
    infos, offset = [], 0
    for name, shape, kind in qwen3_8b():
        infos.append(raw.tensor(name, shape, kind, offset))
        elements = shape[0] * (shape[1] if len(shape) > 1 else 1)
        offset += elements * 4 if kind == F32 else elements // 256 * 144
    vocabulary = raw.vocabulary(Random(1), 151_936, 151_387)
    header = raw.padded(raw.header(raw.tokenizer_keys(vocabulary, behind=raw.ENDING), infos))
    path.write_bytes(header)
    os.truncate(path, len(header) + offset)
    return len(header)


def seconds(call: Callable[[], object]) -> float:
    start = process_time()
    call()
    return process_time() - start


def compare(base: Callable[[], object], other: Callable[[], object]) -> tuple[float, float, float]:
    """Median CPU seconds of both, and the median of their ratios."""
    rounds = []
    for _ in range(ROUNDS + 2):
        base()
        rounds.append((seconds(base), seconds(other)))
    bases, others = zip(*rounds[2:], strict=True)
    ratios = [late / early for early, late in rounds[2:]]
    return median(bases), median(others), median(ratios)


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        size = write_model(path)
        fd = os.open(path, os.O_RDONLY)
        try:
            report(path, size, fd)
        finally:
            os.close(fd)


def report(path: Path, size: int, fd: int) -> None:
    def plain() -> bytes:
        return os.pread(fd, size, 0)

    data, file_size = plain(), path.stat().st_size
    subjects: dict[str, Callable[[], object]] = {
        "read_header": lambda: read_header(path),
        "parse_header, every string walked": lambda: parse_header(data, file_size, exact=True),
        "read_head (16 KiB)": lambda: read_head(path),
    }
    print(f"header: {size:,} bytes, plain pread of it = 1; medians of {ROUNDS} rounds, warm")
    base = 0.0
    for name, subject in subjects.items():
        base, time, ratio = compare(plain, subject)
        target = f"  (target: <= {TARGET:g})" if subject is subjects["read_header"] else ""
        print(f"{name:34}{time * 1e3:10.2f} ms /{base * 1e3:6.2f} ms = {ratio:8.1f} x{target}")
    command = [sys.executable, "-c", _ORACLE, str(path)]
    slow = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    name = "gguf.GGUFReader, one run"
    print(f"{name:34}{slow * 1e3:10.2f} ms /{base * 1e3:6.2f} ms = {slow / base:8.0f} x")


if __name__ == "__main__":
    main()
