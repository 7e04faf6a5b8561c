"""Removes files of a model in a unit that may write to the library and to nothing else.

The launcher itself may write nowhere. The unit is root's, with one capability, because files in the
library may belong to any user; it has no network, no devices and no view of other folders, and
`standalone/remove_files.py` is all that it runs.
"""

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.errors import InvalidInput, NotAllowed
from magid.launcher.model_files import real_roots, status_without_links
from magid.launcher.protocol import RemoveRequest
from magid.launcher.sandbox import PYTHON, SWITCHES, Property, command_property
from magid.launcher.short_runs import output_of
from magid.launcher.transient_units import Units
from magid.launcher.unit_request import CheckedFile
from magid.llama.file_removal import RUN, SCRIPT
from magid.standalone import SCRIPTS

UNIT: Final = "magi-remove.service"
_CAP_DAC_OVERRIDE: Final = 1 << 1
_MOUNTLESS: Final = frozenset(": '\"\\")  # systemd loses paths with these at a daemon-reload
# Empty within the unit; the library is bound into it.
_HIDDEN: Final = ("/var", "/run", "/etc", "/srv", "/mnt", "/media", "/opt", "/home", "/root")
_MS_REC: Final = 0x4000
_MEMORY_MAX: Final = 64 << 20


async def output(request: RemoveRequest, units: Units, settings: Config) -> bytes:
    """Returns what `remove_files.py` printed. Calls must not overlap.

    Raises NotAllowed without a library, InvalidInput, ServerFailed, Busy, BusError.
    """
    library = await asyncio.to_thread(library_of, settings)
    return await output_of(units, UNIT, removal_unit(request, library, units.version), RUN)


def library_of(settings: Config) -> CheckedFile:
    """Returns the library, links of root's resolved. Blocks. Raises NotAllowed, InvalidInput.

    With its inode: by default magid's user owns the folder above, and could put a link in its place
    before systemd binds it into the unit.
    """
    if settings.library_root is None:
        raise NotAllowed(
            "cannot remove files: library_path in magid.yaml is in none of model_paths",
            field="library_path",
        )
    found = real_roots((settings.library_root,))
    status = _folder(found[0]) if found else None
    if status is None or found[0] in ("/", *_HIDDEN):
        raise NotAllowed(
            f"cannot remove files: {settings.library_root} cannot be used as library_path",
            field="library_path",
        )
    if bad := _MOUNTLESS & set(found[0]):
        raise InvalidInput(
            f"cannot remove files in {found[0]}: systemd cannot hand a folder to a unit that has "
            f"{min(bad)!r} in its path; choose another library_path",
            field="library_path",
        )
    return CheckedFile(found[0], status.st_dev, status.st_ino)


def _folder(path: str) -> os.stat_result | None:
    """Returns the status of a folder that no link leads to."""
    try:
        status = status_without_links(path)
    except OSError:
        return None
    return status if stat.S_ISDIR(status.st_mode) else None


def removal_unit(request: RemoveRequest, library: CheckedFile, version: int) -> list[Property]:
    """Returns the unit's properties. Pure. Raises NotAllowed for a path outside the library."""
    root = library.path
    for file in request.files:
        if not file.path.startswith(f"{root}/"):
            raise NotAllowed(f"cannot remove {file.path}: it is not below {root}", path=file.path)
    argv = [PYTHON, "-I", "-S", str(SCRIPTS / SCRIPT), str(library), *map(str, request.files)]
    return [
        Property("Description", "s", "Removes model files for magid"),
        Property("Type", "s", "oneshot"),
        Property("CollectMode", "s", "inactive-or-failed"),
        Property("TimeoutStartUSec", "t", int(RUN.seconds * 1e6)),
        command_property("ExecStart", argv, version),
        Property("User", "s", "root"),
        Property("NoNewPrivileges", "b", True),
        Property("CapabilityBoundingSet", "t", _CAP_DAC_OVERRIDE),
        Property("AmbientCapabilities", "t", 0),
        Property("KeyringMode", "s", "private"),
        *_folders(root),
        *_kernel_and_network(),
        Property("MemoryMax", "t", _MEMORY_MAX),
        Property("TasksMax", "t", 8),
    ]


def _folders(root: str) -> Sequence[Property]:
    hidden = [path for path in _HIDDEN if not _is_needed(path)]
    bound = [(root, root, False, _MS_REC)]
    return (
        Property("ProtectSystem", "s", "strict"),
        Property("PrivateTmp", "b", True),
        Property("PrivateMounts", "b", True),
        Property("PrivateDevices", "b", True),
        Property("DevicePolicy", "s", "closed"),
        Property("TemporaryFileSystem", "a(ss)", [(path, "ro") for path in hidden]),
        Property("BindPaths", "a(ssbt)", bound),
        Property("ReadWritePaths", "as", [root]),
    )


def _is_needed(path: str) -> bool:
    """Whether the program itself lies there, as in a checkout."""
    return Path(SCRIPTS).is_relative_to(path)


def _kernel_and_network() -> Sequence[Property]:
    return (
        *(Property(name, "b", True) for name in SWITCHES if name != "PrivateUsers"),
        Property("ProtectProc", "s", "invisible"),
        Property("RestrictNamespaces", "t", 0x0400_0000),  # as in `sandbox`: none that it could use
        Property("SystemCallArchitectures", "as", ["native"]),
        Property("SystemCallFilter", "(bas)", (True, ["@system-service"])),
        Property("SystemCallFilter", "(bas)", (False, ["@privileged", "@resources", "@keyring"])),
        Property("SystemCallErrorNumber", "i", 1),  # EPERM
        Property("PrivateNetwork", "b", True),
        Property("RestrictAddressFamilies", "(bas)", (True, ["AF_UNIX"])),
    )
