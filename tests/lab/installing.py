"""magid into a container: from the checkout, at the places where a package would put it."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.lab.container import Container
from tests.lab.trees import ROOT, load_program

_layout = load_program("layout")
LIBRARY: str = _layout.LIBRARY
UNITS: str = _layout.UNITS
Placed = _layout.Placed
placed = _layout.placed


def archive(files: Iterable[Any]) -> bytes:
    """A tar archive that unpacks at `/`, everything root's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.data), file.mode
            tar.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


# By the Python that it is for, and what it was made of: to unpack it takes a tenth of compiling.
_byte_code: dict[tuple[str, bytes], bytes] = {}
_PACK = f"cd /; find .{LIBRARY}/magid -name __pycache__ | tar -c -T - -f {{}}"


def _add_byte_code(container: Container, library: bytes) -> None:
    which = container.release.python, hashlib.sha256(library).digest()
    if which in _byte_code:
        container.run(["tar", "-x", "-C", "/"], input=_byte_code[which])
        return
    container.run(["python3", "-I", "-m", "compileall", "-q", f"{LIBRARY}/magid"])
    made = "/root/byte-code.tar"
    container.run(["sh", "-c", _PACK.format(made)])
    _byte_code[which] = container.read(made)
    container.run(["rm", made])


def install_magid(container: Container, checkout: Path = ROOT) -> None:
    """Put magid there, or its present version over an older one: what a package's upgrade does.

    Users and folders are made and systemd reads its units anew; nothing is enabled or started.
    What is in /etc is the administrator's: it is not replaced.
    """
    files = [
        file
        for file in placed(checkout)
        if not (file.path.startswith("/etc/") and container.exists(file.path))
    ]
    folders = [file.path for file in files if "/tmpfiles.d/" in file.path]
    container.run(["rm", "-rf", f"{LIBRARY}/magid"])
    container.run(["tar", "-x", "-C", "/", "--no-overwrite-dir"], input=archive(files))
    _add_byte_code(container, archive(f for f in files if f.path.startswith(LIBRARY)))
    container.run(["systemd-sysusers"])
    if folders:
        container.run(["systemd-tmpfiles", "--create", *folders])
    container.run(["journalctl", "--update-catalog"])
    container.systemctl("daemon-reload")
