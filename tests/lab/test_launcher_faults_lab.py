"""What goes wrong with what the launcher starts: files, ports, units and names of others."""

from pathlib import Path

import pytest

from magid.launcher.protocol import ForgetRequest, StartRequest, StopRequest
from tests.lab.launching import FLAGS, MODEL, Asker, answers
from tests.support import ggufs

pytestmark = pytest.mark.slow


def test_a_file_that_vanishes(asker: Asker, chat_model: Path) -> None:
    path, container = "/models/Vanishing.gguf", asker.container
    container.write(path, chat_model.read_bytes())
    spec = asker.spec(model_path=path)
    with asker.running(spec) as unit:
        container.run(["rm", path])
        assert container.run(["systemctl", "restart", unit], check=False).returncode != 0
        asker.wait_state(spec.port, "failed")
        assert container.show(unit, "NRestarts", "ExecMainStatus") == {
            "NRestarts": "0",
            "ExecMainStatus": "66",
        }
        assert any(
            f"cannot use the model file {path}: No such file" in str(entry["MESSAGE"])
            for entry in container.journal(unit)
        )
        again = asker.start(spec)
        assert (again.error, "No such file" in again.message) == ("ServerFailed", True)
        assert asker.ask(StopRequest(spec.port)).ok
        assert asker.is_in(spec.port, "inactive")()


def test_a_file_that_is_replaced(asker: Asker, chat_model: Path) -> None:
    """By another file, or by a link out of the folder: exec_model.py sees it."""
    path, container = "/models/Replaced.gguf", asker.container
    container.write(path, chat_model.read_bytes())
    spec = asker.spec(model_path=path)
    with asker.running(spec) as unit:
        for swap in (["cp", MODEL, f"{path}.new"], ["ln", "-s", "/etc/passwd", f"{path}.new"]):
            container.run(swap)
            container.run(["mv", "-T", f"{path}.new", path])
            assert container.run(["systemctl", "restart", unit], check=False).returncode != 0
            assert container.show(unit, "ExecMainStatus")["ExecMainStatus"] == "66"
        assert asker.start(spec).error == "NotAllowed"
        container.run(["rm", path])
        container.write(path, chat_model.read_bytes())
        assert asker.start(spec).ok
        asker.wait_active(spec)


def test_a_model_that_cannot_be_loaded(asker: Asker, chat_model: Path) -> None:
    path, container = "/models/Broken.gguf", asker.container
    container.write(path, chat_model.read_bytes()[:-100])
    spec = asker.spec(model_path=path)
    try:
        assert asker.start(spec).ok
        asker.wait_state(spec.port, "failed")
        shown = container.show(spec.unit, "NRestarts", "ExecMainStatus")
        assert shown["ExecMainStatus"] == "1"
        assert int(shown["NRestarts"]) in (2, 3)  # the last one is only tried
    finally:
        asker.ask(ForgetRequest(spec.port))


def test_another_program_on_the_port(asker: Asker) -> None:
    """It answers /health with 200 before our server could have its port."""
    spec, container = asker.spec(), asker.container
    container.write("/srv/stranger/health", "{}")
    run = ["systemd-run", "--unit=stranger", "--working-directory=/srv/stranger"]
    serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(spec.port)]
    container.run([*run, *serve])
    container.wait_until(lambda: answers(container, spec.port), "stranger")
    try:
        assert asker.start(spec).ok
        asker.wait_state(spec.port, "failed")
    finally:
        container.systemctl("stop", "stranger.service")
        asker.ask(ForgetRequest(spec.port))


def test_a_unit_of_somebody_else(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    container.run(["systemd-run", f"--unit={spec.unit}", "sleep", "1000"])
    try:
        for request in (
            StartRequest(spec, None, FLAGS),
            StopRequest(spec.port),
            ForgetRequest(spec.port),
        ):
            assert asker.ask(request).error == "Conflict"
        assert container.show(spec.unit, "ActiveState")["ActiveState"] == "active"
    finally:
        container.systemctl("stop", spec.unit)


def test_a_template_on_disk_is_explained(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    path = "/etc/systemd/system/llama-server@.service"
    container.write(path, "[Service]\nExecStart=/bin/sleep 1000\n")
    container.systemctl("daemon-reload")
    try:
        reply = asker.start(spec)
        assert reply.error == "Conflict"
        assert path in reply.message
    finally:
        container.run(["rm", path])
        container.systemctl("daemon-reload")


@pytest.mark.parametrize(
    "name",
    ["with space", "a:b", "100%", "$HOME", "a;b", "quo'te", 'dou"ble', "a\\b", "ü", "(1)[2]"],
)
def test_names_of_files(asker: Asker, name: str, chat_model: Path) -> None:
    """A model either runs, also after a reload, or is refused in words."""
    path, container = f"/models/{name}/{name}.gguf", asker.container
    container.write(path, chat_model.read_bytes())
    spec = asker.spec(model_path=path)
    try:
        reply = asker.start(spec)
        if not reply.ok:
            assert (reply.error, "rename" in reply.message) == ("InvalidInput", True)
            return
        asker.wait_active(spec)
        container.systemctl("daemon-reload")
        container.systemctl("restart", spec.unit)
    finally:
        asker.ask(ForgetRequest(spec.port))


def test_shards(asker: Asker, tmp_path: Path) -> None:
    files = ggufs.write_split_model(tmp_path / "Demo-Split", 2)
    for file in files:
        asker.container.write(f"/models/{file.name}", file.read_bytes())
    with asker.running(asker.spec(model_path=f"/models/{files[0].name}")):
        pass
