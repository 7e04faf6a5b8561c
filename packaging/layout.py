"""Where the files of a checkout go on a machine: `layout.py ROOT` puts them below ROOT.

The Debian package is made with it, and containers for tests get magid by it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LIBRARY = "/usr/lib/magi"
VENDOR = f"{LIBRARY}/vendor"  # what magid depends on and Debian does not have, or not new enough
DEBIAN = "/usr/lib/python3/dist-packages"  # of which magid needs python3-systemd
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
# Pattern below etc/ -> where. Only what a person edits is in /etc: dpkg keeps his changes.
SETTINGS = {
    "magid.yaml": "/etc/magi",
    "needrestart/conf.d/*.conf": "/etc",
    "profiles/*.yaml": "/usr/share/magi",
}
# Below packaging/ -> where: what other programs are given to read.
FOR_OTHERS = {
    "prometheus/*.yml": "/usr/share/magi",
    "grafana/*.json": "/usr/share/magi",
}
PAGE = "magid/webui/build"  # which packaging/page makes
PAGE_TARGET = "/usr/share/magi/page"
PROGRAMS = {  # -> the module whose `main` it calls
    "/usr/bin/magid": "magid/__main__.py",
    "/usr/bin/magictl": "magid/cli/main.py",
    f"{LIBRARY}/magi-launcher": "magid/launcher/__main__.py",
    f"{LIBRARY}/magi-rpc-program": "magid/launcher/rpc_program.py",
    f"{LIBRARY}/magi-download": "magid/library/transfer/__main__.py",
    f"{LIBRARY}/magi-key": "magid/standalone/make_key.py",
    f"{LIBRARY}/magi-owners": "magid/standalone/state_owners.py",
}
# -I: neither the caller's environment nor its folder nor its home has a say in what is imported.
# -S: nor have .pth files, sitecustomize.py and what pip has installed for the whole machine.
PROGRAM = """\
#!/usr/bin/python3 -IS
import sys
sys.path = [{library!r}, {vendor!r}, *sys.path, {debian!r}]
from {module} import main
sys.exit(main())
"""
# The collector would look at all that is imported, again and again; it is switched on at READY.
# A magid that cannot be imported tells systemd and its clients so.
DAEMON = """\
#!/usr/bin/python3 -IS
import gc
import sys
gc.disable()
sys.path = [{library!r}, {vendor!r}, *sys.path, {debian!r}]
try:
    from {module} import main
except Exception as error:
    from magid.standalone.broken_program import end
    sys.exit(end(error))
sys.exit(main())
"""
TEMPLATES = {"/usr/bin/magid": DAEMON}


@dataclass(frozen=True, slots=True)
class Placed:
    """A file to be: its path on the machine, its content, its mode."""

    path: str
    data: bytes
    mode: int = 0o644


def placed(checkout: Path = CHECKOUT) -> Iterator[Placed]:
    """All files of magid; what the checkout does not have is left out."""
    for path in sorted((checkout / "magid").rglob("*.py")):
        yield Placed(f"{LIBRARY}/{path.relative_to(checkout)}", path.read_bytes())
    for program, source in PROGRAMS.items():
        if (checkout / source).exists():
            module = source.removesuffix(".py").replace("/", ".")
            template = TEMPLATES.get(program, PROGRAM)
            text = template.format(library=LIBRARY, vendor=VENDOR, debian=DEBIAN, module=module)
            yield Placed(program, text.encode(), 0o755)
    yield from _found(checkout / "systemd", SYSTEMD)
    yield from _found(checkout / "etc", SETTINGS)
    yield from _found(checkout / "packaging", FOR_OTHERS)
    yield from _found(checkout / PAGE, {"index.html": PAGE_TARGET, "assets/*": PAGE_TARGET})


def _found(folder: Path, places: dict[str, str]) -> Iterator[Placed]:
    for pattern, target in places.items():
        for path in sorted(folder.glob(pattern)):
            yield Placed(f"{target}/{path.relative_to(folder)}", path.read_bytes())


def main(root: Path) -> None:
    for file in placed():
        path = root / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        path.chmod(file.mode)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
