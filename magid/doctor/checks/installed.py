"""What the package needs and installs: systemd, users and groups, folders and their owners."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from magid.doctor.collect.files import API, ETC, KEY_SOCKET, KEYS, LAUNCHER, MODELS, VIEW
from magid.doctor.facts import (
    CheckSkipped,
    Facts,
    Finding,
    FindingSeverity,
    NotCollected,
    Place,
    known,
)
from magid.standalone import state_owners

TMPFILES: Final = "/usr/lib/tmpfiles.d/magi.conf"
OWNERS: Final = "/usr/lib/magi/magi-owners"
OLDEST_SYSTEMD: Final = 252  # Debian 12's, and the oldest that the lab boots
_GROUPS: Final = ("magi", "magi-models", "magi-view")
_GROWING: Final = 254  # RestartSteps=


def restarted(*names: str) -> tuple[str, ...]:
    """Commands that start units whatever became of them before, the start limit included.

    All of magid's, where none is named: a socket cannot be started while its service runs, and a
    client that waits at it starts the service.
    """
    if names:
        chosen = " ".join(names)
        return (f"systemctl reset-failed {chosen}", f"systemctl restart {chosen}")
    sockets = "magid.socket magid-local.socket magid-view.socket"
    return (
        f"systemctl reset-failed {sockets} magid.service",
        f"systemctl stop {sockets} magid.service",
        f"systemctl start {sockets} magid.service",
    )


def service_only(facts: Facts) -> None:
    """Raises CheckSkipped if magid is not a service."""
    if not facts.service:
        raise CheckSkipped(NotCollected("magid is not installed as a service of this machine"))


def systemd(facts: Facts) -> Iterator[Finding]:
    """The init is systemd, new enough, and on cgroup v2."""
    machine = known(facts.machine)
    if not machine.systemd:
        raise CheckSkipped(
            NotCollected("this machine does not run systemd: servers are magid's children")
        )
    if machine.systemd < OLDEST_SYSTEMD:
        yield Finding(
            "systemd-too-old",
            f"systemd {machine.systemd} is too old",
            f"the units of models are made for {OLDEST_SYSTEMD} and newer",
            do="upgrade to Debian 12, Ubuntu 24.04 or newer",
        )
    elif machine.systemd < _GROWING:
        yield Finding(
            "pauses-do-not-grow",
            f"systemd {machine.systemd} does not know RestartSteps=",
            f"pauses between restarts of a server do not grow; from {_GROWING} on they do",
            FindingSeverity.NOTE,
        )
    if not machine.unified:
        yield Finding(
            "control-groups-1",
            "the kernel's control groups are not version 2",
            "servers run, but the sandbox's rules for addresses need it: servers can send to "
            "other machines",
            FindingSeverity.WARNING,
            do="boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        )
    if "-BPF_FRAMEWORK" in machine.features:
        yield Finding(
            "bpf-missing",
            f"this systemd {machine.systemd} is built without BPF_FRAMEWORK",
            "SocketBindDeny= does nothing: a server could listen on other free ports of loopback",
            FindingSeverity.NOTE,
        )


def accounts(facts: Facts) -> Iterator[Finding]:
    """The users and groups that systemd-sysusers makes."""
    service_only(facts)
    found = known(facts.accounts)
    missing = [f"user {name}" for name in ("magi",) if name not in found.users]
    missing += [f"group {n}" for n in _GROUPS if n not in found.groups]
    if missing:
        yield Finding(
            "account-missing",
            f"there is no {' and no '.join(missing)}",
            "magid runs as magi, magi-models may put models into its folder, magi-view may read",
            run=("systemd-sysusers", *_given_back(facts), *restarted()),
        )


def _given_back(facts: Facts) -> tuple[str, ...]:
    """Commands that make magid the owner of its files, and of nothing else: models keep theirs."""
    config = facts.settings.config
    folders = (str(config.state_dir), str(config.profiles_dir))
    models = shlex.quote(str(config.state_dir / MODELS))
    state, profiles = map(shlex.quote, folders)
    usual = folders == (state_owners.STATE, state_owners.PROFILES)
    find = f"find {state}/ {profiles} -xdev -path {models} -prune -o"
    return (
        f"systemd-tmpfiles --create {TMPFILES}",
        OWNERS if usual else f"{find} -exec chown -h magi:magi {{}} +",
        f"chgrp -R magi-models {models}",
    )


def owners(facts: Facts) -> Iterator[Finding]:
    """Folders and sockets of magid have the right owners, and are closed to other users."""
    service_only(facts)
    places, settings = known(facts.places), facts.settings
    state = str(settings.config.state_dir)
    yield from _of_state(facts, places, state)
    yield from _of_folders(facts, places)
    yield from _too_open(places, (ETC, str(settings.path)), 0o022, "0{kept:o}", "root")
    yield from _too_open(places, (API, LAUNCHER), 0o007, "0660", "the group magi")
    yield from _too_open(places, (VIEW,), 0o007, "0660", "the group magi-view")
    yield from _too_open(places, (KEY_SOCKET,), 0o077, "0600", "root")
    yield from _too_open(places, (KEYS,), 0o027, "2750", "the group magi")
    yield from _too_open(places, (state,), 0o007, "0750", "magi")
    yield from _unread(facts, state)
    known(facts.registry)  # who may not look into the state folder has not seen all owners


def _of_state(facts: Facts, places: Mapping[str, Place], state: str) -> Iterator[Finding]:
    """Yields what keeps magid from its state folder, or from files in it."""
    folder = places.get(state)
    others = [place for place in places.values() if _is_in(place, state) and place.user != "magi"]
    if folder and folder.user != "magi":
        yield Finding(
            "state-folder-of-another-user",
            f"{state} belongs to {folder.user}",
            "magid, which runs as magi, cannot write to it",
            run=(*_given_back(facts), *restarted()),
        )
    elif others:
        yield Finding(
            "state-file-of-another-user",
            f"{others[0].path} belongs to {others[0].user}",
            "magid, which runs as magi, may not be able to read it or to replace it",
            run=_given_back(facts),
        )


def _of_folders(facts: Facts, places: Mapping[str, Place]) -> Iterator[Finding]:
    """Yields the folders that a backup of another machine, or a chown, took from magid."""
    config = facts.settings.config
    profiles = places.get(str(config.profiles_dir))
    if profiles and profiles.user != "magi":
        yield Finding(
            "profile-folder-of-another-user",
            f"{profiles.path} belongs to {profiles.user}",
            "magid, which runs as magi, cannot make or change a profile",
            run=_given_back(facts),
        )
    models = places.get(str(config.state_dir / MODELS))
    if models and models.group != "magi-models":
        yield Finding(
            "model-folder-of-another-group",
            f"{models.path} belongs to the group {models.group}",
            "those in the group magi-models cannot put models there, and servers may not read them",
            run=_given_back(facts),
        )


def _unread(facts: Facts, state: str) -> Iterator[Finding]:
    """Yields the files that the user magi cannot read. Those of the check before are told once."""
    places = known(facts.places)
    own = (state, str(facts.settings.config.profiles_dir))
    for path, (why, where) in known(facts.unread).items():
        if path in places and places[path].user != "magi" and _is_in(places[path], state):
            continue
        name = shlex.quote(path)
        if where != path:
            run: tuple[str, ...] = (f"chmod o+x {shlex.quote(where)}",)
        elif PurePosixPath(path).parent in map(PurePosixPath, own):
            run = (f"chown magi:magi {name} && chmod u+rw {name}",)
        else:
            run = (f"chgrp magi {name} && chmod g+r {name}",)
        yield Finding(
            "file-unread",
            f"magid cannot read {path}: {why}",
            f"it runs as the user magi{f', which cannot enter {where}' if where != path else ''}",
            run=(*run, "systemctl reload-or-restart magid.service"),
        )


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
                "open-to-others",
                f"{path} is open to others than {whose}: its mode is {place.mode:04o}",
                "who can use it can change or use what magid runs",
                run=(f"chmod {right} {shlex.quote(path)}",),
            )
