"""Each check of `magictl doctor`, from what was seen to what is said. Pure, but for the probe."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from magid.auth import token_store
from magid.auth.tokens import Scope, make
from magid.cli.verbs.doctor import as_json
from magid.config.settings import Config
from magid.control.conditions import Code
from magid.doctor.checks import conditions
from magid.doctor.checks.all import CHECKS, results
from magid.doctor.collect import files as kept
from magid.doctor.facts import (
    AS_ROOT,
    DaemonFacts,
    Facts,
    FindingSeverity,
    Listener,
    NotCollected,
    Place,
    ProfileFiles,
    Settings,
    Tokens,
)
from tests.lab import faults
from tests.lab.faults_alone import ALONE
from tests.lab.gpu_faults import GPU_FAULTS
from tests.support import findings
from tests.support.doctor_cases import CASES, NO_SOCKET
from tests.support.doctor_machines import (
    FITS,
    GIB,
    HEALTHY,
    NVIDIA,
    OPEN,
    UNITS,
    found,
    machine,
    reported,
    unit,
    with_models,
    with_unit,
)


def test_a_healthy_machine() -> None:
    assert found() == []
    assert all(result.not_made is None for result in results(HEALTHY))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[2]}")
def test_what_is_found(case: tuple[str, dict[str, Any], str, str]) -> None:
    name, changes, says, remedy = case
    matching = [finding for check, finding in found(**changes) if check == name]
    assert [says in finding.what for finding in matching] == [True], matching
    (finding,) = matching
    if remedy:
        assert (finding.do or finding.run[0]).startswith(remedy) or finding.run[0].startswith(
            remedy
        ), finding
    assert finding.name in findings.names()
    for command in finding.run:
        assert subprocess.run(["sh", "-n"], input=command.encode(), check=False).returncode == 0


def test_each_check_has_a_case() -> None:
    assert {case[0] for case in CASES} == {check.name for check in CHECKS}


def test_each_finding_has_a_case() -> None:
    seen = {finding.name for _, changes, *_ in CASES for _, finding in found(**changes)}
    assert seen == findings.names()


def test_each_finding_is_planted_or_nothing_could_mend_it() -> None:
    """test_doctor_faults_lab.py and test_gpu_faults_lab.py plant them, and do what doctor says."""
    every = (*faults.TOGETHER, *ALONE, *GPU_FAULTS)
    planted = {fault.finding for fault in every}
    mended = {fault.finding for fault in every if not fault.by_hand}
    assert findings.names() == planted | faults.NO_COMMAND.keys()
    assert not mended & faults.NO_COMMAND.keys()


def test_a_gpu_counts_as_memory() -> None:
    assert found(gpus=NVIDIA, trial=FITS, daemon=with_models(100 * GIB)) == []
    (one,) = found(gpus=NVIDIA, trial=FITS, daemon=with_models(200 * GIB))
    assert "the machine has 144.0 GiB with its GPUs" in one[1].what


def test_an_open_port_is_as_bad_as_what_is_missing() -> None:
    """A token and TLS: nothing. TLS alone does not ask anybody who he is."""

    def worst(tokens: Tokens | NotCollected, config: Config) -> list[FindingSeverity]:
        settings = Settings(Path("/etc/magi/magid.yaml"), config)
        seen = found(listeners=(OPEN,), tokens=tokens, settings=settings)
        return [finding.severity for name, finding in seen if name == "exposure"]

    tls = Config(tls_cert=Path("/c.pem"), tls_key=Path("/k.pem"))
    for none in (Tokens(), Tokens(0)):
        assert worst(none, Config()) == worst(none, tls) == [FindingSeverity.ERROR]
    for one in (Tokens(1), Tokens(problem="cannot use it")):  # a broken file keeps all out
        assert worst(one, Config()) == [FindingSeverity.WARNING]
        assert worst(one, tls) == []
    assert worst(NotCollected("only root can look", AS_ROOT), Config()) == []


def test_open_ports_whose_program_is_hidden() -> None:
    """Without root it is seen that they are open, and not whose they are."""
    listens = {**UNITS, "magid.socket": unit("magid.socket", shown={"Listen": "0.0.0.0:8000 (S)"})}
    ((check, finding),) = found(units=listens, listeners=(Listener("0.0.0.0", 8000),))
    assert (check, finding.name) == ("exposure", "open-without-token")
    name = "llama-server@8080.service"
    seen = results(
        dataclasses.replace(HEALTHY, units=with_unit(name), listeners=(Listener("::", 8080),))
    )
    (exposure,) = (result for result in seen if result.check.name == "exposure")
    assert exposure.not_made == NotCollected("only root sees whose the open ports are", AS_ROOT)


def test_tokens_on_disk(tmp_path: Path) -> None:
    settings, file = Config(state_dir=tmp_path), tmp_path / "tokens.json"
    assert kept.tokens(settings) == Tokens()
    token, _ = make("ci", [Scope.READ])
    token_store.write(file, (token,))
    assert kept.tokens(settings) == Tokens(1)
    file.write_text("{")
    assert kept.tokens(settings).problem.startswith(f"cannot use {file}: ")


def test_a_port_that_a_server_needs_is_an_error() -> None:
    stranger = (Listener("127.0.0.1", 8080, 7, "nginx", "nginx.service"),)
    (free,) = found(listeners=stranger)
    (needed,) = found(listeners=stranger, daemon=with_models(1))
    assert (free[1].severity, needed[1].severity) == (
        FindingSeverity.WARNING,
        FindingSeverity.ERROR,
    )


def test_servers_are_no_strangers() -> None:
    name = "llama-server@8080.service"
    assert found(listeners=(Listener("127.0.0.1", 8080, 7, "llama-server", name),)) == []
    assert found(listeners=(Listener("127.0.0.1", 8080),), units=with_unit(name)) == []


def test_what_the_ports_explain_is_told_once() -> None:
    seen = found(
        units=NO_SOCKET, listeners=(Listener("127.0.0.1", 8000, 7, "nginx", "nginx.service"),)
    )
    assert [(check, finding.name) for check, finding in seen] == [("ports", "api-port-taken")]


def test_what_magid_reports_is_told_once_and_by_the_check_that_knows_more() -> None:
    masked = with_unit("magid.socket", load="masked", active="inactive")
    findings = found(units=masked, daemon=reported("UnitMasked", "NotServing", "ServerDown"))
    assert [finding.name for _, finding in findings] == ["unit-masked"]
    unseen = found(units=NotCollected("no systemd"), daemon=reported("UnitMasked"))
    assert [finding.name for _, finding in unseen] == ["magid-reports"]
    assert unseen[0][1].run == ("magictl start a b",)  # and not doctor itself


def test_an_engine_that_is_gone_is_a_finding() -> None:
    findings = found(daemon=reported("EngineMissing"))
    assert [(finding.name, finding.what) for _, finding in findings] == [
        ("magid-reports", "2 models are stopped")
    ]


def test_a_masked_launcher_is_told_once() -> None:
    masked = with_unit("magi-launcher.service", load="masked", active="inactive")
    findings = found(units=masked, launcher="refused", daemon=reported("UnitMasked"))
    assert [finding.name for _, finding in findings] == ["unit-masked"]
    assert findings[0][1].run[0] == "systemctl unmask magi-launcher.service"


def test_every_condition_is_known_to_doctor_by_its_name() -> None:
    assert {*conditions._CAUSES, *conditions._LEFT_OUT} <= set(Code)


def test_what_could_not_be_seen_is_no_finding() -> None:
    blind: dict[str, Any] = {
        field.name: NotCollected("only root can look", AS_ROOT)
        for field in dataclasses.fields(Facts)
        if field.name not in ("service", "settings")
    }
    seen = results(dataclasses.replace(HEALTHY, **blind))
    assert not [finding for result in seen for finding in result.findings]
    left = {result.check.name for result in seen if result.not_made}
    assert left == {check.name for check in CHECKS} - {"settings"}
    assert as_json(seen)["healthy"] is True


def test_a_machine_without_the_service_and_without_systemd() -> None:
    """What is only true of a service is not asked of it: `make run` has its own configuration."""
    plain = dataclasses.replace(
        HEALTHY, service=False, machine=machine(systemd=0), profiles=ProfileFiles(frozenset(), {})
    )
    seen = results(plain)
    assert [finding for result in seen for finding in result.findings] == []
    left = {result.check.name for result in seen if result.not_made}
    assert left == {"systemd", "accounts", "journal", "owners", "units", "drop-ins"}


def test_a_magid_that_says_nothing_is_no_sign_of_health() -> None:
    silent = results(dataclasses.replace(HEALTHY, daemon=DaemonFacts("it hangs")))
    left = {result.check.name for result in silent if result.not_made}
    assert left == {"broken", "gpu-use", "gpu-room", "limits", "memory", "servers", "conditions"}


@pytest.mark.parametrize("unread", [None, NotCollected("/c: Permission denied", AS_ROOT)])
def test_what_rests_on_settings_that_nobody_knows_is_not_claimed(
    unread: NotCollected | None,
) -> None:
    """The addresses, ports and folders of the default may not be those of the machine."""
    settings = Settings(Path("/c"), Config(), "" if unread else "cannot use /c: line 1", unread)
    seen = results(
        dataclasses.replace(
            HEALTHY, settings=settings, listeners=(OPEN, Listener("::", 8085, 7, "nginx"))
        )
    )
    findings = [finding.name for result in seen for finding in result.findings]
    assert findings == ([] if unread else ["configuration-broken"])
    left = {result.check.name for result in seen if result.not_made}
    assert {"exposure", "ports", "gpu-use"} <= left


def test_json() -> None:
    seen = results(
        dataclasses.replace(HEALTHY, launcher="refused", trial=NotCollected("why", "sudo x"))
    )
    answer = json.loads(json.dumps(as_json(seen)))
    assert answer["healthy"] is False
    checks = {check["name"]: check for check in answer["checks"]}
    assert checks["launcher"]["findings"][0]["severity"] == "error"
    assert checks["files"]["notMade"] == {"why": "why", "run": "sudo x"}
    assert checks["systemd"] == {
        "name": "systemd", "says": "systemd can run models", "ok": True, "notMade": None,
        "findings": [],
    }  # fmt: skip


def test_a_folder_of_one_s_own_is_given_back_without_the_package_s_program() -> None:
    settings = Settings(Path("/c"), Config(state_dir=Path("/srv/state")))
    places = {"/srv/state": Place("/srv/state", "4711", "magi", 0o750)}
    ((_, finding),) = found(settings=settings, places=places)
    assert finding.run[1].startswith("find /srv/state/ /etc/magi/profiles -xdev")
