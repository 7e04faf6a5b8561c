"""One systemd-nspawn process: its boot and its end.

Everything of a container is in one control group, and a guard kills that when the tests die: it
reads from a pipe that only they hold. The mounts are in a namespace of their own, so that they are
gone at the same moment. What a killed session leaves are a folder and an empty control group; the
next one sweeps them up.
"""

import os
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.lab import cgroups
from tests.lab.folders import Folder
from tests.lab.layers import LabError

BOOT_S = 120.0  # takes 2 s on an idle machine
END_S = 60.0
REBOOT_STATUS = 133  # with --keep-unit, systemd-nspawn leaves the second boot to its caller
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1 is the control group, $2 the overlay's options (empty: the root is a copy), $3 the root.
# What systemd-nspawn keeps in /run is private too: killed, it would leave its locks there.
START = """\
group=$1 options=$2 root=$3
shift 3
echo $$ >"$group/cgroup.procs" || exit
mkdir -p /run/systemd/nspawn && mount -t tmpfs tmpfs /run/systemd/nspawn || exit
if [ -n "$options" ]; then mount -t overlay overlay -o "$options" "$root" || exit; fi
exec systemd-nspawn "$@"
"""
# Its standard input ends when the tests do.
GUARD = f'read -r _; echo 1 >"$0/{cgroups.KILL}"'


# What a machine allows, and systemd-nspawn does not by itself.
FORBIDDEN_BY_NSPAWN = "bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self"


def nspawn_arguments(name: str, root: Path) -> list[str]:
    """A network of its own with loopback alone, and what a real host would enforce.

    Without the bpf system call and its capabilities systemd in there would ignore IPAddressDeny=
    and SocketBindDeny= without a word.
    """
    return [
        *("--quiet", "--boot", f"--directory={root}", f"--machine={name}"),
        *("--register=no", "--keep-unit", "--link-journal=no"),
        *("--resolv-conf=off", "--timezone=off", "--private-network"),
        *("--console=pipe", "--notify-ready=yes"),
        *(
            f"--system-call-filter={FORBIDDEN_BY_NSPAWN}",
            "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON",
        ),
    ]


class Machine:
    """A booted container, until it ends by itself or `kill`. Made and ended by one thread."""

    def __init__(self, folder: Folder, *, unified: bool = True) -> None:
        """Returns once systemd in there says that its boot has finished, in whatever state.

        `unified` says whether it has control groups of version 2 or of version 1.
        """
        self._unified = unified
        self._console = folder.path / "console.log"
        self.leader = 0  # its PID 1, as the host counts
        self._leader_fd = -1
        cgroups.remove(folder.name)  # of the boot before
        group = cgroups.make(folder.name)
        address = folder.path / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(address))
            self._guard = subprocess.Popen(
                ["sh", "-c", GUARD, str(group)],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._process = self._spawn(folder, group, address)
            try:
                self._wait_booted(notify)
            except BaseException:
                self.kill()
                raise

    def _spawn(self, folder: Folder, group: Path, notify: Path) -> subprocess.Popen[bytes]:
        start = ["sh", "-c", START, "sh", str(group), folder.options, str(folder.root)]
        environment = {
            "PATH": PATH,
            "NOTIFY_SOCKET": str(notify),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": str(int(self._unified)),
        }
        with self._console.open("ab") as log:
            return subprocess.Popen(
                ["unshare", "--mount", *start, *nspawn_arguments(folder.name, folder.root)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the keyboard is for the tests alone
            )

    def _wait_booted(self, notify: socket.socket) -> None:
        """systemd-nspawn tells the leader, then passes on what PID 1 in there says (sd_notify)."""
        deadline = time.monotonic() + BOOT_S
        ended, heard_of = os.pidfd_open(self._process.pid), notify.fileno()
        try:
            while True:
                left = max(0.0, deadline - time.monotonic())
                heard, _, _ = select.select([heard_of, ended], [], [], left)
                if heard_of not in heard:
                    raise LabError(f"cannot boot: {self._why(ended in heard)}")
                fields = dict(
                    line.partition("=")[::2] for line in notify.recv(4096).decode().splitlines()
                )
                if "X_NSPAWN_LEADER_PID" in fields:
                    self.leader = int(fields["X_NSPAWN_LEADER_PID"])
                    self._leader_fd = os.pidfd_open(self.leader)
                if fields.get("READY") == "1":
                    return
        finally:
            os.close(ended)

    def _why(self, ended: bool) -> str:
        what = "systemd-nspawn has ended" if ended else f"it took over {BOOT_S:.0f} s"
        lines = self._console.read_text(errors="replace").splitlines()[-30:]
        return "\n".join([what, *lines])

    def wait(self) -> int:
        """The exit status of systemd-nspawn, once the container has ended by itself."""
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise LabError(f"cannot end within {END_S:.0f} s: {self._console}") from None
        self._let_go()
        return status

    def kill(self) -> None:
        """Pull the plug: nothing in there runs any more. Idempotent.

        The leader goes first, because systemd-nspawn then tidies up after itself.
        """
        with suppress(ProcessLookupError):
            if self._leader_fd >= 0:
                signal.pidfd_send_signal(self._leader_fd, signal.SIGKILL)
            else:
                self._process.kill()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._let_go()

    def _let_go(self) -> None:
        """The guard ends now, and kills what may be left. Idempotent."""
        self._guard.communicate()
        if self._leader_fd >= 0:
            os.close(self._leader_fd)
            self._leader_fd = -1
