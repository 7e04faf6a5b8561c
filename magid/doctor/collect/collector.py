"""All looks, side by side and each with a deadline: nothing on a sick machine holds doctor up.

A look that hangs (a network mount whose server is gone) is left behind in its thread, which ends
with the process, and what it was to see is unknown.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar

from magid.config import loading as config
from magid.config.settings import Config
from magid.doctor.collect import files as kept
from magid.doctor.collect import files as models
from magid.doctor.collect import files as places
from magid.doctor.collect import hardware, sandbox_trial, services
from magid.doctor.collect import services as daemon
from magid.doctor.collect import services as ports
from magid.doctor.collect.commands import CannotLook, ask_as_magi, output_of
from magid.doctor.facts import (
    AS_ROOT,
    DaemonFacts,
    Facts,
    Machine,
    NotCollected,
    ServiceUnit,
    Settings,
)
from magid.errors import InvalidConfig, MagidError
from magid.host.control_groups import controllers
from magid.systemd import journald_conf

T = TypeVar("T")
Look = Callable[[], Any]

LOOK_S: Final = 15.0
LIBRARY: Final = Path("/usr/lib/magi")
_NO_ROOT: Final = NotCollected("only root can look", AS_ROOT)
_NO_SERVICE: Final = NotCollected("magid is not installed as a service of this machine")


def facts(ask: daemon.Ask, path: Path = config.DEFAULT_PATH) -> Facts:
    """What the caller may see of this machine, now. Takes about a second; never raises."""
    settings = read_settings(path)
    root = os.geteuid() == 0
    found = _taken(_first_looks(settings, root))
    service = _is_service(found["units"])
    found |= _taken(
        {
            "daemon": _daemon_look(ask, found["units"], service=service),
            **_later_looks(settings, found, root=root, service=service),
        }
    )
    return Facts(service=service, settings=settings, **found)


def read_settings(path: Path) -> Settings:
    """The file alone, as the launcher reads it: a service has no one's environment."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        pass  # all settings have defaults
    except OSError as error:
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            unread = NotCollected(f"{path}: {error.strerror}", AS_ROOT)
            return Settings(path, Config(), unread=unread)
        return Settings(path, Config(), f"cannot read {path}: {error.strerror}")
    try:
        return Settings(path, config.load({}, {}, path).config)
    except InvalidConfig as error:
        return Settings(path, Config(), error.message)


def _is_service(found: Any) -> bool:
    there = isinstance(found, dict) and found["magid.service"].load != "not-found"
    return there or (LIBRARY / "magi-launcher").exists()


def _daemon_look(ask: daemon.Ask, seen: Any, *, service: bool) -> Look:
    """Returns the look at magid. A failed one is not queried: that would restart it and hang."""
    if service and isinstance(seen, dict) and seen["magid.service"].has_failed:
        return lambda: DaemonFacts(problem="magid.service has failed")
    return partial(daemon.daemon, ask)


def _first_looks(settings: Settings, root: bool) -> dict[str, Look | NotCollected]:
    state = settings.config.state_dir
    return {
        "machine": partial(machine, settings.config),
        "accounts": places.accounts,
        "units": services.units,
        "places": partial(places.places, settings.config, settings.path),
        "volumes": partial(places.volumes, (state, Path("/run"), Path("/var/log"))),
        "files": settings.unknown or (partial(models.files, settings.config) if root else _NO_ROOT),
        "listeners": ports.listeners,
        "gpus": hardware.gpus,
        "registry": partial(kept.registry, settings.config),
        "profiles": partial(kept.profiles, settings.config),
        "tokens": partial(kept.tokens, settings.config),
    }


def _later_looks(
    settings: Settings, found: dict[str, Any], *, root: bool, service: bool
) -> dict[str, Look | NotCollected]:
    """Those that need another one, or a machine that has the service."""
    if not service:
        names = ("writing", "folders", "unread", "trial", "launcher", "said")
        return dict.fromkeys(names, _NO_SERVICE)
    config, files = settings.config, found["files"]
    paths = [] if isinstance(files, NotCollected) else [f.path for f in files if not f.refused]
    runs = [] if isinstance(found["units"], NotCollected) else found["units"].values()
    looks: dict[str, Look | NotCollected] = {
        "writing": partial(ask_as_magi, "write", str(config.state_dir)),
        "folders": settings.unknown or partial(models.folders, config),
        "unread": partial(kept.unread, config, settings.path),
        "trial": settings.unknown or partial(sandbox_trial.trial, config, paths),
    }
    return {
        "launcher": daemon.launcher,
        **(looks if root else dict.fromkeys(looks, _NO_ROOT)),
        "said": partial(services.said_of_gpus, _invocations(runs)),
    }


def _invocations(runs: Any) -> dict[str, str]:
    running = [unit for unit in runs if _is_model(unit) and unit.invocation]
    return {unit.name: unit.invocation for unit in running}


def _is_model(unit: ServiceUnit) -> bool:
    return unit.name.startswith("llama-server@") and unit.name != services.TRIAL


def _taken(looks: dict[str, Look | NotCollected]) -> dict[str, Any]:
    """Takes all looks at once. A look that fails or is late gives NotCollected."""
    found: dict[str, Any] = {}

    def take(name: str, look: Look) -> None:
        try:
            found[name] = look()
        except CannotLook as error:
            found[name] = NotCollected(str(error))
        except MagidError as error:
            found[name] = NotCollected(error.message)
        except PermissionError as error:
            found[name] = NotCollected(f"{error.filename}: {error.strerror}", AS_ROOT)
        except Exception as error:  # one broken look must not hide the others
            found[name] = NotCollected(f"{type(error).__name__}: {error}")

    threads = {}
    for name, look in looks.items():
        if isinstance(look, NotCollected):
            found[name] = look
        else:
            threads[name] = Thread(target=take, args=(name, look), daemon=True)
            threads[name].start()
    began = time.monotonic()
    for name, thread in threads.items():
        thread.join(max(0.0, began + _patience(name) - time.monotonic()))
    return {name: found.get(name, _late(name)) for name in looks}


def _patience(name: str) -> float:
    return LOOK_S + (sandbox_trial.TRIAL_S if name == "trial" else 0)


def _late(name: str) -> Any:
    """In the place of a look that hangs."""
    if name == "daemon":
        return DaemonFacts(problem=f"magid does not answer within {LOOK_S:g} s")
    return NotCollected(
        f"no answer within {_patience(name):g} s: does a file system or systemd hang?"
    )


# -- the machine -----------------------------------------------------------------------------


def machine(settings: Config) -> Machine:
    """What the machine is, and what time it has."""
    version, features = services.version_and_features()
    booted = Path("/run/systemd/system").is_dir()  # sd_booted(3)
    return Machine(
        systemd=version if booted else 0,
        features=features,
        unified=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        container=Path("/run/systemd/container").exists(),
        clock=time.time(),
        synchronised=_synchronised() if booted else None,
        installed=Path(__file__).stat().st_ctime,
        written=_newest(settings.state_dir),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        controllers=controllers(),
        storage=journald_conf.storage(),
    )


def _synchronised() -> bool | None:
    answer = output_of(["timedatectl", "show", "--property=NTPSynchronized", "--value"], 5).strip()
    return {"yes": True, "no": False}.get(answer)


def _newest(folder: Path) -> float:
    try:
        return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
    except OSError:
        return 0.0
