"""Prints the path of a llama-server that works, getting one first where the machine has none.

Looked for in LLAMA_SERVER_PATH, /usr/local/bin, /usr/bin and PATH. Else the one of Debian's
archive is unpacked, with every library that it needs, below MAGI_CACHE (the checkout's .cache),
and started through its own dynamic loader: nothing of the system is read, changed or replaced,
and no right is needed. Any Debian release, or a system with apt and Debian's keyring, will do.

With --rpc, the printed one also has ggml's RPC back end, and beside it is ggml-rpc-server: of the
two, tests make GPUs. That is always the private one.

Runs before there is a virtual environment, so it uses the standard library alone. May be run
again and by several at once: the first one works, the others wait and find the result.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import apt_sources  # noqa: E402  # needs the line above

PACKAGES = ("llama.cpp-tools",)
RPC_PACKAGES = ("llama.cpp-tools-extra", "libggml0-backend-rpc")
RPC_SERVER = "usr/libexec/{libraries}/llama/bin/ggml-rpc-server"
# The first release that has the package. A codename stays true when the release becomes stable.
SUITE = "forky"
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),  # Debian 13 and later
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
CACHE = Path(__file__).resolve().parent.parent / ".cache"
TRY_SECONDS = 30  # `llama-server --version` takes 20 ms; a cold disk or an emulator more
FETCH_SECONDS = 480  # 30 MB; less than what a caller waits for this program
ADVICE = "install one and set LLAMA_SERVER_PATH to it"

LAUNCHER = """\
#!/bin/sh
# Starts the program of this folder with the folder's own loader and libraries, so that the
# system's own C library plays no part. The CPU backends lie beside the loader: ggml looks for them
# next to the running program, which is the loader, and takes the best one for this processor.
here=${{0%/*}}
libraries=$here/{libraries}
exec "$libraries/{loader}" --argv0 "$0" --library-path "$libraries:$libraries/llama" \\
    "$here/{program}" "$@"
"""


class CannotProvide(Exception):
    """Why there is no llama-server; the text goes behind "cannot get a llama-server: "."""


# --- deciding -------------------------------------------------------------------------------


def without_password(text: str) -> str:
    """The text with the user part of every address in it gone."""
    return re.sub(r"://[^/\s@]*@", "://", text)


def source_file(archive: str, keyring: Path) -> str:
    """The private deb822 file. Signatures are always checked; an index may be old.

    Check-Valid-Until is off because mirrors that stand still (snapshots, caches) carry indexes
    past their date. What that gives away is that an attacker on the line could offer an older
    release of the package, still signed.
    """
    return (
        f"Types: deb\nURIs: {archive}\nSuites: {SUITE}\nComponents: main\n"
        f"Signed-By: {keyring}\nCheck-Valid-Until: no\n"
    )


def apt_configuration(folder: Path, architecture: str, inherited: str) -> str:
    """The private apt.conf: all of apt's state in `folder`, none of the machine's hooks.

    `inherited` is the machine's own `Acquire` part: proxies and time-outs. What it says about
    unsigned archives is overruled.
    """
    return f"""{inherited}
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
APT::Get::AllowUnauthenticated "false";
APT::Architecture "{architecture}";
APT::Architectures "{architecture}";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{folder}/sources.list.d";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Etc::Trusted "/dev/null";
Dir::Etc::TrustedParts "/dev/null";
"""


def places(environment: Mapping[str, str]) -> list[Path]:
    """Where a llama-server may be installed, in order, each once; LLAMA_SERVER_PATH apart."""
    folders = ["/usr/local/bin", "/usr/bin", *environment.get("PATH", "").split(os.pathsep)]
    return [Path(folder) / "llama-server" for folder in dict.fromkeys(folders) if folder]


# --- doing ----------------------------------------------------------------------------------


def fault(program: Path) -> str | None:
    """Why this program is of no use, or None if it runs."""
    if not program.is_file():
        return "there is no such file"
    if not os.access(program, os.X_OK):
        return "it is not executable"
    try:
        done = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRY_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not run: {error}"
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        return f"--version ends with {done.returncode}: {' '.join(last) or 'no message'}"
    return None


def installed(environment: Mapping[str, str]) -> Path | None:
    """The machine's own llama-server. A LLAMA_SERVER_PATH that is of no use is an error."""
    chosen = environment.get("LLAMA_SERVER_PATH")
    if chosen:
        reason = fault(Path(chosen))
        if reason:
            raise CannotProvide(f"LLAMA_SERVER_PATH is {chosen}, but {reason}")
        return Path(chosen).absolute()
    for program in places(environment):
        if program.is_file():
            reason = fault(program)
            if reason is None:
                return program.absolute()
            say(f"passing over {program}: {reason}")
    return None


def provision(environment: Mapping[str, str], *, rpc: bool = False) -> Path:
    """The private llama-server, unpacked first if it is not there yet. Blocks for the download."""
    for tool in ("apt-get", "apt-config", "dpkg", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise CannotProvide(f"none is installed, and without {tool} none can be unpacked")
    architecture = output(["dpkg", "--print-architecture"]).strip()
    home = Path(environment.get("MAGI_CACHE") or CACHE).absolute() / "llama-server"
    tree = home / (f"{architecture}-rpc" if rpc else architecture)
    packages = (*PACKAGES, *RPC_PACKAGES) if rpc else PACKAGES
    program = tree / "llama-server"
    if fault(program) is None:
        return program
    with locked(home):
        if fault(program) is None:  # another one was faster
            return program
        for left in home.glob("new-*"):  # of one that was killed
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix="new-", dir=home) as work:
            made = fetch_and_unpack(Path(work), architecture, environment, packages)
            shutil.rmtree(tree, ignore_errors=True)
            made.rename(tree)
    return program


def fetch_and_unpack(
    work: Path, architecture: str, environment: Mapping[str, str], wanted: Sequence[str]
) -> Path:
    """A folder in `work` with a llama-server that was seen to run.

    It is of the first archive that has one; raises CannotProvide with what each of them said.
    """
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise CannotProvide(
            "none is installed, and Debian's keys are not there to check a download with: "
            "install debian-archive-keyring"
        )
    reasons = []
    for number, archive in enumerate(candidates(environment)):
        folder = work / str(number)
        try:
            packages = fetch(folder, archive, architecture, keyring, wanted)
            return unpack(packages, folder / "tree")
        except CannotProvide as error:
            reasons.append(f"{without_password(archive)}: {error}")
    raise CannotProvide(f"none is installed, and none could be downloaded ({'; '.join(reasons)})")


def candidates(environment: Mapping[str, str]) -> list[str]:
    """MAGI_DEBIAN_ARCHIVE, or else what the machine's own sources name."""
    if chosen := environment.get("MAGI_DEBIAN_ARCHIVE"):
        return [chosen.rstrip("/")]
    found = apt_sources.archives(apt_sources.machine_sources(Path("/etc/apt")))
    if not found:
        raise CannotProvide(
            "none is installed, and the machine's package sources name no Debian archive: "
            "set MAGI_DEBIAN_ARCHIVE to the address of one"
        )
    return found


def fetch(
    folder: Path, archive: str, architecture: str, keyring: Path, wanted: Sequence[str]
) -> list[Path]:
    """Download the packages and all that they depend on, down to the C library."""
    for part in ("state/lists/partial", "cache/archives/partial", "sources.list.d"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()  # nothing is installed: apt's resolver names every dependency
    (folder / "sources.list.d/debian.sources").write_text(source_file(archive, keyring))
    configuration = folder / "apt.conf"
    configuration.touch(mode=0o600)  # a proxy's address may have a password in it
    inherited = output(["apt-config", "dump", "Acquire"])
    configuration.write_text(apt_configuration(folder, architecture, inherited))
    say(f"getting {' and '.join(wanted)} of Debian {SUITE} ({architecture}), about 30 MB")
    apt(configuration, "update", "--error-on=any")
    apt(configuration, "install", "--yes", "--download-only", *wanted)
    packages = sorted((folder / "cache/archives").glob("*.deb"))
    if not packages:
        raise CannotProvide("apt-get downloaded nothing")
    return packages


def apt(configuration: Path, *arguments: str) -> None:
    environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
    command = ["apt-get", "--quiet", *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotProvide(f"apt-get {arguments[0]} took over {FETCH_SECONDS} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        reason = without_password(" ".join(said[:2])) or f"ended with {done.returncode}"
        raise CannotProvide(f"apt-get {arguments[0]}: {reason}")


def unpack(packages: Iterable[Path], tree: Path) -> Path:
    """Lay the packages' files below `tree`, run none of their scripts, and add the launchers."""
    for package in packages:
        output(["dpkg-deb", "--extract", str(package), str(tree)])
    loaders = sorted(tree.glob("usr/lib/*/ld-linux*.so.*"))
    if not loaders:
        raise CannotProvide("the packages hold no dynamic loader")
    libraries = loaders[0].parent
    for backend in sorted(libraries.glob("ggml/backends*/libggml-*.so")):
        (libraries / backend.name).symlink_to(backend.relative_to(libraries))
    for inside in ("usr/bin/llama-server", RPC_SERVER.format(libraries=libraries.name)):
        if (tree / inside).exists():
            launch(tree, inside, loaders[0].relative_to(tree))
    reason = fault(tree / "llama-server")
    if reason:
        raise CannotProvide(f"the one of {SUITE} is of no use here: {reason}")
    return tree


def launch(tree: Path, inside: str, loader: Path) -> None:
    """Write the launcher of a program of the tree, by the program's name at the top of the tree."""
    launcher = tree / Path(inside).name
    launcher.write_text(
        LAUNCHER.format(libraries=loader.parent, loader=loader.name, program=inside)
    )
    launcher.chmod(0o755)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the folder: one provisioning at a time. The kernel lets go when the process ends."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle = (home / "lock").open("a")
    except OSError as error:
        raise CannotProvide(f"none is installed, and {home} cannot be written: {error}") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another one that is getting it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def output(command: list[str]) -> str:
    """What a program that must not fail prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotProvide(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def say(text: str) -> None:
    """To the person waiting; standard output is for the path alone."""
    print(f"provision-llama-server: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--private", action="store_true", help="get one even where the machine has its own"
    )
    parser.add_argument(
        "--rpc", action="store_true", help="get one with ggml's RPC back end, and ggml-rpc-server"
    )
    given = parser.parse_args()
    try:
        found = None if given.private or given.rpc else installed(os.environ)
        print(found or provision(os.environ, rpc=given.rpc))
    except CannotProvide as error:
        print(f"cannot get a llama-server: {error}; {ADVICE}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
