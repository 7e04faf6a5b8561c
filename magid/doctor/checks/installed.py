"""What the package installs (users, folders, units), and local changes to it."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from magid.doctor.collect.files import API, ETC, KEY_SOCKET, KEYS, LAUNCHER
from magid.doctor.collect.services import TRIAL
from magid.doctor.facts import (
    CheckSkipped,
    Facts,
    Finding,
    NotCollected,
    Place,
    Severity,
    Unit,
    known,
)

OLDEST_SYSTEMD: Final = 252  # Debian 12's, and the oldest that the lab boots
_GROWING: Final = 254  # RestartSteps=
# Started by hand or at boot; the launcher's service is its socket's business.
_ENABLED: Final = ("magid.service", "magid.socket", "magid-local.socket")
_WANTED: Final = (  # in the order of starts
    *("magi-key.socket", "magi-launcher.socket"),
    *(*_ENABLED[1:], "magid.service"),
)
_SHIPPED: Final[Mapping[str, Mapping[str, str]]] = {
    "magid.service": {
        "User": "magi",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "PrivateDevices": "yes",
    },
    "magi-launcher.service": {"User": "root", "NoNewPrivileges": "yes", "ProtectSystem": "strict"},
}
_MODELS: Final = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "DevicePolicy": "closed",
}


def systemd(facts: Facts) -> Iterator[Finding]:
    """The init is systemd, new enough, and on cgroup v2."""
    machine = known(facts.machine)
    if not machine.systemd:
        raise CheckSkipped(
            NotCollected("this machine does not run systemd: servers are magid's children")
        )
    if machine.systemd < OLDEST_SYSTEMD:
        yield Finding(
            f"systemd {machine.systemd} is too old",
            f"the units of models are made for {OLDEST_SYSTEMD} and newer",
            do="upgrade to Debian 12, Ubuntu 24.04 or newer",
        )
    elif machine.systemd < _GROWING:
        yield Finding(
            f"systemd {machine.systemd} does not know RestartSteps=",
            f"pauses between restarts of a server do not grow; from {_GROWING} on they do",
            Severity.NOTE,
        )
    if not machine.unified:
        yield Finding(
            "the kernel's control groups are not version 2",
            "limits of memory and the sandbox's rules for devices and addresses need it",
            do="boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        )
    if "-BPF_FRAMEWORK" in machine.features:
        yield Finding(
            f"this systemd {machine.systemd} is built without BPF_FRAMEWORK",
            "SocketBindDeny= does nothing: a server could listen on other free ports of loopback",
            Severity.NOTE,
        )


def accounts(facts: Facts) -> Iterator[Finding]:
    """The users and groups that systemd-sysusers makes."""
    _service_only(facts)
    found = known(facts.accounts)
    missing = [f"user {name}" for name in ("magi",) if name not in found.users]
    missing += [f"group {n}" for n in ("magi", "magi-models") if n not in found.groups]
    if missing:
        yield Finding(
            f"there is no {' and no '.join(missing)}",
            "magid runs as magi, and magi-models may put models into its folder",
            run=("systemd-sysusers", "systemd-tmpfiles --create", *_started("magid.service")),
        )


def owners(facts: Facts) -> Iterator[Finding]:
    """Folders and sockets of magid have the right owners, and are closed to other users."""
    _service_only(facts)
    places, settings = known(facts.places), facts.settings
    state = str(settings.config.state_dir)
    if state in places and places[state].user != "magi":
        yield Finding(
            f"{state} belongs to {places[state].user}",
            "magid, which runs as magi, cannot write to it",
            run=(f"chown -R magi:magi {shlex.quote(state)}", *_started("magid.service")),
        )
    elif others := [p for p in places.values() if _is_in(p, state) and p.user != "magi"]:
        names = " ".join(shlex.quote(p.path) for p in others)
        yield Finding(
            f"{others[0].path} belongs to {others[0].user}",
            "magid, which runs as magi, may not be able to read it or to replace it",
            run=(f"chown magi:magi {names}",),
        )
    yield from _too_open(places, (ETC, str(settings.path)), 0o022, "0{kept:o}", "root")
    yield from _too_open(places, (API, LAUNCHER), 0o007, "0660", "the group magi")
    yield from _too_open(places, (KEY_SOCKET,), 0o077, "0600", "root")
    yield from _too_open(places, (KEYS,), 0o027, "2750", "the group magi")
    yield from _too_open(places, (state,), 0o007, "0750", "magi")


def _is_in(place: Place, folder: str) -> bool:
    """A file that magid itself reads and replaces; not its models, not an administrator's notes."""
    return place.path.startswith(f"{folder}/model_registry.json") or place.path.startswith(
        f"{folder}/magid.lock"
    )


def _too_open(
    places: Mapping[str, Place], paths: tuple[str, ...], bits: int, mode: str, whose: str
) -> Iterator[Finding]:
    """Yields a finding for each path that others than `whose` can use by these permission bits."""
    for path in paths:
        place = places.get(path)
        if place and place.mode & bits:
            right = mode.format(kept=place.mode & ~bits)
            yield Finding(
                f"{path} is open to others than {whose}: its mode is {place.mode:04o}",
                "who can use it can change or use what magid runs",
                run=(f"chmod {right} {shlex.quote(path)}",),
            )


# -- units -----------------------------------------------------------------------------------


def units(facts: Facts) -> Iterator[Finding]:
    """The units are there, enabled, and none has failed."""
    _service_only(facts)
    found = known(facts.units)
    for name in _WANTED:
        yield from _of_unit(found[name])
    stale = sorted(unit.name for unit in found.values() if unit.stale)
    if stale:
        yield Finding(
            f"systemd has not read the files of {', '.join(stale)} again since they changed",
            "what runs is not what the files say",
            Severity.WARNING,
            run=("systemctl daemon-reload",),
        )
    template = found[TRIAL].fragment
    if template and not template.startswith("/run/systemd/transient/"):
        yield Finding(
            f"{template} keeps every model from being started",
            "systemd refuses a transient unit of a name that has a file; drop-ins are fine",
            run=(f"mv {shlex.quote(template)} {shlex.quote(template)}.off",
                 "systemctl daemon-reload", "magictl apply"),
        )  # fmt: skip


def _of_unit(unit: Unit) -> Iterator[Finding]:
    if unit.load == "masked":
        yield Finding(
            f"{unit.name} is masked", "it cannot be started",
            run=(f"systemctl unmask {unit.name}", *_started(unit.name)),
        )  # fmt: skip
    elif unit.load == "not-found":
        yield Finding(
            f"{unit.name} is not there",
            "a part of the package is missing",
            run=("apt install --reinstall magi",),
        )
    elif unit.load != "loaded":
        yield Finding(
            f"systemd cannot use {unit.name}: {unit.load}",
            f"most often a drop-in is wrong: {' '.join(unit.drop_ins) or unit.fragment}",
            do=f"`systemd-analyze verify {unit.name}` names the line; correct it, "
            "then run `systemctl daemon-reload`",
        )
    else:
        yield from _of_loaded(unit)


def _of_loaded(unit: Unit) -> Iterator[Finding]:
    disabled = unit.name in _ENABLED and unit.enabled == "disabled"
    if disabled:
        yield Finding(
            f"{unit.name} is not enabled",
            "it will not be there after the next boot",
            Severity.WARNING,
            run=(f"systemctl enable --now {unit.name}",),
        )
    if unit.active == "failed":
        yield from _failed(unit)
    elif unit.active == "inactive" and not disabled:
        yield Finding(f"{unit.name} does not run", run=_started(unit.name))


def _failed(unit: Unit) -> Iterator[Finding]:
    said = unit.shown.get("StatusText", "")
    if said.startswith("cannot "):  # magid has named the cause before it ended
        yield Finding(
            said,
            f"so {unit.name} does not start",
            do="when it is mended:",
            run=("magid --check", *_started(unit.name)),
        )
        return
    why = {
        "start-limit-hit": "it was started too often in a short time; its log says why it ended",
        "exit-code": "it ended with an error; its log says which",
        "watchdog": "it did not answer systemd's watchdog",
    }.get(unit.result, f"its result is {unit.result}")
    log = () if unit.name.endswith(".socket") else (f"journalctl -n 20 --no-pager -u {unit.name}",)
    yield Finding(f"{unit.name} has failed", why, run=(*log, *_started(unit.name)))


def _started(name: str) -> tuple[str, ...]:
    """Whatever it was before. A socket whose service runs cannot be started by itself."""
    return (f"systemctl reset-failed {name}", f"systemctl restart {name}")


def drop_ins(facts: Facts) -> Iterator[Finding]:
    """No drop-in takes away what keeps magid and the models in their boxes."""
    _service_only(facts)
    for unit in known(facts.units).values():
        model = unit.name.startswith("llama-server@") and unit.name != TRIAL
        shipped = _MODELS if model else _SHIPPED.get(unit.name, {})
        if unit.load != "loaded" or not unit.drop_ins:
            continue
        changed = [
            f"{name}={unit.shown[name]}"
            for name, value in shipped.items()
            if name in unit.shown and unit.shown[name] != value
        ]
        if changed:
            names = " ".join(shlex.quote(path) for path in unit.drop_ins)
            yield Finding(
                f"{unit.name} has less protection than it should: {', '.join(changed)}",
                f"by a drop-in: {' '.join(unit.drop_ins)}",
                Severity.WARNING,
                do="take these lines out of it; or take it away:",
                run=(f"rm {names}", "systemctl daemon-reload", f"systemctl restart {unit.name}"),
            )


def _service_only(facts: Facts) -> None:
    """Raises CheckSkipped if magid is not a service."""
    if not facts.service:
        raise CheckSkipped(NotCollected("magid is not installed as a service of this machine"))
