"""Decides what the launcher does with a start request: it describes one unit, or refuses.

Only root may write the configuration. Its file is looked at for each request: an edit takes effect
at once.
"""

import grp
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from magid.config import loading as config
from magid.config.settings import Config
from magid.errors import InvalidConfig, NotAllowed
from magid.launcher import protocol
from magid.launcher.model_files import Examined, examine, shards
from magid.launcher.protocol import StartRequest
from magid.launcher.unit_request import Timeouts, UnitRequest
from magid.llama.arguments import server_argv
from magid.llama.engines import check_owned, program_for
from magid.llama.placement import Placement
from magid.llama.program import FoundProgram, find_program
from magid.standalone import SCRIPTS
from magid.standalone.call_filters import can_bind_only

KEY_SOCKET: Final = "/run/magi/key.sock"
PROGRAM_PLACES: Final = "/usr/local/bin:/usr/bin:/bin"
_SYSTEM: Final = ("/usr", "/etc", "/proc", "/sys", "/dev", "/run", "/tmp")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_SETTLED_NS: Final = 2_000_000_000
_GROUPS: Final = ("render", "video", "magi-models")  # GPU devices, and models that not all may read


Examine = Callable[[Sequence[str], Sequence[Path]], Examined]
Find = Callable[[str | None, str], FoundProgram]


def authorize(
    start: StartRequest,
    settings: Config,
    examine: Examine = examine,
    find: Find = find_program,
) -> UnitRequest:
    """Returns the unit that a request asks for. Blocks.

    Raises MagidError if the unit is not allowed or cannot be made.
    """
    spec = start.spec
    check_port(spec.port, settings)
    if spec.host != settings.llama_server_host:
        raise NotAllowed(
            f"cannot listen on {spec.host}: llama_server_host in magid.yaml is "
            f"{settings.llama_server_host}",
            field="spec.host",
        )
    program = configured_program(settings, find, spec.engine)
    key = protocol.credential_path(spec.port)
    argv = server_argv(spec, str(program.path), key, start.flags, start.placement)
    projector = () if spec.mmproj_path is None else (spec.mmproj_path,)
    draft = () if spec.draft_path is None else shards(spec.draft_path)
    beside = (*projector, *draft, *spec.lora_paths)
    found = examine((*shards(spec.model_path), *beside), settings.model_paths)
    folders = program_folders(program)
    return UnitRequest(
        spec=spec,
        profile=start.profile,
        argv=tuple(argv),
        files=found.files,
        roots=(*found.roots, *covers(found.unanswered, mount_points(), (*folders, str(SCRIPTS)))),
        program_folders=folders,
        scripts=str(SCRIPTS),
        key_source=KEY_SOCKET,
        groups=groups_here(),
        patience=patience_of(settings),
        filters_port=can_bind_only(),
        placement=start.placement,
        remote=remote_of(start.placement, settings),
    )


def remote_of(placement: Placement | None, settings: Config) -> tuple[str, ...]:
    """Returns the RPC servers of a placement. Raises NotAllowed for one that is not configured."""
    remote = () if placement is None else placement.remote
    if unknown := [one for one in remote if one not in settings.rpc_servers]:
        raise NotAllowed(
            f"cannot use the RPC server {unknown[0]}: rpc_servers in magid.yaml does not have it",
            field="placement",
        )
    return may_reach(remote)


def may_reach(remote: tuple[str, ...]) -> tuple[str, ...]:
    """Returns these RPC servers. Raises NotAllowed if the kernel cannot keep a unit to them."""
    if remote and not can_bind_only():
        raise NotAllowed(
            "cannot use RPC servers: this kernel cannot keep a server to their ports; that takes "
            "Linux 6.7 with Landlock"
        )
    return remote


def covers(roots: Iterable[str], points: Iterable[str], needed: Iterable[str]) -> tuple[str, ...]:
    """Returns the folders to hide in place of model folders that hang. Pure.

    systemd would hang too if it touched the model folder. So the parent folder of its mount is
    hidden, unless that contains parts of the system.
    """
    system = (*needed, *_SYSTEM)
    above = set()
    for root in roots:
        path = PurePosixPath(root)
        under = max((p for p in points if path.is_relative_to(p)), key=len, default="/")
        folder = PurePosixPath(under).parent
        if not any(PurePosixPath(part).is_relative_to(folder) for part in system):
            above.add(str(folder))
    return tuple(sorted(above))


def mount_points() -> list[str]:
    """Returns the mount points that this process sees, without touching them.

    In the kernel's table, \\040 is a space.
    """
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [_OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4]) for line in lines]


def check_port(port: int, settings: Config) -> None:
    """Raises NotAllowed outside the configured range."""
    low, high = settings.port_range
    if not low <= port <= high:
        raise NotAllowed(
            f"cannot use port {port}: port_range in magid.yaml is [{low}, {high}]", field="port"
        )


def patience_of(settings: Config) -> Timeouts:
    """Returns the timeouts and restart limits of the configuration."""
    restart = settings.restart
    return Timeouts(
        max_startup_s=settings.max_startup_time,
        check_interval_s=settings.readiness_check_interval,
        stop_timeout_s=settings.stop_timeout,
        restarts=restart.limit,
        window_s=restart.window,
        first_delay_s=restart.first_delay,
        max_delay_s=restart.max_delay,
    )


def configured_program(settings: Config, find: Find, engine: str | None = None) -> FoundProgram:
    """Returns the llama-server of an engine; without one that of the configuration, or the default.

    Raises LlamaServerMissing; InvalidConfig if others than root may write to the engines.
    """
    own = settings.llama_server_path
    program = program_for(engine, str(own) if own else None, settings.engines_dir)
    if program is not None and Path(program).is_relative_to(settings.engines_dir):
        check_owned(settings.engines_dir)
    return find(program, PROGRAM_PLACES)


def program_folders(program: FoundProgram) -> tuple[str, ...]:
    """Returns the folders that the program needs to run: its own, and that of its real path. Pure.

    A program in PREFIX/bin finds its libraries in PREFIX/lib; any other finds them beside itself.
    """
    homes = (program.path.parent, program.real.parent)
    folders = {folder.parent if folder.name == "bin" else folder for folder in homes}
    return tuple(sorted(str(folder) for folder in folders))


def groups_here() -> tuple[str, ...]:
    """Returns the servers' groups that exist here: systemd fails a unit with a missing group."""
    return tuple(filter(_group_exists, _GROUPS))


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


class ConfigFile:
    """The configuration, which is read again only if its file has changed. For one thread."""

    def __init__(self, path: Path = config.DEFAULT_PATH, settled_ns: int = _SETTLED_NS) -> None:
        """What was read within `settled_ns` of the file's last change is not kept."""
        self._path, self._settled_ns = path, settled_ns
        self._known: tuple[tuple[int, ...], Config] | None = None

    def __call__(self) -> Config:
        """Is `read_config`."""
        try:
            status = self._path.stat()
        except OSError:
            return read_config(self._path)
        key = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size, status.st_uid)
        if self._known is not None and self._known[0] == key:
            return self._known[1]
        found = read_config(self._path)
        # Times of files are coarse: one that has just changed may change again within its time.
        age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
        self._known = (key, found) if age_ns >= self._settled_ns else None
        return found


def read_config(path: Path = config.DEFAULT_PATH) -> Config:
    """Reads the configuration file, and ignores the environment. Raises InvalidConfig.

    Root must own the file, and no other user may write to it.
    """
    with suppress(FileNotFoundError):
        status = path.stat()
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise InvalidConfig(
                f"cannot use {path}: users other than root may write to it; chown root:root and "
                "chmod go-w it"
            )
    return config.load({}, {}, path).config
