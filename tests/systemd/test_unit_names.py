"""The unit of a process, on every kind of control groups that systemd has."""

import pytest

from magid.systemd.unit_names import unit_of_process

VERSION_2 = "0::/system.slice/magid.service\n"
VERSION_1 = """\
9:name=systemd:/magi.slice/llama-server@8080.service
4:memory:/
0::/
"""
HYBRID = """\
9:name=systemd:/magi.slice/llama-server@8080.service
4:memory:/magi.slice/llama-server@8080.service
0::/magi.slice/llama-server@8080.service
"""
OF_A_USER = "0::/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope\n"


@pytest.mark.parametrize(
    ("cgroup", "service", "any_unit"),
    [
        (VERSION_2, "magid.service", "magid.service"),
        (VERSION_1, "llama-server@8080.service", "llama-server@8080.service"),
        (VERSION_1.replace("0::/\n", ""), "llama-server@8080.service", "llama-server@8080.service"),
        (HYBRID, "llama-server@8080.service", "llama-server@8080.service"),
        ("9:name=systemd:/\n8:pids:/\n" + VERSION_2, "magid.service", "magid.service"),
        (OF_A_USER, "user@0.service", "run-1.scope"),
        ("0::/init.scope\n", "", "init.scope"),
        ("1:name=systemd:/x y.service\n0::/\n", "", ""),
        ("0::/\n", "", ""),
        ("", "", ""),
    ],
)
def test_the_unit_of_a_process(cgroup: str, service: str, any_unit: str) -> None:
    assert unit_of_process(cgroup, ".service") == service
    assert unit_of_process(cgroup, ".service", ".scope") == any_unit
