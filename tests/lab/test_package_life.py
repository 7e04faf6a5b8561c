"""The life of magid's package on a machine, from the installation to the purge."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from magid import __version__
from magid.systemd.unit_names import unit_name
from tests.lab import first_model, minimal, packages
from tests.lab.container import Container, booted
from tests.lab.layers import output
from tests.lab.trees import LLAMA, RELEASES, ROOT, Release, Tree
from tests.support import ggufs, transcript
from tests.support.deadlines import SET_UP_S
from tests.support.transcript import Step

pytestmark = pytest.mark.slow

CHECKS = "/usr/local/lib/magi-checks"
FOLDER = "/var/lib/magi/models"
SEEDS = "/models"  # the folder that the first users of magid have
ALPHA, BETA = "alpha_1p0b_q4km_fast", "beta_8p0b_q4km_balanced"
PLACES = {ALPHA: f"{FOLDER}/Alpha-1B-Q4_K_M.gguf", BETA: f"{SEEDS}/Beta-8B-Q4_K_M.gguf"}
RECIPES, REMOVING = ROOT / "docs/recipes.md", "Removing magid, and what stays"
MINE = {"name": "Mine", "enabledModels": ["*"]}
# The loopback addresses as /proc/net/tcp and tcp6 write them.
IPV4, IPV6 = "0100007F", "00000000000000000000000001000000"
EDIT = "server_defaults: {n_threads: 1, parallel: 1, ctx_size: 512}\n"


@pytest.fixture(scope="session")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.next_version(package, tmp_path_factory.mktemp("newer"))


@pytest.fixture(scope="session")
def minimal_trees() -> dict[Release, tuple[Tree, Path]]:
    return minimal.build_all(RELEASES, print)


@pytest.fixture(params=RELEASES, ids=lambda release: release.name)
def machine(
    request: pytest.FixtureRequest,
    minimal_trees: dict[Release, tuple[Tree, Path]],
    package: Path,
    newer: Path,
) -> Iterator["Machine"]:
    release: Release = request.param
    tree, llama = minimal_trees[release]
    with booted(tree) as container:
        index = output(["dpkg-scanpackages", "."], cwd=str(package.parent))
        machine = Machine(container, llama, index)
        for path in (package, newer):
            container.write(f"/root/{path.name}", path.read_bytes())
        for path in (ROOT / "debian/tests").iterdir():
            container.write(f"{CHECKS}/{path.name}", path.read_bytes(), 0o755)
        with machine.client:
            yield machine


class Machine:
    """A bare Debian with the packages in /root."""

    def __init__(self, container: Container, llama: Path, index: str) -> None:
        """`llama` is a layer with a llama-server, `index` what an archive says of the package."""
        self.container = container
        self.llama = llama
        self.index = index
        self.client = container.client("http://127.0.0.1:8000")

    def sh(self, script: str, *, check: bool = True, answer: str = "y\n") -> str:
        """As root types it, and says yes to apt. What it prints, errors too."""
        done = self.container.run(
            ["sh", "-e", "-c", f"cd /root; exec 2>&1; {script}"],
            input=answer,
            check=False,
            timeout=SET_UP_S,
            environment={"DEBIAN_FRONTEND": "noninteractive"},
        )
        assert done.returncode == 0 or not check, f"{script}\n{done.stdout}"
        return done.stdout

    def get(self, path: str) -> Any:
        reply = self.client.get(path)
        assert reply.status_code in (200, 503), reply.text
        return reply.json()

    def servers(self) -> dict[str, dict[str, Any]]:
        return {s["modelId"]: s for s in self.get("/api/models/servers?all=true")["servers"]}

    def pids(self) -> dict[str, int]:
        return {model_id: server["pid"] for model_id, server in self.servers().items()}

    def listening(self) -> set[tuple[str, int]]:
        """Address and port of all TCP sockets that listen."""
        rows = self.container.read("/proc/net/tcp") + self.container.read("/proc/net/tcp6")
        places = [row.split()[1] for row in rows.decode().splitlines() if " 0A " in row]
        return {(host, int(port, 16)) for host, port in (place.split(":") for place in places)}

    def wait(self, so: Callable[[], bool], what: str) -> None:
        self.container.wait_until(so, what)

    def wait_serving(self) -> None:
        self.wait(lambda: self.get("/api/models/status")["phase"] == "serving", "magid serving")

    def wait_ready(self) -> None:
        def ready() -> bool:
            states = {i: s["state"] for i, s in self.servers().items()}
            return self.get("/readyz")["status"] == "ok" and states == dict.fromkeys(
                PLACES, "ready"
            )

        self.wait(ready, "readiness of both models")

    def unit(self, model_id: str) -> str:
        return unit_name(self.servers()[model_id]["port"])


def readme(title: str, chapter: str = "Install") -> list[str]:
    """The commands of this chapter of the README, below the line that has these words."""
    text = (ROOT / "README.md").read_text().split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    _, _, behind = text.partition(title)
    block = re.search(r"^```\n(.*?)^```$", behind, re.DOTALL | re.MULTILINE)
    assert block, f"the README has no commands below {title!r}"
    return [line.partition("  #")[0].strip() for line in block[1].splitlines()]


def test_its_life(machine: Machine, model: Path) -> None:
    """From the first installation to the last, in the order in which it happens to a machine."""
    for step in (
        *(installs, says_what_is_missing, gets_a_llama_server),
        partial(pulls_a_first_model, model=model),
        *(partial(runs_models, model=model), keeps_decisions, is_upgraded, is_downgraded),
        survives_its_launcher,
        *(is_left_alone_by_needrestart, is_removed, comes_back, is_purged, is_installed_again),
        *(is_mended_as_doctor_says, is_removed_as_the_recipe_says),
    ):
        began = time.monotonic()
        step(machine)
        name = step.func.__name__ if isinstance(step, partial) else step.__name__
        print(f"{time.monotonic() - began:6.1f} s  {name}")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package-model") / "Demo-Tiny-F16.gguf"
    return ggufs.write_chat_model(path, quantization="F16")


def installs(machine: Machine) -> None:
    assert not machine.container.exists("/usr/bin/python3")
    machine.sh("apt-get --quiet update")
    install, status = readme("as root")
    assert install == "apt install ./magi_*.deb"
    said = machine.sh(install.replace("*", f"{__version__}_*"))
    assert "Setting up magi" in said
    assert "magid: cannot" not in said
    print(machine.sh(f"{CHECKS}/smoke"))
    assert "magid " + __version__ in machine.sh(status, check=False)
    assert machine.sh("dpkg --verify magi") == ""
    assert machine.listening() == {(IPV4, 8000), (IPV6, 8000)}
    assert machine.container.systemctl("is-system-running") == "running"


def says_what_is_missing(machine: Machine) -> None:
    ready = machine.get("/readyz")
    (reason,) = ready["reasons"]
    assert reason.startswith("cannot find llama-server in ")
    assert reason in machine.get("/api/models/status")["problems"]
    assert reason in machine.sh("magictl status", check=False)
    has_package = machine.container.release.has_package
    assert ("`apt install llama.cpp-tools`" in reason) == has_package
    assert ("llama_server_path in /etc/magi/magid.yaml" in reason) != has_package


def gets_a_llama_server(machine: Machine) -> None:
    """By the command that it names, or at the place that it names."""
    (reason,) = machine.get("/readyz")["reasons"]
    if machine.container.release.has_package:
        machine.sh(reason.split("`")[1])
    else:
        assert "put llama.cpp's llama-server into /usr/local/bin" in reason
        tar = subprocess.run(
            ["tar", "-c", "-C", str(machine.llama), LLAMA, "usr/local/bin/llama-server"],
            stdout=subprocess.PIPE,
            check=True,
        )
        machine.container.run(["tar", "-x", "-C", "/", "--no-overwrite-dir"], input=tar.stdout)
    assert machine.get("/readyz") == {
        "status": "ok", "phase": "serving", "reasons": [], "warnings": [], "conditions": [],
    }  # fmt: skip


def pulls_a_first_model(machine: Machine, model: Path) -> None:
    first_model.pull_and_run(machine.container, machine.wait_serving, model)
    assert machine.servers() == {}


def runs_models(machine: Machine, model: Path) -> None:
    name = PLACES[ALPHA].removeprefix(FOLDER + "/")
    machine.container.write(f"/root/{name}", model.read_bytes())
    machine.container.write(PLACES[BETA], model.read_bytes())
    for command in readme("Or copy models", "First models"):
        machine.sh(command.replace("MODEL.gguf", name))
    machine.wait_ready()
    key = machine.container.read(f"/run/magi-keys/{machine.servers()[ALPHA]['port']}.key").decode()
    reply = machine.container.http(
        "POST",
        f"http://127.0.0.1:{machine.servers()[ALPHA]['port']}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key.strip()}"},
        json={"messages": [{"role": "user", "content": "Hello"}]},
    )
    assert reply.json()["choices"][0]["finish_reason"]
    assert machine.listening() == {(IPV4, 8000), (IPV6, 8000), (IPV4, 8080), (IPV4, 8081)}


def keeps_decisions(machine: Machine) -> None:
    """What is decided through the API, and by an editor."""
    created = machine.client.post("/api/models/profiles", json=MINE)
    assert (created.status_code, created.json()["path"]) == (201, "/etc/magi/profiles/mine.yaml")
    replaced = machine.client.put("/api/models/profiles/production", json=MINE | {"name": "Other"})
    assert replaced.status_code == 200
    machine.client.post("/api/models/profiles/mine/activate").raise_for_status()
    assert machine.sh("dpkg --verify magi") == ""  # no file of the package was touched
    settings = machine.container.read("/etc/magi/magid.yaml").decode()
    machine.container.write("/etc/magi/magid.yaml", settings + EDIT)
    machine.container.systemctl("restart", "magid")
    machine.wait_serving()
    machine.client.post("/api/models/apply").raise_for_status()
    machine.wait_ready()


def is_upgraded(machine: Machine) -> None:
    """To a version with another magid.yaml, while clients ask."""
    stopped = machine.unit(BETA)
    machine.container.systemctl("stop", stopped)
    machine.wait(lambda: machine.pids()[BETA] is None, f"an end of {BETA} that magid has seen")
    before, launcher = machine.pids(), machine.container.pid_of("magi-launcher")
    print(machine.sh(f"{CHECKS}/upgrade /root/magi_{packages.NEXT}_*.deb").splitlines()[-1])
    machine.wait(lambda: machine.get("/readyz")["status"] == "ok", "readiness")
    assert machine.get("/api/models/status")["versions"]["magid"] == packages.NEXT
    assert machine.pids() == before
    assert machine.container.pid_of("magi-launcher") not in (0, launcher)
    assert machine.servers()[BETA]["state"] == "stopped"  # as a person left it
    machine.container.systemctl("start", stopped)
    machine.container.systemctl("restart", machine.unit(ALPHA))
    machine.wait_ready()
    assert _is_kept(machine)
    assert machine.container.exists("/etc/magi/magid.yaml.dpkg-dist")
    assert machine.sh("dpkg --verify magi", check=False).split()[1:] == [
        "c",
        "/etc/magi/magid.yaml",
    ]


def _is_kept(machine: Machine) -> bool:
    """What `keeps_decisions` has decided."""
    assert machine.container.read("/etc/magi/magid.yaml").decode().endswith(EDIT)
    assert machine.get("/api/models/profiles/mine")["active"]
    assert machine.get("/api/models/profiles/production")["name"] == "Other"
    return True


def is_downgraded(machine: Machine) -> None:
    """Both write the same kind of state; one that an older magid would lose is refused by it."""
    before = machine.pids()
    machine.sh(f"{CHECKS}/upgrade /root/magi_{__version__}_*.deb")
    machine.wait_ready()
    assert machine.get("/api/models/status")["versions"]["magid"] == __version__
    assert machine.pids() == before
    assert _is_kept(machine)


def survives_its_launcher(machine: Machine) -> None:
    """A stopped model can be started also after the launcher was killed."""
    unit, launcher = machine.unit(BETA), machine.container.pid_of("magi-launcher")
    machine.container.systemctl("stop", unit)
    machine.container.systemctl("kill", "--signal=KILL", "magi-launcher")
    machine.wait(
        lambda: machine.container.pid_of("magi-launcher") not in (0, launcher), "another launcher"
    )
    assert machine.servers()[BETA]["state"] == "stopped"
    machine.container.systemctl("start", unit)
    machine.wait_ready()


def is_left_alone_by_needrestart(machine: Machine) -> None:
    """As after an upgrade of libraries, which unattended-upgrades does too."""
    machine.sh("apt-get --yes install needrestart")
    before, magid = machine.pids(), machine.container.pid_of("magid")
    for pattern in ("libllama*.so*", "loop.cpython*.so"):
        for path in machine.sh(f"find /usr /opt -type f -name '{pattern}'").split():
            machine.sh(f"cp -a {path} {path}.new; mv {path}.new {path}")
    said = machine.sh("needrestart -r a -l")
    assert "magid.service" in said
    assert "llama-server" in said.partition("deferred")[2], said
    machine.wait_ready()
    assert machine.pids() == before
    assert machine.container.pid_of("magid") != magid, said


def is_removed(machine: Machine) -> None:
    machine.sh("apt-get --yes remove needrestart")
    units = [machine.unit(model_id) for model_id in PLACES]
    for command in readme("Remove"):
        assert "Failed to stop" not in machine.sh(command)
    for unit in units:
        assert machine.container.show(unit, "LoadState")["LoadState"] == "not-found"
    listed = machine.container.systemctl("list-units", "--all", "llama-server@*", "--output=json")
    assert json.loads(listed) == []
    assert machine.sh("grep -l llama-server /proc/[0-9]*/comm || true") == ""
    assert machine.container.show("magi.slice", "ActiveState") == {"ActiveState": "inactive"}
    assert not machine.listening()
    assert machine.container.exists("/var/lib/magi/model_registry.json")
    for path in ("/usr/lib/magi", "/run/magi", "/run/magi-keys", "/usr/bin/magid"):
        assert not machine.container.exists(path), path
    assert machine.container.systemctl("is-system-running") == "running"


def comes_back(machine: Machine) -> None:
    """Installed again after a removal, it goes on where it was."""
    machine.sh(f"apt install ./magi_{__version__}_*.deb")
    machine.wait_ready()
    assert _is_kept(machine)


def is_purged(machine: Machine) -> None:
    disk = f"{FOLDER}/disk"
    machine.sh(f"mkdir {disk}; mount -t tmpfs none {disk}")
    (command,) = readme("Purge")
    said = machine.sh(command)
    assert "magi: what is below /var/lib/magi now are models" in said
    assert machine.sh("find /var/lib/magi /models -type f").split() == list(PLACES.values())
    machine.sh(f"umount {disk}; rmdir {disk}")
    assert not machine.container.exists("/etc/magi")
    assert machine.sh("systemctl list-unit-files --no-legend 'mag*' || true") == ""
    assert machine.container.systemctl("is-system-running") == "running"


def is_installed_again(machine: Machine) -> None:
    """Its models are found again; nothing else is remembered."""
    machine.sh(f"apt install ./magi_{__version__}_*.deb")
    machine.wait_ready()
    assert machine.get("/api/models/profiles") == ["development", "fast-only", "production"]
    assert machine.get("/api/models/profiles/development")["active"]
    machine.sh(f"{CHECKS}/smoke")
    passes_its_autopkgtest(machine)


def passes_its_autopkgtest(machine: Machine) -> None:
    """As debian/tests/control has it: the package is in an archive, and nothing is said of it."""
    machine.sh(f"mkdir /srv/magi; cp magi_{__version__}_*.deb /srv/magi")
    machine.container.write("/srv/magi/Packages", machine.index)
    source = "deb [trusted=yes] file:/srv/magi ./\n"
    machine.container.write("/etc/apt/sources.list.d/magi.list", source)
    machine.sh("apt-get --quiet update")
    tests = re.findall(r"^Tests: (\w+)$", (ROOT / "debian/tests/control").read_text(), re.MULTILINE)
    assert sorted(tests) == ["smoke", "upgrade"]
    for test in tests:
        machine.sh(f"{CHECKS}/{test}")


def is_mended_as_doctor_says(machine: Machine) -> None:
    """A part of the package that is gone comes back from the archive."""
    machine.sh("rm /usr/lib/systemd/system/magi-key.socket; systemctl daemon-reload")
    (finding,) = _findings(machine)
    assert (finding["name"], finding["what"]) == ("unit-missing", "magi-key.socket is not there")
    for command in finding["run"]:
        machine.sh(command)
    assert _findings(machine) == []


def is_removed_as_the_recipe_says(machine: Machine) -> None:
    def typed(script: list[Step]) -> list[tuple[str, int]]:
        done = [
            machine.container.run(
                ["sh", "-c", f"exec 2>&1; {step.command}"], check=False, timeout=SET_UP_S,
                environment={"DEBIAN_FRONTEND": "noninteractive"},
            )
            for step in script
        ]  # fmt: skip
        return [(one.stdout, one.returncode) for one in done]

    transcript.check_document(RECIPES, typed, REMOVING)


def _findings(machine: Machine) -> list[dict[str, Any]]:
    checks = json.loads(machine.sh("magictl doctor --json", check=False))["checks"]
    found = [finding for check in checks for finding in check["findings"]]
    return [finding for finding in found if finding["severity"] != "note"]
