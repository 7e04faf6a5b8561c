"""A Debian machine with a real systemd, for tests to act on."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from tests.lab.folders import Folder, overlay_works
from tests.lab.layers import LabError
from tests.lab.machine import PATH, REBOOT_STATUS, Machine
from tests.lab.network import Network, Transport
from tests.lab.trees import Tree
from tests.support.deadlines import DEADLINE_S

LOOK_S = 0.05
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "SYSTEMD_PAGER": ""}
AS_USER = 'exec setpriv --reuid "$0" --regid "$(id -g "$0")" --init-groups --pdeathsig KILL -- "$@"'

Completed = subprocess.CompletedProcess[bytes]


class CommandFailed(AssertionError):
    """A program in the container that was to succeed did not; says what it printed."""


class Container:
    """A throw-away copy of a tree. Made by `booted`; for one thread, but for its clients."""

    def __init__(self, tree: Tree, *, copied: bool | None = None, unified: bool = True) -> None:
        """`copied` says whether the tree is copied or overlaid; else what works is done.

        `unified`: control groups of version 2. Of version 1 only where the host has those too.
        """
        self._unified = unified
        self.tree = tree
        self.release = tree.release
        if copied is None:
            copied = not overlay_works(tree.layers)
        self._folder = Folder(tree.layers, copied=copied)
        self._machine: Machine | None = None
        self._network: Network | None = None

    @property
    def name(self) -> str:
        """Its host name, and the name of its control group and of its folder on the host."""
        return self._folder.name

    # -- life ----------------------------------------------------------------------------

    def boot(self) -> None:
        """Returns when every unit of the boot is up or has failed."""
        assert self._machine is None, "it is running"
        self._machine = Machine(self._folder, unified=self._unified)
        self._network = Network(self._machine.leader)

    def poweroff(self) -> None:
        """As `systemctl poweroff` by a person; `boot` starts it again with what is on its disk."""
        self._end_by_itself("poweroff", 0)

    def reboot(self) -> None:
        """As `systemctl reboot` by a person. Clients made before are of no use after it."""
        self._end_by_itself("reboot", REBOOT_STATUS)
        self.boot()

    def _end_by_itself(self, verb: str, expected: int) -> None:
        machine = self._running()
        self.systemctl("--no-block", verb)
        status = machine.wait()
        assert status == expected, f"{verb} ended with {status}\n{self.console()}"
        self._release()

    def crash(self) -> None:
        """As if the plug were pulled: nothing in there runs any more. What is written stays."""
        self._running().kill()
        self._release()

    def end(self) -> None:
        """Kill and remove all of it. Idempotent."""
        if self._machine is not None:
            self.crash()
        self._folder.remove()

    def _release(self) -> None:
        if self._network is not None:
            self._network.close()
        self._machine = self._network = None

    def _running(self) -> Machine:
        if self._machine is None:
            raise LabError(f"cannot use {self.name}: it is not booted")
        return self._machine

    # -- programs ------------------------------------------------------------------------

    def command(self, argv: Sequence[str], user: str | None = None) -> list[str]:
        """What to run on the host, with ENVIRONMENT, to run this in there.

        Ends with the host's process: also a program that was to follow something for ever.
        """
        enter = [
            "nsenter",
            "--target",
            str(self._running().leader),
            "--all",
            "--root",
            "--wd",
            "--",
        ]
        if user is None:
            return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *argv]
        return [*enter, "sh", "-c", AS_USER, user, *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | bytes = b"",  # noqa: A002 - as subprocess.run has it
        user: str | None = None,
        timeout: float = DEADLINE_S,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in there, as root or `user`, with a server's bare environment."""
        done = self._run_bytes(argv, input, user, timeout, environment or {})
        text = subprocess.CompletedProcess(
            list(argv), done.returncode, *(x.decode(errors="replace") for x in _both(done))
        )
        if check and done.returncode != 0:
            raise CommandFailed(
                f"{' '.join(argv)} ended with {done.returncode}:\n{text.stdout}{text.stderr}"
            )
        return text

    def _run_bytes(
        self,
        argv: Sequence[str],
        given: str | bytes,
        user: str | None,
        timeout: float,
        environment: Mapping[str, str],
    ) -> Completed:
        return subprocess.run(
            self.command(argv, user),
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            timeout=timeout,
            env={**ENVIRONMENT, **environment},
            check=False,
        )

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What it prints, without the last line's end."""
        return self.run(["systemctl", *arguments], check=check).stdout.rstrip("\n")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit as `systemctl show` prints them; all where none is named."""
        chosen = [f"--property={name}" for name in properties]
        lines = self.systemctl("show", *chosen, "--", unit).splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def pid_of(self, unit: str) -> int:
        """Its MainPID as counted in there; 0 when it does not run."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def journal(self, unit: str | None = None, *matches: str) -> list[dict[str, Any]]:
        """All entries so far, the oldest first; `matches` are FIELD=VALUE."""
        self.run(["journalctl", "--sync"])
        chosen = [*matches] if unit is None else [f"--unit={unit}", *matches]
        done = self.run(["journalctl", "--all", "--output=json", "--no-pager", *chosen])
        return [json.loads(line) for line in done.stdout.splitlines()]

    # -- files ---------------------------------------------------------------------------
    # By programs in there: seen from outside, an absolute link would lead to the host's files.

    def read(self, path: str) -> bytes:
        done = self._run_bytes(["cat", "--", path], b"", None, DEADLINE_S, {})
        if done.returncode != 0:
            raise CommandFailed(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Make or replace a file of root's, and the folders above it."""
        script = 'mkdir -p "${0%/*}" && cat >"$0" && chmod "$1" "$0"'
        self.run(["sh", "-c", script, path, f"{mode:o}"], input=data)

    def exists(self, path: str) -> bool:
        return self.run(["test", "-e", path], check=False).returncode == 0

    # -- clients -------------------------------------------------------------------------

    @property
    def leader(self) -> int:
        """Its PID 1, as the host counts."""
        return self._running().leader

    @property
    def network(self) -> Network:
        """For sockets of one's own, and for event loops."""
        assert self._network is not None, "it is not booted"
        return self._network

    def client(self, base_url: str = "", timeout: float = DEADLINE_S) -> httpx.Client:
        """Requests to 127.0.0.1 in there, by many threads at once; to be closed by the caller."""
        return httpx.Client(
            base_url=base_url, transport=Transport(self.network), timeout=timeout, trust_env=False
        )

    def http(self, method: str, url: str, **options: Any) -> httpx.Response:
        """One request on a connection of its own; options as of httpx.request."""
        with self.client() as client:
            return client.request(method, url, **options)

    def unix_client(self, path: str, timeout: float = DEADLINE_S) -> httpx.Client:
        """Requests to a socket file in there, which sees them come from root."""
        outside = f"/proc/{self._running().leader}/root{path}"
        transport = httpx.HTTPTransport(uds=outside)
        return httpx.Client(
            base_url="http://localhost", transport=transport, timeout=timeout, trust_env=False
        )

    # -- waiting -------------------------------------------------------------------------

    def wait_until(
        self, predicate: Callable[[], bool], what: str, deadline: float = DEADLINE_S
    ) -> None:
        """Look every 50 ms until it is so; after `deadline` seconds, fail and show the journal.

        The looking is bounded and costs a few ms; a test that asserts "within a second" measures
        with its own clock what it saw.
        """
        end = time.monotonic() + deadline
        while not predicate():
            if time.monotonic() > end:
                raise AssertionError(f"no {what} within {deadline:g} s\n{self.diagnosis()}")
            time.sleep(LOOK_S)

    def diagnosis(self) -> str:
        """What a person would look at first when something went wrong in there."""
        if self._machine is None:
            return self.console()
        commands = (
            ["systemctl", "--failed", "--no-legend", "--plain"],
            ["journalctl", "--no-pager", "--lines=60", "--output=short-monotonic"],
        )
        return "\n".join(self.run(argv, check=False).stdout for argv in commands)

    def console(self) -> str:
        """The last lines that the container's systemd wrote to its console, of all its boots."""
        log = self._folder.path / "console.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-40:]) if log.exists() else ""


def _both(done: Completed) -> tuple[bytes, bytes]:
    return done.stdout, done.stderr


@contextmanager
def booted(tree: Tree, *, copied: bool | None = None, unified: bool = True) -> Iterator[Container]:
    """A container that runs, and of which nothing is left afterwards, however the test ends."""
    container = Container(tree, copied=copied, unified=unified)
    try:
        container.boot()
        yield container
    finally:
        container.end()
