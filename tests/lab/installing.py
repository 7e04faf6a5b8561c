"""magid into a container: from the checkout, at the places where a package would put it."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.container import Container
from tests.lab.trees import ROOT, VENDOR

LIBRARY = "/usr/lib/magi"
UNITS = "/usr/lib/systemd/system"
UNIT_KINDS = ("service", "socket", "target", "slice", "path", "timer")
# Pattern below systemd/ -> where such files go; a drop-in keeps the name of its folder.
SYSTEMD = {
    **{f"*.{kind}": UNITS for kind in UNIT_KINDS},
    **{f"*.{kind}.d/*.conf": UNITS for kind in UNIT_KINDS},
    "sysusers.d/*.conf": "/usr/lib",
    "tmpfiles.d/*.conf": "/usr/lib",
    "*.catalog": "/usr/lib/systemd/catalog",
}
PROGRAMS = {  # -> the module whose `main` it calls
    "/usr/bin/magid": "magid/__main__.py",
    "/usr/bin/magictl": "magid/cli.py",
    f"{LIBRARY}/magi-launcher": "magid/launcher.py",
}
# -I: neither the caller's environment nor its folder nor its home has a say in what is imported.
PROGRAM = """\
#!/usr/bin/python3 -I
import sys
sys.path[:0] = [{library!r}, {vendor!r}]
{first}from {module} import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """A file to be: its path in the container, its content, its mode."""

    path: str
    data: bytes
    mode: int = 0o644


# The collector would look at all that is imported, again and again; it is switched on at READY.
FIRST = {"/usr/bin/magid": "import gc\ngc.disable()\n"}


def placed(checkout: Path) -> Iterator[Placed]:
    """All files of magid; what the checkout does not have is left out."""
    for path in sorted((checkout / "magid").rglob("*.py")):
        yield Placed(f"{LIBRARY}/{path.relative_to(checkout)}", path.read_bytes())
    for program, source in PROGRAMS.items():
        if (checkout / source).exists():
            module = source.removesuffix(".py").replace("/", ".")
            first = FIRST.get(program, "")
            text = PROGRAM.format(library=LIBRARY, vendor=VENDOR, module=module, first=first)
            yield Placed(program, text.encode(), 0o755)
    systemd = checkout / "systemd"
    for pattern, target in SYSTEMD.items():
        for path in sorted(systemd.glob(pattern)):
            yield Placed(f"{target}/{path.relative_to(systemd)}", path.read_bytes())
    etc = checkout / "etc"
    for path in sorted(etc.rglob("*")):
        if path.is_file():
            yield Placed(f"/etc/magi/{path.relative_to(etc)}", path.read_bytes())


def archive(files: Iterable[Placed]) -> bytes:
    """A tar archive that unpacks at `/`, everything root's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.data), file.mode
            tar.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


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
    container.run(["python3", "-I", "-m", "compileall", "-q", f"{LIBRARY}/magid"])
    container.run(["systemd-sysusers"])
    if folders:
        container.run(["systemd-tmpfiles", "--create", *folders])
    container.run(["journalctl", "--update-catalog"])
    container.systemctl("daemon-reload")
