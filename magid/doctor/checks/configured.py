"""What people have written: the configuration, profiles, the registry; and who may call magid."""

import shlex
from collections.abc import Iterator
from typing import Final

from magid.auth import token_store
from magid.config.addresses import is_loopback, rpc_server
from magid.doctor.facts import (
    AS_ROOT,
    CheckSkipped,
    Facts,
    Finding,
    FindingSeverity,
    Listener,
    NotCollected,
    configured,
    known,
)
from magid.standalone.serve_rpc import WARNING

_API: Final = ("magid.socket", "magid.service")
_RPC_SERVICE: Final = "magi-rpc.service"
_RPC_SOCKET: Final = "magi-rpc.socket"


def settings(facts: Facts) -> Iterator[Finding]:
    """The configuration can be used."""
    if facts.settings.unread:
        raise CheckSkipped(facts.settings.unread)
    if facts.settings.problem:
        yield Finding(
            "configuration-broken",
            facts.settings.problem,
            "magid does not start with it, and keeps what it had at a reload",
            do=f"correct {facts.settings.path}; `magid --check` says when it is right, then:",
            run=("magid --check && systemctl restart magid.service",),
        )


def profiles(facts: Facts) -> Iterator[Finding]:
    """Every profile can be read, and the active one is there."""
    found = known(facts.profiles)
    folder = facts.settings.config.profiles_dir
    for name, why in found.broken.items():
        path = shlex.quote(str(folder / f"{name}.yaml"))
        yield Finding(
            "profile-broken",
            why,
            "the profile cannot be activated; where it is active, the models stay as they are",
            do="correct it; or set it aside:",
            run=(f"mv {path} {path}.off",),
        )
    first = configured(facts).profile
    if facts.service and first and first not in found.names:
        yield Finding(
            "first-profile-missing",
            f"there is no profile {first}, which `profile` in {facts.settings.path} names",
            severity=FindingSeverity.WARNING,
            do=f"name one of {', '.join(sorted(found.names)) or 'none: make one first'}",
        )


def registry(facts: Facts) -> Iterator[Finding]:
    """The registry on disk is whole, and never was broken."""
    found = known(facts.registry)
    if found.problem:
        path = shlex.quote(found.path)
        yield Finding(
            "registry-broken",
            f"cannot use {found.path}: {found.problem}",
            "what was decided about models is in it; the last five versions are kept beside it",
            do="set it aside; a restart takes the newest copy that is whole:",
            run=(f"mv {path} {path}.broken", "systemctl restart magid.service"),
        )
    if found.aside:
        names = " ".join(map(shlex.quote, found.aside))
        yield Finding(
            "registry-was-broken",
            f"the registry was broken once, and an older copy is in use: {found.aside[-1]}",
            "the last changes before that may be missing",
            FindingSeverity.WARNING,
            do="see if overrides are missing (`magictl ls`), and then:",
            run=(f"rm {names}",),
        )

    for one in map(shlex.quote, found.original[:1]):
        yield Finding(
            "registry-to-import",
            f"magid has set {one} aside: it is a registry of S.Y.N.A.P.S.E. Engine",
            "what was decided there about models is not in force",
            FindingSeverity.WARNING,
            do="take it over, and keep the file under another name:",
            run=(f"magictl import --yes {one}", f"mv {one} {shlex.quote(found.path)}.imported"),
        )


def tokens(facts: Facts) -> Iterator[Finding]:
    """The file of tokens, where there is one, can be used."""
    if problem := known(facts.tokens).problem:
        path = shlex.quote(str(facts.settings.config.state_dir / token_store.NAME))
        yield Finding(
            "tokens-broken",
            problem,
            do="put a copy of yours back; or make new tokens, after:",
            run=(f"mv {path} {path}.broken", "systemctl reload-or-restart magid.service"),
        )


def exposure(facts: Facts) -> Iterator[Finding]:
    """Other machines can reach neither magid nor a server without authentication."""
    yield from _rpc_exposure(facts)
    yield from _rpc_offered(facts)
    low, high = configured(facts).port_range
    unknown = False
    for one in known(facts.listeners):
        if is_loopback(one.host):
            continue
        if one.unit in _API or (one.unit in ("", "init.scope") and _is_ours(facts, one.port)):
            yield from _api_exposure(facts, one)
        elif not one.pid and low <= one.port <= high:
            unknown = True
        elif one.unit.startswith("llama-server@") and low <= one.port <= high:
            yield Finding(
                "server-exposed",
                _open(one),
                "its key is all that keeps others out, and it is sent over the network unencrypted",
                do="magid gives servers loopback addresses only; start it again:",
                run=(f"systemctl stop {shlex.quote(one.unit)}", "magictl apply"),
            )
    if unknown:
        raise CheckSkipped(NotCollected("only root sees whose the open ports are", AS_ROOT))


def _rpc_exposure(facts: Facts) -> Iterator[Finding]:
    servers = configured(facts).rpc_servers
    if away := [one for one in servers if not is_loopback(one.rpartition(":")[0])]:
        yield Finding(
            "rpc-in-use",
            f"models may use GPUs of other machines, over RPC: {', '.join(away)}",
            f"{WARNING} A client can take over the machine of an RPC server, and the network sees "
            "prompts and answers",
            FindingSeverity.WARNING,
            do="give them a network of their own, or WireGuard or SSH tunnels, and let only this "
            f"machine in; rpc_servers in {facts.settings.path} names them",
        )


def _rpc_offered(facts: Facts) -> Iterator[Finding]:
    """What magi-rpc.service offers to other machines, or refuses to."""
    units = {} if isinstance(facts.units, NotCollected) else facts.units
    unit = units.get(_RPC_SOCKET)
    if unit is None or (unit.active != "active" and unit.enabled != "enabled"):
        return
    listens = [word for word in unit.shown.get("Listen", "").split() if ":" in word]
    if public := [one for one in listens if not _is_private(one)]:
        yield _rpc_public(", ".join(public))
    elif unit.active == "active":
        yield from _rpc_away(listens)


def _rpc_public(addresses: str) -> Finding:
    return Finding(
        "rpc-address-public",
        f"{_RPC_SOCKET} is set to {addresses}, which is no IPv4 address of a private network",
        f"{_RPC_SERVICE} refuses to serve it: the protocol has neither a password nor encryption",
        do=f"set another ListenStream= with `systemctl edit {_RPC_SOCKET}`; or go back to "
        "127.0.0.1:50052, which is enough for a tunnel:",
        run=(
            f"systemctl stop {_RPC_SERVICE} {_RPC_SOCKET}",
            f"systemctl revert {_RPC_SOCKET}",
            f"systemctl reset-failed {_RPC_SERVICE} {_RPC_SOCKET}",
            f"systemctl start {_RPC_SOCKET}",
        ),
    )


def _is_private(address: str) -> bool:
    try:
        rpc_server(address)
    except ValueError:
        return False
    return True


def _rpc_away(listens: list[str]) -> Iterator[Finding]:
    if away := [one for one in listens if not is_loopback(one.rpartition(":")[0].strip("[]"))]:
        yield Finding(
            "rpc-offered",
            f"this machine offers its GPUs over RPC at {', '.join(away)}",
            f"{WARNING} A client can take over {_RPC_SERVICE}, which has the GPUs and nothing "
            "else, and the network sees prompts and answers",
            FindingSeverity.WARNING,
            do="give it a network of its own, or WireGuard or SSH tunnels, and let only the "
            f"machines in that need it (IPAddressAllow=, `systemctl edit {_RPC_SOCKET}`); or turn "
            "it off:",
            run=(f"systemctl disable --now {_RPC_SERVICE} {_RPC_SOCKET}",),
        )


def _open(one: Listener) -> str:
    return f"port {one.port} is open to other machines: it listens on {one.host}"


def _api_exposure(facts: Facts, one: Listener) -> Iterator[Finding]:
    """As magid itself has it: a token or no start, and a warning without TLS."""
    tokens, config, path = known(facts.tokens), facts.settings.config, facts.settings.path
    if not tokens.count and not tokens.problem:
        yield Finding(
            "open-without-token",
            _open(one),
            "there is no token that would keep others out, so magid does not start",
            do="for others to reach it: magictl token create --offline --scope admin --name NAME, "
            f"and tls_cert and tls_key in {path}; or let magid listen on loopback alone:",
            run=(
                "systemctl revert magid.socket",
                "systemctl stop magid.service magid.socket",
                "systemctl start magid.socket magid.service",
            ),
        )
    elif config.tls_cert is None:
        yield Finding(
            "open-without-tls",
            _open(one),
            "what goes over it, tokens too, can be read on the way",
            FindingSeverity.WARNING,
            do=f"set tls_cert and tls_key in {path} and restart magid.service, or put a proxy with "
            "TLS before a loopback address",
        )


def _is_ours(facts: Facts, port: int) -> bool:
    """Whether this port is one that PID 1 holds open for magid.socket."""
    listens = known(facts.units)["magid.socket"].shown.get("Listen", "")
    return f":{port} " in f"{listens} "
