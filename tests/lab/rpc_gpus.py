"""GPUs of any size in a container: services of it, which a real llama-server reaches over RPC."""

import io
import json
import tarfile
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


def started(container: Container, number: int, mib: int) -> str:
    """Returns the address of a new GPU of this size, the service `fake-gpu-NUMBER`."""
    unit, said = f"fake-gpu-{number}", f"/run/fake-gpu-{number}"
    program = f"python3 -I -S {FAKE} {FOLDER}/ggml-rpc-server {mib} 0 >{said}"
    container.run(["systemd-run", f"--unit={unit}", "sh", "-c", f"tail -f /dev/null | {program}"])
    container.wait_until(lambda: container.exists(said) and b"port" in container.read(said), unit)
    return f"127.0.0.1:{json.loads(container.read(said))['port']}"
