"""Root trees of the Debian releases that magid supports, as layers to lay over each other.

Everything in them comes from Debian's archive, checked by apt against Debian's keys, and from the
lock file, checked by pip against its hashes. magid itself is not in them: a container takes it from
the checkout (`tests.lab.installing`).
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.lab import requirements
from tests.lab.layers import LabError, contained, home, layer, locked, output, remove

ROOT = Path(__file__).resolve().parent.parent.parent
LLAMA = "opt/llama.cpp"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "procps", "iproute2", "curl", "ca-certificates"),
    *("python3", "python3-systemd"),
)
TOOLS = {  # program -> the Debian package that has it; all others are essential
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
}
# Run on the finished tree. Nothing is installed later, and an address may hold a password.
CLEAN = 'cd "$1" && rm -rf usr/share/doc usr/share/man usr/share/locale etc/apt/sources.list*'
LAUNCHER = f'#!/bin/sh\nexec /{LLAMA}/llama-server "$@"\n'


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release: its codename, the major of its systemd, the minor of its Python."""

    name: str
    systemd: int
    python: str

    @property
    def llama_server(self) -> str:
        """Where the tree has one: Debian has the package from forky on."""
        return "/usr/bin/llama-server" if self.has_package else "/usr/local/bin/llama-server"

    @property
    def has_package(self) -> bool:
        return self.systemd >= 262


@dataclass(frozen=True, slots=True)
class Tree:
    """What a container boots: `layers` lie over each other, the first on top. All read-only."""

    release: Release
    layers: tuple[Path, ...]


RELEASES = (
    Release("bookworm", 252, "3.11"),
    Release("trixie", 257, "3.13"),
    Release("forky", 262, "3.14"),
)
OLDEST, STABLE, NEWEST = RELEASES


def load_program(name: str) -> ModuleType:
    """packaging/NAME.py by its path: `packaging` as a name is a library's."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


provision = load_program("provision_llama_server")
VENDOR: str = load_program("layout").VENDOR  # for the tree's own Python


# --- deciding -------------------------------------------------------------------------------


def packages(release: Release) -> tuple[str, ...]:
    return (*PACKAGES, "llama.cpp-tools") if release.has_package else PACKAGES


def bootstrap(release: Release, target: Path) -> list[str]:
    """The command that makes a bare tree; the `deb` line goes to its standard input.

    An index may be past its date, as mirrors that stand still have them; signatures are checked.
    The tree is thrown away when the build is interrupted, so nothing needs to be synced to disk.
    """
    return [
        *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(packages(release))}",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=force-unsafe-io",
        f"--customize-hook={CLEAN}",
        *(release.name, str(target), "-"),
    ]


def missing_tools(find: Callable[[str], str | None] = shutil.which) -> list[str]:
    """The packages to install first."""
    return [package for program, package in TOOLS.items() if find(program) is None]


# --- doing ----------------------------------------------------------------------------------


def build_all(releases: Iterable[Release], say: Callable[[str], None]) -> dict[Release, Tree]:
    """The trees, side by side; `say` tells a person what takes minutes. Blocks; idempotent."""
    if os.geteuid() != 0:
        raise LabError("cannot boot containers: only root may; run the tests as root")
    ensure_tools(say)
    releases = tuple(releases)
    with ThreadPoolExecutor(len(releases)) as pool:
        llama = pool.submit(llama_layer).result()
        trees = pool.map(lambda release: build(release, llama, say), releases)
        return dict(zip(releases, trees, strict=True))


def build(release: Release, llama: Path, say: Callable[[str], None]) -> Tree:
    """One tree; blocks for about a minute the first time."""
    base = base_layer(release, say)
    vendor = vendor_layer(release, base, say)
    return Tree(release, (vendor, base) if release.has_package else (vendor, llama, base))


def ensure_tools(say: Callable[[str], None]) -> None:
    """Install what is missing, with apt; the lock keeps two sessions from apt at once."""
    if not missing_tools():
        return
    with locked(home() / "apt.lock"):
        wanted = missing_tools()
        if not wanted:
            return
        if shutil.which("apt-get") is None:
            raise LabError(f"cannot build root trees: install {' and '.join(wanted)}")
        say(f"installing {' and '.join(wanted)} with apt")
        noninteractive = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet")
        output([*noninteractive, "update"])
        output([*noninteractive, "install", "--yes", "--no-install-recommends", *wanted])


def base_layer(release: Release, say: Callable[[str], None]) -> Path:
    """The bare release, with Debian's llama-server where it has one."""

    def make(work: Path) -> None:
        say(f"building a root tree of Debian {release.name}; a minute or two")
        bootstrapped(bootstrap(release, work), release, work)

    return layer(release.name, repr(bootstrap(release, Path("/tree"))), make)


def bootstrapped(command: list[str], release: Release, work: Path) -> None:
    """Run `command`, which fills `work`, with the first archive that does."""
    reasons = []
    for archive in _archives():
        try:
            _empty(work)
            output(contained(command), input=f"deb {archive} {release.name} main\n")
            return
        except LabError as error:
            reasons.append(provision.without_password(str(error)))
    raise LabError("\n".join(reasons))


def _archives() -> list[str]:
    try:
        found: list[str] = provision.candidates(os.environ)
    except provision.CannotProvide as error:
        raise LabError(f"cannot build root trees: {error}") from None
    return found


def _empty(work: Path) -> None:
    remove(work)
    work.mkdir()
    work.chmod(0o755)


def llama_layer() -> Path:
    """The private llama-server of forky for older releases, with its own C library."""
    try:
        source = provision.provision(os.environ).parent
    except provision.CannotProvide as error:
        raise LabError(f"cannot get a llama-server: {error}") from None
    program = hashlib.sha256((source / "usr/bin/llama-server").read_bytes()).hexdigest()

    def make(work: Path) -> None:
        (work / LLAMA).parent.mkdir(parents=True)
        output(["cp", "-a", str(source), str(work / LLAMA)])
        launcher = work / "usr/local/bin/llama-server"
        launcher.parent.mkdir(parents=True)
        launcher.write_text(LAUNCHER)
        launcher.chmod(0o755)
        _readable(work)

    return layer("llama-server", LAUNCHER + program, make)


def vendor_layer(release: Release, base: Path, say: Callable[[str], None]) -> Path:
    """What the daemon needs, for the release's Python, compiled."""
    entries = requirements.parse((ROOT / "packaging/requirements.lock").read_text())
    roots = requirements.roots((ROOT / "pyproject.toml").read_text())
    wanted = requirements.closure(entries, roots, release.python)

    def make(work: Path) -> None:
        say(f"installing {len(wanted)} locked packages for Python {release.python}")
        with tempfile.TemporaryDirectory() as between:
            requirements.install(wanted, release.python, Path(between), work / VENDOR[1:])
        _readable(work)
        _compile(work, base)

    return layer(f"vendor-{release.python}", "".join(entry.lines for entry in wanted), make)


def _readable(work: Path) -> None:
    output(["chmod", "-R", "a+rX", str(work)])


def _compile(vendor: Path, base: Path) -> None:
    """Byte-code by the tree's own Python, so that a daemon's start is timed as installed.

    The mount is the command's own and ends with it.
    """
    script = (
        'mount --bind "$1" "$2/mnt" && tree=$2 && shift 2 && exec chroot "$tree" python3 -IB "$@"'
    )
    compiling = ("-m", "compileall", "-q", "-s", "/mnt", "-p", "/", f"/mnt{VENDOR}")
    output(["unshare", "--mount", "sh", "-c", script, "sh", str(vendor), str(base), *compiling])
