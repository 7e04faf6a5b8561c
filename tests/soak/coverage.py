"""GGUF headers by atheris, which follows new paths through the reader: `... SECONDS SEED`.

atheris (libFuzzer for Python) is no part of the locks: `make soak` installs the pinned one, where
there is one for this Python.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.soak import headers


def main(seconds: int, seed: int) -> int:
    try:
        atheris = import_module("atheris")
    except ImportError:
        print("coverage: atheris is not installed for this Python; left out")
        return 0
    for name in ("magid.discovery.gguf_format", "magid.discovery.gguf_tensors"):
        _instrument(atheris.instrument_func, import_module(name))
    with TemporaryDirectory() as corpus:
        for number, pieces in enumerate(headers.seeds(headers.Dice(seed))):
            Path(corpus, str(number)).write_bytes(b"".join(pieces))
        options = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=70000", "-timeout=5"]
        atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=1024", corpus], look)
        atheris.Fuzz()
    return 0


def _instrument(instrument: Callable[[object], object], module: object) -> None:
    """Its functions, in place: the module may be imported already."""
    for name, value in list(vars(module).items()):
        own = getattr(value, "__module__", "") == getattr(module, "__name__", "")
        if own and hasattr(value, "__code__"):
            setattr(module, name, instrument(value))


def look(data: bytes) -> None:
    """An exception is what libFuzzer looks for."""
    if wrong := headers.problem(data, len(data)):
        raise AssertionError(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
