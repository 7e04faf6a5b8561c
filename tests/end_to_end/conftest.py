"""A daemon that each test starts itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import fake_llama, ggufs
from tests.support.running import Running

PROFILE = "name: Test\nenabled_models: ['*']\n"


@pytest.fixture
def magid(
    tmp_path: Path, free_port: Callable[[], int], free_ports: Callable[[int], int]
) -> Iterator[Running]:
    """A daemon with one model, whose server loads until the file `loaded` is there."""
    program = fake_llama.install(tmp_path / "bin", f"loading={tmp_path / 'loaded'}")
    low = free_ports(2)
    running = Running(tmp_path, port=free_port(), port_range=(low, low + 1), llama_server=program)
    running.configuration.write_text(f"port_range: [{low}, {low + 1}]\n")
    ggufs.write_sparse_model(running.models / "Alpha-1B-Q4_K_M.gguf", parameters_billions=1)
    (running.profiles / "test.yaml").write_text(PROFILE)
    with running.client:
        yield running
        if running.process is not None and running.process.poll() is None:
            running.kill()
