"""The package's units, and local changes to them."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from magid.doctor.checks.installed import restarted, service_only
from magid.doctor.checks.ports import SOCKET, taker
from magid.doctor.collect.services import TRIAL
from magid.doctor.facts import Facts, Finding, FindingSeverity, ServiceUnit, known
from magid.systemd.unit_names import port_in

# Started by hand or at boot; the launcher's service is its socket's business.
_ENABLED: Final = ("magid.service", "magid.socket", "magid-local.socket", "magid-view.socket")
_WANTED: Final = (  # in the order of starts
    *("magi-key.socket", "magi-launcher.socket"),
    *(*_ENABLED[1:], "magid.service"),
)
LAUNCHER: Final = "magi-launcher.service"
_OPTIONAL: Final = ("magi-rpc.socket", "magi-rpc.service")  # off unless an administrator wants it
_SHIPPED: Final[Mapping[str, Mapping[str, str]]] = {
    "magid.service": {
        "User": "magi",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "PrivateDevices": "yes",
    },
    "magi-rpc.service": {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "DevicePolicy": "closed",
        "PrivateNetwork": "yes",
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


def units(facts: Facts) -> Iterator[Finding]:
    """The units are there, enabled, and none has failed."""
    service_only(facts)
    found = known(facts.units)
    told = {SOCKET} if taker(facts) else set()  # by the check of the ports
    if facts.settings.problem and found["magid.service"].said:
        told.add("magid.service")  # by the check of the settings
    for name in _WANTED:
        if name not in told:
            yield from _of_unit(found[name])
    if found[LAUNCHER].load == "masked":
        yield from _of_unit(found[LAUNCHER])
    for name in _OPTIONAL:
        if found[name].has_failed:
            yield _failed(found[name])
    stale = sorted(unit.name for unit in found.values() if unit.stale)
    if stale:
        yield Finding(
            "unit-files-not-read",
            f"systemd has not read the files of {', '.join(stale)} again since they changed",
            "what runs is not what the files say",
            FindingSeverity.WARNING,
            run=("systemctl daemon-reload",),
        )
    template = found[TRIAL].fragment
    if template and not template.startswith("/run/systemd/transient/"):
        yield Finding(
            "template-in-the-way",
            f"{template} keeps every model from being started",
            "systemd refuses a transient unit of a name that has a file; drop-ins are fine",
            run=(*set_aside([template]), "magictl apply"),
        )


def _of_unit(unit: ServiceUnit) -> Iterator[Finding]:
    if unit.load == "masked":
        yield Finding(
            "unit-masked",
            f"{unit.name} is masked",
            "it cannot be started",
            run=(f"systemctl unmask {unit.name}", *_restarted(unit)),
        )
    elif unit.load == "not-found":
        yield Finding(
            "unit-missing",
            f"{unit.name} is not there",
            "a part of the package is missing",
            do="install the package again; one that was installed from a file, from that file:",
            run=("apt install --reinstall magi", *_restarted(unit)),
        )
    elif unit.load != "loaded":
        files = unit.drop_ins or (unit.fragment,)
        yield Finding(
            "unit-unusable",
            f"systemd cannot use {unit.name}: {unit.load}",
            f"by a local change: {' '.join(files)}",
            do=f"`systemd-analyze verify {unit.name}` names the line; correct it, or set it aside:",
            run=(*set_aside(files), *_restarted(unit)),
        )
    else:
        yield from _of_loaded(unit)


def _restarted(unit: ServiceUnit) -> tuple[str, ...]:
    return restarted() if unit.name in _ENABLED else restarted(unit.name)


def set_aside(files: Iterable[str]) -> tuple[str, ...]:
    """Commands that make systemd forget these files, and keep them."""
    quoted = (shlex.quote(path) for path in files)
    return (*(f"mv {path} {path}.off" for path in quoted), "systemctl daemon-reload")


def _of_loaded(unit: ServiceUnit) -> Iterator[Finding]:
    disabled = unit.name in _ENABLED and unit.enabled == "disabled"
    if disabled:
        yield Finding(
            "unit-not-enabled",
            f"{unit.name} is not enabled",
            "it will not be there after the next boot",
            FindingSeverity.WARNING,
            run=(f"systemctl enable --now {unit.name}",),
        )
    if unit.has_failed:
        yield _failed(unit)
    elif unit.active == "inactive" and not disabled:
        yield Finding("unit-not-running", f"{unit.name} does not run", run=_restarted(unit))


def _failed(unit: ServiceUnit) -> Finding:
    if unit.said:
        return Finding(
            "magid-cannot-start",
            unit.said,
            f"so {unit.name} does not start",
            do="when it is mended:",
            run=("magid --check", *_restarted(unit)),
        )
    why = {
        "start-limit-hit": "it was started too often in a short time; its log says why it ended",
        "exit-code": "it ended with an error; its log says which",
        "watchdog": "it did not answer systemd's watchdog",
    }.get(unit.result, f"its result is {unit.result}")
    log = () if unit.name.endswith(".socket") else (f"journalctl -n 20 --no-pager -u {unit.name}",)
    verb = "has failed" if unit.active == "failed" else "fails again and again"
    return Finding("unit-failed", f"{unit.name} {verb}", why, run=(*log, *_restarted(unit)))


def drop_ins(facts: Facts) -> Iterator[Finding]:
    """No drop-in takes away what keeps magid and the models in their boxes."""
    service_only(facts)
    for unit in known(facts.units).values():
        model = port_in(unit.name) is not None
        shipped = _MODELS if model else _SHIPPED.get(unit.name, {})
        if unit.load != "loaded" or not unit.drop_ins:
            continue
        changed = [
            f"{name}={unit.shown[name]}"
            for name, value in shipped.items()
            if name in unit.shown and unit.shown[name] != value
        ]
        if changed:
            yield Finding(
                "protection-taken-away",
                f"{unit.name} has less protection than it should: {', '.join(changed)}",
                f"by a drop-in: {' '.join(unit.drop_ins)}",
                FindingSeverity.WARNING,
                do="take these lines out of it; or set it aside:",
                run=(*set_aside(unit.drop_ins), f"systemctl restart {unit.name}"),
            )
