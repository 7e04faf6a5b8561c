"""GPUs of any size in a container: services of it, which a real llama-server reaches over RPC."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.container import Container
from tests.support import fake_gpu

FOLDER: Final = "/opt/llama-rpc"
PROGRAM: Final = f"{FOLDER}/llama-server"
FAKE: Final = "/opt/fake_gpu.py"


def unpack(container: Container, llama_server_with_rpc: Path) -> None:
    """That llama-server with what it needs, at PROGRAM, and the program of the GPUs."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        made.add(llama_server_with_rpc.parent, FOLDER.lstrip("/"))
    container.run(["tar", "-C", "/", "-xf", "-"], input=archive.getvalue())
    container.write(FAKE, Path(fake_gpu.__file__).read_bytes())


@dataclass(frozen=True, slots=True)
class RemoteGpu:
    """A running one: the service `fake-gpu-NUMBER`."""

    container: Container
    number: int
    address: str

    def use(self, mib: int) -> None:
        """From now on other programs hold so much."""
        self._ask(f'{{"used": {mib}}}')

    def hide(self, mib: int) -> None:
        """From now on so much less can be allocated than it says is free."""
        self._ask(f'{{"hidden": {mib}}}')

    def keep(self, *, keeps: bool) -> None:
        """From now on memory comes back, or does not, when a server ends."""
        self._ask(json.dumps({"keeps": keeps}))

    def _ask(self, question: str) -> None:
        said = f"/run/fake-gpu-{self.number}"
        before = len(self.container.read(said))
        self.container.run(["sh", "-c", 'echo "$0" >>"$1"', question, f"{said}.asked"])
        self.container.wait_until(
            lambda: len(self.container.read(said)) > before, f"an answer to {question}"
        )


def started(container: Container, number: int, mib: int) -> RemoteGpu:
    """Returns a new GPU of this size."""
    unit = f"fake-gpu-{number}"
    said = f"/run/{unit}"
    container.write(f"{said}.asked", "")
    program = f"python3 -I -S {FAKE} {FOLDER}/ggml-rpc-server {mib} 0 >{said}"
    script = f"tail -n +1 -f {said}.asked | {program}"
    container.run(["systemd-run", f"--unit={unit}", "sh", "-c", script])
    container.wait_until(lambda: container.exists(said) and b"port" in container.read(said), unit)
    port = json.loads(container.read(said).splitlines()[0])["port"]
    return RemoteGpu(container, number, f"127.0.0.1:{port}")
