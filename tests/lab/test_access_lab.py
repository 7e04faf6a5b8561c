"""An address that other machines can reach, under systemd, as docs/access.md leads to it."""

from collections.abc import Iterator

import pytest

from tests.lab.container import Container, booted
from tests.lab.launching import install_launcher
from tests.lab.trees import RELEASES, Release, Tree
from tests.support import ggufs

pytestmark = pytest.mark.slow

URL = "http://127.0.0.1:8000"
EXPOSED = "[Socket]\nListenStream=\nListenStream=0.0.0.0:8000\n"
UNITS = ("magid.socket", "magid-local.socket", "magid-view.socket")


@pytest.fixture(scope="module")
def exposed(
    all_trees: dict[Release, Tree], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """Debian 12: what differs between releases is not what this is about."""
    model = ggufs.write_chat_model(
        tmp_path_factory.mktemp("access-lab") / "Demo-Tiny-F16.gguf", quantization="F16"
    )
    with booted(all_trees[RELEASES[0]]) as container:
        install_launcher(container, model)
        container.write("/etc/systemd/system/magid.socket.d/exposed.conf", EXPOSED)
        container.systemctl("daemon-reload")
        yield container


def test_from_a_refusal_to_a_token_and_back(exposed: Container) -> None:
    exposed.systemctl("start", *UNITS)
    exposed.systemctl("start", "magid.service", check=False)
    assert exposed.show("magid.service", "Result", "ExecMainStatus", "ActiveState") == {
        "Result": "exit-code", "ExecMainStatus": "78", "ActiveState": "failed",
    }  # fmt: skip
    said = [entry["MESSAGE"] for entry in exposed.journal("magid.service")]
    advice = "magictl token create --offline --scope admin --name NAME"
    assert [line for line in said if "listen on 0.0.0.0:8000" in line and advice in line]

    made = exposed.run(advice.replace("NAME", "first").split())
    secret = made.stdout.strip()
    kept = exposed.run(["stat", "-c", "%U %G %a", "/var/lib/magi/tokens.json"]).stdout
    assert kept == "magi magi 600\n"

    exposed.systemctl("reset-failed", "magid.service")
    exposed.systemctl("start", *UNITS, "magid.service")
    mine = {"Authorization": f"Bearer {secret}"}
    with exposed.client(URL) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/api/models/status").status_code == 401
        assert client.get("/v1/models").status_code == 401
        assert client.get("/api/models/status", headers=mine).status_code == 200
        # By any address of the machine, and by no name that it has not.
        assert client.get(
            "/api/models/status", headers=mine | {"Host": "192.0.2.1:8000"}
        ).is_success
        assert client.get("/livez", headers={"Host": "evil.example"}).status_code == 421
    listed = exposed.run(["magictl", "token", "ls"]).stdout  # over the unix socket: no token
    assert listed.splitlines()[1].split()[:2] == ["first", "admin"]
    nobody = exposed.run(["magictl", "status"], user="nobody", check=False)
    assert nobody.returncode == 1

    warned = [entry["MESSAGE"] for entry in exposed.journal("magid.service")]
    assert [line for line in warned if "0.0.0.0:8000 can be reached from other machines" in line]
    everything = exposed.run(["journalctl", "--no-pager", "--all"]).stdout
    everything += exposed.systemctl("show", "magid.service") + exposed.run(["ps", "axeww"]).stdout
    assert secret[14:] not in everything


def test_who_is_in_magi_view_may_read_and_no_more(exposed: Container) -> None:
    """By the name of the socket, and by its path where an administrator has changed the name."""
    exposed.run(["rm", "-r", "/etc/systemd/system/magid.socket.d"])
    exposed.run(["useradd", "--groups", "magi-view", "reader"])
    for name in ("magid-view", "another"):
        exposed.write(
            "/etc/systemd/system/magid-view.socket.d/name.conf",
            f"[Socket]\nFileDescriptorName={name}\n",
        )
        exposed.systemctl("daemon-reload")
        exposed.systemctl("stop", "magid.service", *UNITS)
        exposed.systemctl("start", *UNITS, "magid.service")
        model = exposed.run(["magictl", "ls", "-q"], user="reader").stdout.strip()
        assert model.startswith("demo_")
        refused = exposed.run(["magictl", "disable", model], user="reader", check=False)
        assert refused.returncode == 1
        assert refused.stderr.startswith("magictl: cannot do this over the socket of the group")
        done = exposed.run(["magictl", "run", model, "x"], user="reader", check=False)
        assert "magi-view" in done.stderr
