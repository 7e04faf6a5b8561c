"""A daemon for soaks that need one: real servers, folders of its own."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import _free_port, _free_range
from tests.support import fleets
from tests.support.rest import Parts
from tests.support.running import ROOT, Running


def parts() -> Parts:
    provision = str(ROOT / "packaging" / "provision-llama-server")
    found = subprocess.run([provision], capture_output=True, text=True, check=True)
    return Parts(Path(found.stdout.strip()), _free_port, _free_range)


@contextmanager
def daemon(
    folder: Path, write_models: Callable[[Path], None], given: Parts | None = None
) -> Iterator[Running]:
    """Ready; ended behind the block."""
    with fleets.fleet(given or parts(), folder, write_models) as running:
        yield running
