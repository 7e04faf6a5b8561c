"""Collects the facts about this machine, in parallel and each with a timeout.

A call that hangs (on a network mount whose server is gone) is left behind in its thread, which ends
with the process; its fact is then NotCollected. `checks.all` turns the facts into findings.
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
from magid.doctor.collect import files, hardware, sandbox_trial, services
from magid.doctor.collect.commands import CannotCollect, ask_as_magi, output_of
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
from magid.systemd.unit_names import port_in

T = TypeVar("T")
Source = Callable[[], Any]  # collects one fact

TIMEOUT_S: Final = 15.0
LIBRARY: Final = Path("/usr/lib/magi")
_NO_ROOT: Final = NotCollected("only root can look", AS_ROOT)
_NO_SERVICE: Final = NotCollected("magid is not installed as a service of this machine")


def facts(ask: services.Ask, path: Path = config.DEFAULT_PATH) -> Facts:
    """Returns what the caller may see of this machine. Takes about a second; never raises."""
    settings = read_settings(path)
    root = os.geteuid() == 0
    found = _collect(_independent_sources(settings, root))
    service = _is_service(found["units"])
    found |= _collect(
        {
            "daemon": _daemon_source(ask, found["units"], service=service),
            **_dependent_sources(settings, found, root=root, service=service),
        }
    )
    return Facts(service=service, settings=settings, **found)


def read_settings(path: Path) -> Settings:
    """Reads the settings from the file only, as the launcher does, without the environment."""
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


def _daemon_source(ask: services.Ask, seen: Any, *, service: bool) -> Source:
    """Returns the source of DaemonFacts. Does not query a failed magid, which would start it."""
    if service and isinstance(seen, dict) and seen["magid.service"].has_failed:
        return lambda: DaemonFacts(problem="magid.service has failed")
    return partial(services.daemon, ask)


def _independent_sources(settings: Settings, root: bool) -> dict[str, Source | NotCollected]:
    state = settings.config.state_dir
    return {
        "machine": partial(machine, settings.config),
        "accounts": files.accounts,
        "units": services.units,
        "places": partial(files.places, settings.config, settings.path),
        "volumes": partial(files.volumes, (state, Path("/run"), Path("/var/log"))),
        "files": settings.unknown or (partial(files.files, settings.config) if root else _NO_ROOT),
        "listeners": services.listeners,
        "gpus": hardware.gpus,
        "registry": partial(files.registry, settings.config),
        "profiles": partial(files.profiles, settings.config),
        "tokens": partial(files.tokens, settings.config),
    }


def _dependent_sources(
    settings: Settings, found: dict[str, Any], *, root: bool, service: bool
) -> dict[str, Source | NotCollected]:
    """Returns the sources that need other facts, or an installed service."""
    if not service:
        names = ("writing", "folders", "unread", "trial", "launcher", "said")
        return dict.fromkeys(names, _NO_SERVICE)
    config, seen = settings.config, found["files"]
    paths = [] if isinstance(seen, NotCollected) else [f.path for f in seen if not f.refused]
    runs = [] if isinstance(found["units"], NotCollected) else found["units"].values()
    sources: dict[str, Source | NotCollected] = {
        "writing": partial(ask_as_magi, "write", str(config.state_dir)),
        "folders": settings.unknown or partial(files.folders, config),
        "unread": partial(files.unread, config, settings.path),
        "trial": settings.unknown or partial(sandbox_trial.trial, config, paths),
    }
    return {
        "launcher": services.launcher,
        **(sources if root else dict.fromkeys(sources, _NO_ROOT)),
        "said": partial(services.said_of_gpus, _invocations(runs)),
    }


def _invocations(runs: Any) -> dict[str, str]:
    running = [unit for unit in runs if _is_model(unit) and unit.invocation]
    return {unit.name: unit.invocation for unit in running}


def _is_model(unit: ServiceUnit) -> bool:
    return port_in(unit.name) is not None


def _collect(sources: dict[str, Source | NotCollected]) -> dict[str, Any]:
    """Collects all facts in parallel. A source that fails or is late gives NotCollected."""
    found: dict[str, Any] = {}

    def take(name: str, source: Source) -> None:
        try:
            found[name] = source()
        except CannotCollect as error:
            found[name] = NotCollected(str(error))
        except MagidError as error:
            found[name] = NotCollected(error.message)
        except PermissionError as error:
            found[name] = NotCollected(f"{error.filename}: {error.strerror}", AS_ROOT)
        except Exception as error:  # one broken source must not hide the other facts
            found[name] = NotCollected(f"{type(error).__name__}: {error}")

    threads = {}
    for name, source in sources.items():
        if isinstance(source, NotCollected):
            found[name] = source
        else:
            threads[name] = Thread(target=take, args=(name, source), daemon=True)
            threads[name].start()
    began = time.monotonic()
    for name, thread in threads.items():
        thread.join(max(0.0, began + _timeout_s(name) - time.monotonic()))
    return {name: found.get(name, _late(name)) for name in sources}


def _timeout_s(name: str) -> float:
    return TIMEOUT_S + (sandbox_trial.TRIAL_S if name == "trial" else 0)


def _late(name: str) -> Any:
    """Returns what replaces the fact of a source that hangs."""
    if name == "daemon":
        return DaemonFacts(problem=f"magid does not answer within {TIMEOUT_S:g} s")
    return NotCollected(
        f"no answer within {_timeout_s(name):g} s: does a file system or systemd hang?"
    )


# -- the machine -----------------------------------------------------------------------------


def machine(settings: Config) -> Machine:
    """Returns the properties of the machine, and its clock."""
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
