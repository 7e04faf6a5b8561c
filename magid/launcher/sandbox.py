"""The sandbox of every model: turns one request into the properties of one transient unit.

Pure. Only the names and numbers of `UnitRequest` come from a request, and all of them are checked
before. Names and signatures are those of org.freedesktop.systemd1 for StartTransientUnit.
Properties that systemd before 254 does not know, or writes wrongly, depend on `version`.
"""

import hashlib
import ipaddress
import json
import math
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final

from magid.errors import InvalidInput, NotAllowed
from magid.launcher.protocol import CREDENTIAL
from magid.launcher.unit_request import Timeouts, UnitRequest
from magid.llama import placement
from magid.llama.spec import ServerSpec
from magid.standalone.before_exec import READY

PYTHON: Final = "/usr/bin/python3"
KEY_UNIT: Final = "magi-key.socket"
SPEC_FIELD: Final = "MAGI_SPEC"
ORDER_FIELD: Final = "MAGI_ORDER"
# Exit statuses of exec_model.py (sysexits.h): a restart would change nothing.
NO_RESTART: Final = (66, 78)
NOTIFY: Final = "/run/systemd/notify"  # wait_ready.py reports to it
# The one place that a server can write to: in memory, private, gone with its process. Drivers cache
# compiled code in HOME, and exchange data between GPUs through /dev/shm (NCCL asks for 1 GB).
SCRATCH: Final = "/dev/shm"
_SCRATCH_OPTIONS: Final = "size=1G,nr_inodes=16384,mode=1777"
_NO_LIMIT: Final = 2**64 - 1
_MARGIN_S: Final = 60  # of a start, beyond what wait_ready.py allows the server
# Allowed, though its use takes a capability that no server has: systemd (257, 262) writes an empty
# mask to the unit's file as "RestrictNamespaces=", and a daemon-reload reads that as "no
# restriction".
_CLONE_NEWUTS: Final = 0x0400_0000
_MS_REC: Final = 0x4000
_OOM_SCORE: Final = 200  # the kernel kills a model before sshd and magid


# Read-only and empty within the unit; each path in them that the server needs is bound into it.
# Not /opt: it holds programs, among them GPU libraries (/opt/rocm, /opt/intel). No GPU driver
# needs anything in /run to compute: only administrators use nvidia-persistenced.
_HIDDEN: Final = ("/var", "/etc/magi", "/run", "/srv", "/mnt", "/media")
DEVICES: Final = ("char-nvidia*", "char-drm", "char-kfd")  # besides the standard ones
_HOMES: Final = ("/home", "/root", "/run/user")  # ProtectHome= hides these
# DynamicUser= gives the unit a /tmp and a /var/tmp on the machine's own disk, without a limit.
_READ_ONLY: Final = ("/tmp", "/var/tmp")


# systemd (252, 257, 262) writes the paths of mounts to the unit's file without quoting. When a
# daemon-reload reads the file, a space begins another mount, and a colon another part of one: a
# folder with a crafted name could bind any path into the unit.
UNMOUNTABLE: Final = frozenset(": '\"\\")
_UNWRITABLE: Final = frozenset("$;")  # in commands, before 254


@dataclass(frozen=True, slots=True)
class Property:
    """One entry of StartTransientUnit's a(sv)."""

    name: str
    signature: str
    value: Any


def unit_properties(order: UnitRequest, version: int) -> list[Property]:
    """Returns all properties of the unit, for this major version of systemd.

    Raises InvalidInput for a path that this systemd would lose at a daemon-reload, and NotAllowed
    for a model folder that cannot be hidden from the server.
    """
    _check_writable(order, version)
    properties = [
        *_description(order),
        *_service(order, version),
        *_restart(order.patience, version),
        *_limits(order.spec),
        *_identity(order),
        *_file_system(order),
        *_kernel(order),
        *_network(order),
        *_devices(),
        Property("LoadCredential", "a(ss)", [(CREDENTIAL, order.key_source)]),
    ]
    # The spec says more about the files than their paths, so the digest includes its hash.
    spec = Property(SPEC_FIELD, "s", order.spec.hash)
    return [*properties, _log_fields(order, digest([*properties, spec]))]


def digest(properties: Iterable[Property]) -> str:
    """Returns 16 hex digits; the same digest means the same unit, restart settings included."""
    shown = [(p.name, p.signature, p.value) for p in properties]
    text = json.dumps(shown, default=bytes.hex, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def field_of(fields: Iterable[bytes], name: str) -> str:
    """Returns the value of one of a unit's LogExtraFields; "" if the unit lacks it."""
    prefix = name.encode() + b"="
    found = (field for field in fields if field.startswith(prefix))
    return next(found, prefix).removeprefix(prefix).decode(errors="replace")


# -- groups of properties --------------------------------------------------------------------


def _description(order: UnitRequest) -> list[Property]:
    spec = order.spec
    profile = f", profile {order.profile}" if order.profile else ""
    return [
        Property("Description", "s", f"LLM {spec.model_id} (instance {spec.instance}{profile})"),
        Property("Slice", "s", "magi.slice"),
        Property("PartOf", "as", ["magi-models.target"]),
        Property("Wants", "as", ["magi-gpu.service", KEY_UNIT, "magi-models.target"]),
        Property("After", "as", ["network.target", "magi-gpu.service", KEY_UNIT]),
        # `systemctl isolate` leaves models alone, unless it stops magi-models.target.
        Property("IgnoreOnIsolate", "b", True),
        Property("CollectMode", "s", "inactive"),
        Property("AddRef", "b", True),
    ]


def _service(order: UnitRequest, version: int) -> list[Property]:
    patience = order.patience
    ready = f"{READY}{patience.max_startup_s:g}:{patience.check_interval_s:g}"
    gate = [PYTHON, "-I", "-S", f"{order.scripts}/exec_model.py", *order.server_words, ready]
    gate += [*map(str, order.files), "--"]
    return [
        Property("Type", "s", "notify"),
        # wait_ready.py is not the main process; the server itself cannot notify.
        Property("NotifyAccess", "s", "all"),
        command_property("ExecStart", [*gate, *order.argv], version),
        Property("TimeoutStartUSec", "t", _usec(patience.max_startup_s + _MARGIN_S)),
        Property("TimeoutStopUSec", "t", _usec(patience.stop_timeout_s)),
        Property("KillMode", "s", "mixed"),
        Property("OOMPolicy", "s", "stop"),
        Property("OOMScoreAdjust", "i", _OOM_SCORE),
        Property("SyslogIdentifier", "s", "llama-server"),
        Property("Environment", "as", [f"HOME={SCRATCH}", f"TMPDIR={SCRATCH}", *_gpus(order)]),
        Property("LimitMEMLOCK", "t", _NO_LIMIT),
        Property("LimitCORE", "t", 0),  # a core dump would be as large as the model
    ]


def _gpus(order: UnitRequest) -> list[str]:
    return [f"{k}={v}" for k, v in placement.environment_of(order.placement).items()]


def command_property(name: str, argv: Sequence[str], version: int) -> Property:
    """Returns a command in which systemd does not expand `$`.

    systemd 252 and 253 write ExecStartEx to the unit's file in a form that they cannot read (fixed
    in 254): the unit would lose its command at the next daemon-reload.
    """
    if version >= 254:
        return Property(f"{name}Ex", "a(sasas)", [(argv[0], list(argv), ["no-env-expand"])])
    return Property(name, "a(sasb)", [(argv[0], list(argv), False)])


def _restart(patience: Timeouts, version: int) -> list[Property]:
    """Restarts as the processes backend does, as far as systemd can: pauses grow from 254 on."""
    first, longest = patience.first_delay_s, patience.max_delay_s
    properties = [
        # Not "on-failure": a signal that a person sends to the process ends llama-server with 0.
        Property("Restart", "s", "always" if patience.restarts else "no"),
        Property("RestartUSec", "t", _usec(first)),
        Property("RestartPreventExitStatus", "(aiai)", (list(NO_RESTART), [])),
        Property("StartLimitIntervalUSec", "t", _usec(_window_s(patience))),
        Property("StartLimitBurst", "u", patience.restarts + 1),  # it counts the first start too
    ]
    if version >= 254 and longest > first:
        properties += [
            Property("RestartSteps", "u", max(1, math.ceil(math.log2(longest / first)))),
            Property("RestartMaxDelayUSec", "t", _usec(longest)),
        ]
    return properties


def _limits(spec: ServerSpec) -> list[Property]:
    """Returns the model's own limits; `systemctl set-property` and drop-ins offer many more."""
    limits = []
    if spec.memory_max is not None:
        limits.append(Property("MemoryMax", "t", spec.memory_max))
    if spec.cpu_quota is not None:
        limits.append(Property("CPUQuotaPerSecUSec", "t", spec.cpu_quota * 10_000))
    return limits


def _identity(order: UnitRequest) -> list[Property]:
    return [
        Property("DynamicUser", "b", True),
        Property("User", "s", f"llama-{order.spec.port}"),
        Property("SupplementaryGroups", "as", list(order.groups)),
        Property("NoNewPrivileges", "b", True),
        Property("CapabilityBoundingSet", "t", 0),
        Property("AmbientCapabilities", "t", 0),
        Property("KeyringMode", "s", "private"),
        Property("UMask", "u", 0o077),
    ]


def _file_system(order: UnitRequest) -> list[Property]:
    shown = _shown(order)
    homely = any(_is_below(path, home) for path in (*shown, *order.roots) for home in _HOMES)
    sources = {file.path: file.source for file in order.files}
    empty = [(path, "ro") for path in _hidden(order)]
    # A missing file must not fail the mount: exec_model.py reports it in words.
    bound = [(sources.get(path, path), path, True, _MS_REC) for path in (*shown, NOTIFY)]
    return [
        Property("ProtectSystem", "s", "strict"),
        Property("ProtectHome", "s", "tmpfs" if homely else "yes"),
        Property("PrivateTmp", "b", True),
        Property("PrivateMounts", "b", True),
        Property("TemporaryFileSystem", "a(ss)", [*empty, (SCRATCH, _SCRATCH_OPTIONS)]),
        Property("BindReadOnlyPaths", "a(ssbt)", bound),
        Property("ReadOnlyPaths", "as", list(_READ_ONLY)),
    ]


def _hidden(order: UnitRequest) -> list[str]:
    """Returns the fixed folders, and each model folder that is in none of them."""
    needed = (PYTHON, order.scripts, *order.program_folders, "/usr/lib", "/etc/passwd", "/run")
    outside = []
    for root in map(_mountable, order.roots):
        if any(_is_below(path, root) for path in needed):
            raise NotAllowed(
                f"cannot keep a server away from the rest of {root}: it holds parts of the system; "
                "set model_paths in magid.yaml to folders that hold models only",
                path=root,
            )
        if not any(_is_below(root, above) for above in (*_HIDDEN, *_HOMES)):
            outside.append(root)
    return [*_HIDDEN, *sorted(set(outside))]


def _shown(order: UnitRequest) -> list[str]:
    """Returns the paths to bind back into hidden folders: the programs and the model's files."""
    programs = {
        folder
        for folder in (*order.program_folders, order.scripts)
        if any(_is_below(folder, above) for above in (*_HIDDEN, *_HOMES, *order.roots))
    }
    return [*sorted(programs), *dict.fromkeys(file.path for file in order.files)]


def _kernel(order: UnitRequest) -> list[Property]:
    own = _LANDLOCK if order.filters_port or order.remote else ()
    return [
        *(Property(name, "b", True) for name in SWITCHES),
        Property("ProtectProc", "s", "invisible"),
        Property("RestrictNamespaces", "t", _CLONE_NEWUTS),  # the mask of allowed ones
        Property("SystemCallArchitectures", "as", ["native"]),
        Property("SystemCallFilter", "(bas)", (True, ["@system-service", *own])),
        Property("SystemCallFilter", "(bas)", (False, ["@privileged", "@keyring"])),
        Property("SystemCallErrorNumber", "i", 1),  # EPERM
    ]


# exec_model.py makes these calls, and forbids them to the server afterwards.
_LANDLOCK: Final = tuple(f"landlock_{x}" for x in ("create_ruleset", "add_rule", "restrict_self"))
SWITCHES: Final = (
    "PrivateIPC",
    "PrivateUsers",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RemoveIPC",
)


def _network(order: UnitRequest) -> list[Property]:
    """Allows the server's own address, 127.0.0.1 and ::1, its RPC servers, and its own port only.

    Not all of 127.0.0.0/8: a resolver listens there (127.0.0.53). systemd restricts binding only
    where it is built with BPF: not in Debian 12.
    """
    spec = order.spec
    inet, inet6 = int(socket.AF_INET), int(socket.AF_INET6)
    everyone = [(inet, bytes(4), 0), (inet6, bytes(16), 0)]
    allowed = [(inet, bytes([127, 0, 0, 1]), 32), (inet6, bytes(15) + b"\x01", 128)]
    if (own := _loopback(spec.host)) is not None and own not in allowed:
        allowed.append(own)
    allowed += [x for x in ((inet, a, 32) for a in order.remote_addresses) if x not in allowed]
    return [
        Property("RestrictAddressFamilies", "(bas)", (True, ["AF_INET", "AF_INET6", "AF_UNIX"])),
        Property("IPAddressDeny", "a(iayu)", everyone),
        Property("IPAddressAllow", "a(iayu)", allowed),
        *([] if order.filters_port else _own_port(spec.port)),
    ]


def _own_port(port: int) -> list[Property]:
    return [
        Property("SocketBindDeny", "a(iiqq)", [(0, 0, 0, 0)]),
        Property("SocketBindAllow", "a(iiqq)", [(0, int(socket.IPPROTO_TCP), 1, port)]),
    ]


def _loopback(host: str) -> tuple[int, bytes, int] | None:
    """Returns the server's address if it is one of the loopback interface, else None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name: `localhost` is one of the two addresses that are always allowed
        return None
    if not address.is_loopback:
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return (int(family), address.packed, address.max_prefixlen)


def _devices() -> list[Property]:
    """Allows GPUs by globs of their names in /proc/devices, because drivers changed the names."""
    return [
        Property("DevicePolicy", "s", "closed"),
        Property("DeviceAllow", "a(ss)", [(name, "rw") for name in DEVICES]),
    ]


def _log_fields(order: UnitRequest, made_of: str) -> Property:
    """Returns the fields that identify the unit in every journal entry and in its properties."""
    spec = order.spec
    fields = {
        "MAGI_MODEL": spec.model_id,
        "MAGI_INSTANCE": str(spec.instance),
        "MAGI_PROFILE": order.profile or "",
        SPEC_FIELD: spec.hash,
        ORDER_FIELD: made_of,
    }
    if order.placement is not None:
        fields[placement.FIELD] = order.placement.text
    return Property("LogExtraFields", "aay", [f"{k}={v}".encode() for k, v in fields.items()])


# -- values ----------------------------------------------------------------------------------


def _check_writable(order: UnitRequest, version: int) -> None:
    refused = UNMOUNTABLE if version >= 254 else UNMOUNTABLE | _UNWRITABLE
    files = [path for file in order.files for path in (file.path, file.source)]
    for path in (*files, *order.program_folders, order.scripts):
        if bad := refused & set(path):
            raise InvalidInput(
                f"cannot run {path}: systemd {version} cannot hand a file to a unit that has "
                f"{min(bad)!r} in its path; rename the file or its folder",
                field="spec.model_path",
            )


def _mountable(path: str) -> str:
    """Returns the folder, or its nearest parent that systemd can mount something on."""
    while UNMOUNTABLE & set(path):
        path = str(PurePosixPath(path).parent)
    return path


@lru_cache(4096)  # the same few paths with each start
def _is_below(path: str, folder: str) -> bool:
    """Whether the path is the folder itself or in it."""
    return PurePosixPath(path).is_relative_to(folder)


def _window_s(patience: Timeouts) -> float:
    """Returns a window that is long enough to count up to the limit.

    A server that hangs while it loads uses its whole startup time at each start. With a shorter
    window, systemd would forget the first start before the last one and never give up.
    """
    longest = patience.max_startup_s + patience.stop_timeout_s + patience.max_delay_s
    return max(patience.window_s, (patience.restarts + 1) * longest)


def _usec(seconds: float) -> int:
    return round(seconds * 1_000_000)
