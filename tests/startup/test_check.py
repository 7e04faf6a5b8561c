"""The addresses of the socket units, and how findings are shown. Files are looked at in the lab."""

import dataclasses
from pathlib import Path

from magid.config.settings import Config
from magid.doctor.collect.services import OURS
from magid.doctor.facts import Listener, ServiceUnit
from magid.startup.addresses import listens_on, of_service, restart_command
from magid.startup.check import StartupFacts
from magid.startup.files import outside_sandbox
from magid.startup.problem import Problem, problem_of, rendered

LISTEN = "127.0.0.1:8000 (Stream) [::1]:8000 (Stream)"


def unit(name: str, active: str = "active", listen: str = "", load: str = "loaded") -> ServiceUnit:
    return ServiceUnit(
        name, load, active, "enabled", "success", False, "", (), "", {"Listen": listen}
    )


def found(
    *listeners: Listener, active: str = "failed", listen: str = LISTEN, has_token: bool = False
) -> list[Problem]:
    units = {name: unit(name) for name in OURS} | {
        "magid.socket": unit("magid.socket", active, listen),
        "magid-local.socket": unit("magid-local.socket", "active", "/run/magi/magid.sock (Stream)"),
        "magid-view.socket": unit("magid-view.socket", "active", "/run/magi/view.sock (Stream)"),
    }
    return list(of_service(units, listeners, has_token=has_token))


def test_who_has_the_port_and_what_ends_it() -> None:
    web = Listener("127.0.0.1", 8000, 12, "python3", "web.service")
    (one,) = found(web)
    assert rendered(one) == (
        "magid: cannot listen on 127.0.0.1:8000: python3 (pid 12, web.service) listens there\n"
        "    end it, or choose another port (systemctl edit magid.socket):\n"
        "    systemctl stop web.service"
    )
    assert [f.what for f in found(Listener("0.0.0.0", 8000, 12, "nc"))] == [
        "cannot listen on 127.0.0.1:8000", "cannot listen on [::1]:8000",
    ]  # fmt: skip
    assert found(Listener("::1", 8000, 12, "nc"))[0].run == ("kill 12",)
    assert found(Listener("::1", 8000))[0].run == (
        "ss --listening --tcp --processes 'sport = 8000'",
    )
    assert found(Listener("::1", 8000, 1, "systemd"))[0].run == ("systemctl list-sockets --all",)


def test_what_is_none_of_ours_or_held_by_systemd() -> None:
    assert found(Listener("192.0.2.7", 8000, 12), Listener("127.0.0.1", 8001, 12)) == []
    assert found(Listener("127.0.0.1", 8000, 1, "systemd"), active="active") == []


def test_an_open_address_needs_a_token() -> None:
    (one,) = found(active="active", listen="0.0.0.0:8000 (Stream)")
    assert one.what == "cannot listen on 0.0.0.0:8000"
    assert one.run == ("magictl token create --offline --scope admin --name NAME",)
    assert found(active="active", listen="0.0.0.0:8000 (Stream)", has_token=True) == []


def restart(active: str, *listeners: Listener) -> str:
    units = {name: unit(name) for name in OURS} | {
        "magid.socket": unit("magid.socket", active, "0.0.0.0:8000 (Stream)")
    }
    return restart_command(units, listeners)


def test_a_socket_that_has_other_addresses_now_is_stopped_first() -> None:
    before = Listener("127.0.0.1", 8000, 1, "systemd")
    assert restart("active", before) == ("systemctl stop magid.socket && systemctl restart magid")
    assert restart("active", Listener("0.0.0.0", 8000, 1, "systemd")) == "systemctl restart magid"
    assert restart("failed", before) == "systemctl restart magid"


def test_other_kinds_of_addresses_are_left_to_magid() -> None:
    assert listens_on(unit("x", listen="kobject-uevent 1 (Netlink) /p (Datagram)")) == []
    assert listens_on(unit("x")) == []


SANDBOX = {"ProtectSystem": "strict", "ReadWritePaths": "-/var/lib/magi -/etc/magi/profiles"}


def outside(state: str, shown: dict[str, str]) -> list[Problem]:
    service = dataclasses.replace(unit("magid.service"), shown=shown)
    return list(outside_sandbox(Config(state_dir=Path(state)), service))


def test_folders_that_the_sandbox_of_the_service_closes() -> None:
    assert outside("/var/lib/magi", SANDBOX) == []
    assert outside("/srv/magi", {"ProtectSystem": "no"}) == []
    (one,) = outside("/srv/magi", SANDBOX)
    assert one.what == "cannot write to /srv/magi"
    assert one.run[-2].startswith("echo ReadWritePaths=/srv/magi >>/etc/systemd/system/magid.")
    assert outside("/srv/magi", SANDBOX | {"ReadWritePaths": "/srv /etc/magi/profiles"}) == []


def test_errors_as_findings() -> None:
    assert problem_of("cannot do x: it: is y; do z") == Problem(
        "cannot do x", "it: is y", do="do z"
    )
    assert problem_of("cannot do x: it is y") == Problem("cannot do x", "it is y")
    assert problem_of("cannot do x") == Problem("cannot do x")


def test_a_machine_without_the_service() -> None:
    assert not StartupFacts({}, ()).is_service
    missing = unit("magid.service", load="not-found")
    assert not StartupFacts({"magid.service": missing}, ()).is_service
