"""The unit of a download: the network without this machine and its neighbours, and one folder.

Pure, but for what `authorize_download` finds out: which resolvers there are, and whether there is a
token. From a request come only the parts of a source, which were checked one by one.
"""

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from magid.config.settings import Config
from magid.errors import InvalidInput, NotAllowed
from magid.launcher.download_request import DownloadRequest
from magid.launcher.sandbox import SWITCHES, UNMOUNTABLE, Property, command_property
from magid.library.transfer_command import QUESTIONS, STOP_S, arguments, library_of

PROGRAM: Final = "/usr/lib/magi/magi-download"
USER: Final = "magi-library"
GROUP: Final = "magi-models"
CREDENTIAL: Final = "hub-token"
RESOLV_CONF: Final = Path("/etc/resolv.conf")
_FIELD: Final = "MAGI_DOWNLOAD"
# Read-only and empty within the unit, but for what is bound into it.
_HIDDEN: Final = ("/var", "/run", "/etc/magi", "/srv", "/mnt", "/media", "/opt", "/models")
# What a name is looked up with: files that /etc/resolv.conf may link to, and resolved's socket.
_RESOLVERS: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
_PRIVATE: Final = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/127", "64:ff9b:1::/48", "fc00::/7",
    "fe80::/10", "ff00::/8",
)  # fmt: skip
_MS_REC: Final = 0x4000
_MEMORY_HIGH: Final = 128 << 20  # beyond it the kernel takes back page cache
_MEMORY_MAX: Final = 512 << 20
_LOW: Final = 20  # of 100, when others want the processor or the disk too
_TASKS: Final = 32
_RESTART_S: Final = 5
_WINDOW_S: Final = 600
_BURST: Final = 5
# A failure that a restart would meet again; wrong usage.
_FINAL: Final = (1, 2)


def download_unit(request: DownloadRequest) -> str:
    """Returns the unit's name. Pure: it is made of the checked source."""
    name = request.action if request.action in QUESTIONS else request.source.job_id
    return f"magi-download@{name}.service"


def authorize_download(
    request: DownloadRequest, settings: Config, version: int, resolv_conf: Path = RESOLV_CONF
) -> list[Property]:
    """Returns the properties of the unit that a request asks for. Blocks.

    Raises NotAllowed if there is no library, or if the token is open to other users.
    """
    library = library_of(settings)
    if bad := UNMOUNTABLE & set(str(library)):
        raise InvalidInput(
            f"cannot download to {library}: systemd cannot hand a folder to a unit that has "
            f"{min(bad)!r} in its path; choose another library_path",
            field="library_path",
        )
    argv = [PROGRAM, *arguments(request.action, request.source, settings, request.more)]
    allowed = [*_resolvers(resolv_conf), *_endpoint_addresses(settings.downloads.endpoint)]
    return unit_of_download(request, library, argv, allowed, _token(settings), version)


def unit_of_download(
    request: DownloadRequest,
    library: Path,
    argv: Sequence[str],
    allowed: Iterable[str],
    token: Path | None,
    version: int,
) -> list[Property]:
    """Returns the unit's properties. Pure."""
    return [
        *_service(request, argv, version),
        *_identity(token),
        *_folders(library),
        *_kernel_of_download(),
        *_network_of_download(allowed),
        *_resources(),
    ]


def _service(request: DownloadRequest, argv: Sequence[str], version: int) -> list[Property]:
    is_lasting = request.action == "run"
    restart = [
        Property("Restart", "s", "on-failure"),
        Property("RestartUSec", "t", _RESTART_S * 1_000_000),
        Property("RestartPreventExitStatus", "(aiai)", (list(_FINAL), [])),
        Property("StartLimitIntervalUSec", "t", _WINDOW_S * 1_000_000),
        Property("StartLimitBurst", "u", _BURST),
    ]
    return [
        Property("Description", "s", f"Download of {request.source.text} ({request.action})"),
        Property("CollectMode", "s", "inactive" if is_lasting else "inactive-or-failed"),
        Property("Type", "s", "exec" if is_lasting else "oneshot"),
        *(restart if is_lasting else ()),
        Property("After", "as", ["network.target", "nss-lookup.target"]),
        command_property("ExecStart", argv, version),
        Property("TimeoutStopUSec", "t", int(STOP_S * 1e6)),
        Property("SyslogIdentifier", "s", "magi-download"),
        Property("LogExtraFields", "aay", [f"{_FIELD}={request.source.job_id}".encode()]),
    ]


def _identity(token: Path | None) -> list[Property]:
    secret = [Property("LoadCredential", "a(ss)", [(CREDENTIAL, str(token))])] if token else []
    return [
        Property("User", "s", USER),
        Property("Group", "s", GROUP),
        Property("NoNewPrivileges", "b", True),
        Property("CapabilityBoundingSet", "t", 0),
        Property("AmbientCapabilities", "t", 0),
        Property("KeyringMode", "s", "private"),
        Property("UMask", "u", 0o002),
        *secret,
    ]


def _folders(library: Path) -> list[Property]:
    bound = [(path, path, True, _MS_REC) for path in _RESOLVERS]
    return [
        Property("ProtectSystem", "s", "strict"),
        Property("ProtectHome", "s", "tmpfs"),
        Property("PrivateTmp", "b", True),
        Property("PrivateMounts", "b", True),
        Property("PrivateDevices", "b", True),
        Property("DevicePolicy", "s", "closed"),
        Property("TemporaryFileSystem", "a(ss)", [(path, "ro") for path in _HIDDEN]),
        Property("BindReadOnlyPaths", "a(ssbt)", bound),
        Property("BindPaths", "a(ssbt)", [(str(library), str(library), False, _MS_REC)]),
        Property("ReadWritePaths", "as", [str(library)]),
    ]


def _kernel_of_download() -> list[Property]:
    return [
        *(Property(name, "b", True) for name in SWITCHES),
        Property("ProtectProc", "s", "invisible"),
        Property("ProcSubset", "s", "pid"),
        Property("RestrictNamespaces", "t", 0x0400_0000),  # as in `sandbox`: none that it could use
        Property("SystemCallArchitectures", "as", ["native"]),
        Property("SystemCallFilter", "(bas)", (True, ["@system-service"])),
        Property("SystemCallFilter", "(bas)", (False, ["@privileged", "@resources", "@keyring"])),
        Property("SystemCallErrorNumber", "i", 1),  # EPERM
    ]


def _network_of_download(allowed: Iterable[str]) -> list[Property]:
    families = ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"]
    return [
        Property("RestrictAddressFamilies", "(bas)", (True, families)),
        Property("IPAddressDeny", "a(iayu)", [_network(text) for text in _PRIVATE]),
        Property("IPAddressAllow", "a(iayu)", [_network(text) for text in dict.fromkeys(allowed)]),
        Property("SocketBindDeny", "a(iiqq)", [(0, 0, 0, 0)]),
    ]


def _resources() -> list[Property]:
    return [
        Property("CPUWeight", "t", _LOW),
        Property("IOWeight", "t", _LOW),
        Property("Nice", "i", 10),
        Property("MemoryHigh", "t", _MEMORY_HIGH),
        Property("MemoryMax", "t", _MEMORY_MAX),
        Property("TasksMax", "t", _TASKS),
        Property("LimitCORE", "t", 0),
    ]


def _network(text: str) -> tuple[int, bytes, int]:
    network = ipaddress.ip_network(text)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return int(family), network.network_address.packed, network.prefixlen


def _resolvers(path: Path) -> list[str]:
    """Returns the addresses of resolvers: without them no name is known to the unit."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    named = (w[1].partition("%")[0] for w in words if len(w) > 1 and w[0] == "nameserver")
    return [text for text in named if _is_address(text)]


def _endpoint_addresses(endpoint: str) -> list[str]:
    """Returns the endpoint's address, if it is one: a mirror may be on this network."""
    host = urlsplit(endpoint).hostname or ""
    return [host] if _is_address(host) else []


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _token(settings: Config) -> Path | None:
    """Returns the token's file; None without one. Raises NotAllowed if others may read it."""
    path = settings.downloads.token_path
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotAllowed(f"cannot use {path}: {error.strerror}", field="token_path") from None
    if found.st_uid != 0 or found.st_mode & 0o077:
        raise NotAllowed(
            f"cannot use {path}: users other than root may read the token, or change it; "
            f"chown root:root {path} && chmod 600 {path}",
            field="token_path",
        )
    return path
