"""Faults of a machine, each planted as it comes about; what doctor calls it, and what it says.

The commands that doctor prints have to mend it, alone and at once. `NO_COMMAND` has the findings
that no command can mend, each with the reason. A test holds both against doctor's code.
"""

from dataclasses import dataclass
from typing import Final

ALPHA = "/models/Alpha-1B-Q4_K_M.gguf"
BETA = "/models/Beta-8B-Q4_K_M.gguf"
CONFIG = "/etc/magi/magid.yaml"
REGISTRY = "/var/lib/magi/model_registry.json"


@dataclass(frozen=True, slots=True)
class Fault:
    """`says` is in what the finding says. `after` is what a test has to tidy up on a sound machine.

    `by_hand` is what a person does, for the findings of NO_COMMAND.
    """

    finding: str
    plant: str
    says: str
    after: str = ""
    by_hand: str = ""


def is_taken(port: int) -> str:
    """Waits for a listener."""
    return f"until ss -Hltn 'sport = {port}' | grep -q .; do sleep 0.05; done"


# Planted all at once, as they come: none may hide another.
TOGETHER: Final = (
    Fault("model-file-closed", f"chmod 0600 {ALPHA}", f"a server cannot read {ALPHA}"),
    Fault(
        "model-folder-closed",
        "mkdir -m 0700 /models/private",
        "magid cannot list /models/private: Permission denied",
        after="rmdir /models/private",
    ),
    Fault(
        "model-broken",
        "printf GGUF >/models/Torn.gguf",
        "/models/Torn.gguf is broken: it is truncated",
        after="rm /models/Torn.gguf.broken",
    ),
    Fault(
        "model-file-refused",
        f"cp {BETA} /srv/Out.gguf; ln -s /srv/Out.gguf /models/Delta-1B-Q4_0.gguf",
        "/models/Delta-1B-Q4_0.gguf cannot be run",
        after="rm /models/Delta-1B-Q4_0.gguf",
    ),
    Fault(
        "model-file-refused",
        "ln -s nowhere.gguf /models/Gone.gguf",
        "/models/Gone.gguf cannot be run",
        after="rm /models/Gone.gguf.off",
    ),
    Fault(
        "model-file-unfit",
        f"mkdir '/models/a b'; cp {BETA} '/models/a b/Eta:1B.gguf'; magictl rescan 2>/dev/null",
        "a server cannot read /models/a b/Eta:1B.gguf",
        after="rm -r /models/a_b",
    ),
    Fault(
        "profile-broken",
        "echo 'name: [' >/etc/magi/profiles/mine.yaml",
        "cannot read /etc/magi/profiles/mine.yaml: line 2",
    ),
    Fault(
        "file-unread",
        "printf 'name: Closed\\n' >/etc/magi/profiles/closed.yaml; "
        "chmod 0600 /etc/magi/profiles/closed.yaml",
        "magid cannot read /etc/magi/profiles/closed.yaml: Permission denied",
    ),
    Fault("open-to-others", "chmod 0666 /run/magi/launcher.sock", "launcher.sock is open to"),
    Fault("open-to-others", "chmod 0666 /run/magi/magid.sock", "/run/magi/magid.sock is open"),
    Fault("open-to-others", "chmod 0660 /run/magi/key.sock", "/run/magi/key.sock is open"),
    Fault("open-to-others", "chmod 0755 /run/magi-keys", "/run/magi-keys is open to others"),
    Fault("open-to-others", "chmod 0777 /etc/magi", "/etc/magi is open to others than root"),
    Fault("open-to-others", "chmod 0755 /var/lib/magi", "/var/lib/magi is open to others"),
    Fault(
        "profile-folder-of-another-user",
        "chown -R 4711:4711 /etc/magi/profiles",
        "/etc/magi/profiles belongs to 4711",
    ),
    Fault(
        "model-folder-of-another-group",
        "chown -R magi:magi /var/lib/magi/models",
        "/var/lib/magi/models belongs to the group magi",
    ),
    Fault("state-file-of-another-user", f"chown root {REGISTRY}", f"{REGISTRY} belongs to root"),
    Fault(
        "registry-was-broken",
        f"echo broken >{REGISTRY}.corrupt-20261124T000000Z-0000",
        "the registry was broken once, and an older copy is in use",
    ),
    Fault(
        "registry-to-import",
        f"""echo '{{"models": {{"a": {{"file_path": "/models/a.gguf", "port": 8080}}}}}}' """
        f">{REGISTRY}.corrupt-20261123T000000Z-0000",
        f"magid has set {REGISTRY}.corrupt-20261123T000000Z-0000 aside: it is a registry of",
    ),
    Fault("clock-wrong", f"touch -d '+3 days' {REGISTRY}", "the clock is wrong"),
    Fault(
        "server-port-taken",
        "systemd-run -q --unit=stranger python3 -m http.server --bind 127.0.0.1 8090; "
        + is_taken(8090),
        "port 8090 is taken by python3",
    ),
    Fault(
        "gpu-node-closed",
        "mknod -m 0600 /dev/nvidia0 c 1 3",  # a device that every sandbox may open
        "a server cannot open /dev/nvidia0: it is root:root with mode 0600",
        after="rm /dev/nvidia0",
    ),
    Fault(
        "gpu-node-closed",
        "mkdir -p /dev/dri; mknod -m 0600 /dev/dri/renderD128 c 1 3",
        "a server cannot open /dev/dri/renderD128",
        after="rm -r /dev/dri",
    ),
)

_HARDWARE: Final = "a driver or a GPU; tests/lab/gpu_faults.py plants what it looks like"
_PERSON: Final = "only a person knows what was meant: "
_LATER: Final = "shown as a note, with --all: nothing has to be mended"

NO_COMMAND: Final = {
    "systemd-too-old": "an upgrade of the distribution",
    "pauses-do-not-grow": _LATER,
    "bpf-missing": _LATER,
    "clock-not-synchronised": _LATER,
    "control-groups-1": "a setting of the boot loader; tests/lab/test_old_cgroups_lab.py plants it",
    "servers-can-send": "a kernel or a container that lacks BPF for control groups",
    "limit-not-in-force": "a kernel that lacks the controller",
    "configuration-broken": _PERSON + "the line is named",
    "first-profile-missing": _PERSON + "the names are listed",
    "open-without-tls": "a certificate comes from elsewhere",
    "rpc-in-use": _PERSON + "which network they are in",
    "disk-full": _PERSON + "what may go",
    "disk-nearly-full": _PERSON + "what may go",
    "inodes-used-up": _PERSON + "what may go",
    "model-folder-private": _PERSON + "where the models shall be",
    "model-folder-hangs": "hardware or network: tests/lab/test_hung_mounts_lab.py plants it",
    "model-folder-unreadable": "hardware: a file system that fails",
    "llama-server-does-not-run": "a program comes from elsewhere",
    "llama-server-too-old": "a program comes from elsewhere",
    "llama-server-old": "a program comes from elsewhere",
    "no-gpu-found": "a llama-server for the GPU comes from elsewhere; or a setting is wrong",
    "gpus-not-listed": _HARDWARE,
    "gpu-listed-twice": _PERSON + "which back end may go",
    "gpu-kept-out": _HARDWARE,
    "gpu-memory-unknown": _HARDWARE,
    "gpu-reserve-too-large": _HARDWARE,
    "gpus-held-by-others": _HARDWARE,
    "memory-not-predicted": "a program comes from elsewhere",
    "model-never-fits": _HARDWARE,
    "prediction-failed": "a file, or a program, from elsewhere",
    "nvidia-driver-missing": _HARDWARE,
    "nvidia-uvm-missing": _HARDWARE,
    "nvidia-driver-mismatch": _HARDWARE,
    "kfd-missing": _HARDWARE,
    "unit-missing": "the package's file is elsewhere: tests/lab/test_package_life.py plants it",
    "model-unused": _PERSON + "whether a linked folder is one, or which model a part is for",
    "model-unread": "asks to be run as root; test_who_is_not_root plants it",
}
