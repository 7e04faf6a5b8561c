"""Short units of the launcher: the list of devices, and the memory that a server would need.

And who may ask it for what, and get what from root at all.
"""

import json
import secrets
from collections.abc import Callable, Iterator

import pytest

from magid.errors import InvalidInput
from magid.gpus.memory_report import Report, report_in
from magid.launcher import device_list, file_removal, memory_prediction
from magid.launcher.protocol import (
    DevicesRequest,
    LauncherReply,
    Ping,
    PredictRequest,
    RemoveRequest,
    StartRequest,
    output_in,
    parse_reply,
    parse_request,
    request_line,
)
from magid.launcher.server import REFUSED_ID
from magid.llama.file_removal import FileIdentity, removed_in
from magid.standalone.call_filters import can_bind_only
from tests.lab.launching import FLAGS, SETTINGS, Asker

pytestmark = pytest.mark.slow

LISTER = "/usr/local/bin/list-devices"


@pytest.fixture
def lister(asker: Asker) -> Iterator[Callable[[str], LauncherReply]]:
    """Asks for the devices, with this shell script as llama-server."""

    def ask(script: str) -> LauncherReply:
        asker.container.write(LISTER, f"#!/bin/sh\n{script}\n", 0o755)
        asker.container.write("/etc/magi/magid.yaml", SETTINGS + f"llama_server_path: {LISTER}\n")
        return asker.ask(DevicesRequest())

    yield ask
    asker.container.write("/etc/magi/magid.yaml", SETTINGS)


def test_the_devices(asker: Asker) -> None:
    for _ in range(2):
        reply = asker.ask(DevicesRequest())
        assert reply.ok, reply.message
        # A thread of llama-server's logs on the same pipe, perhaps after it.
        assert "Available devices:\n  (none)\n" in output_in(reply.details)
        shown = asker.container.show(device_list.UNIT, "LoadState")
        assert shown["LoadState"] == "not-found", "nothing is left of it"
    logged = asker.container.journal(device_list.UNIT)
    assert [entry for entry in logged if int(entry["PRIORITY"]) > 5] == [], "no start, no end"


LISTENS = """python3 -I -c 'import socket; socket.create_server(("127.0.0.1", 0))' 2>&1 | tail -1"""


def may_listen(asker: Asker) -> bool:
    """Debian 12 builds systemd without BPF; nothing closes ports to a program there."""
    return asker.container.release.systemd < 257 and not can_bind_only()


def test_the_devices_are_listed_in_the_sandbox(
    asker: Asker, lister: Callable[[str], LauncherReply]
) -> None:
    script = f"""
        echo "listens: $({LISTENS})"
        echo "arguments: $*"
        awk '/^(Seccomp|NoNewPrivs|CapBnd):/ {{print $1 $2}}' /proc/self/status
        ls /models /etc/magi
        echo key $CREDENTIALS_DIRECTORY .
        head -c 1 </dev/kmsg
    """
    reply = lister(script)
    assert reply.ok, reply.message
    output = output_in(reply.details)
    assert "arguments: -lv 5 --list-devices\n" in output
    assert "NoNewPrivs:1\nSeccomp:2\n" in output.replace("CapBnd:0000000000000000\n", "")
    assert "CapBnd:0000000000000000\n" in output
    assert "/etc/magi:\n\n/models:\nkey .\n" in output, "both are empty, and there is no key"
    assert "/dev/kmsg" in output
    assert may_listen(asker) or "listens: PermissionError" in output


def test_a_device_list_that_never_ends(
    asker: Asker, lister: Callable[[str], LauncherReply]
) -> None:
    reply = lister("exec yes")
    assert reply.error == "ServerFailed"
    assert "printed more than" in reply.message
    shown = asker.container.show(device_list.UNIT, "LoadState")
    assert shown["LoadState"] == "not-found"
    assert asker.ask(Ping()).ok


def predicted(reply: LauncherReply) -> Report:
    assert reply.ok, reply.message
    report = report_in(output_in(reply.details))
    assert report is not None, output_in(reply.details)
    return report


def test_the_memory_of_a_server(asker: Asker) -> None:
    container = asker.container
    for ctx_size, mib in ((131_072, 64), (262_144, 128)):
        spec = asker.spec(ctx_size=ctx_size, parallel=1, memory_max=1 << 26)
        report = predicted(asker.ask(PredictRequest(spec, FLAGS, for_start=True)))
        assert report.why == "done", report
        assert report.estimate is not None, report
        assert report.estimate.host_total.context == mib << 20
        for unit in (memory_prediction.UNIT, spec.unit):
            assert container.show(unit, "LoadState")["LoadState"] == "not-found"
    logged = container.journal(memory_prediction.UNIT)
    assert [entry for entry in logged if int(entry["PRIORITY"]) > 5] == [], "no start, no end"


def test_the_memory_is_predicted_in_the_sandbox(
    asker: Asker, lister: Callable[[str], LauncherReply]
) -> None:
    lister(f"""
        echo "error: $*"
        echo "error: listens: $({LISTENS})"
        awk '/^(Seccomp|NoNewPrivs|CapBnd):/ {{print "error: " $1 $2}}' /proc/self/status
        for folder in /models /etc/magi; do echo "error: $folder:" $(ls $folder); done
        echo "error: key $CREDENTIALS_DIRECTORY."
        head -c 1 </dev/kmsg
    """)
    report = predicted(asker.ask(PredictRequest(asker.spec(port=8099), FLAGS)))
    arguments, *said = report.lines
    assert "--api-key-file" not in arguments
    assert "--port" not in arguments
    assert arguments.endswith("/predict.sock")
    assert "--fit on -lv 4 --no-warmup --host /dev/shm/" in arguments
    assert {"error: NoNewPrivs:1", "error: Seccomp:2", "error: CapBnd:0000000000000000"} <= {*said}
    assert {"error: /models: Demo.gguf", "error: /etc/magi:", "error: key ."} <= {*said}
    denied = any(line.startswith("error: listens: PermissionError") for line in said)
    assert may_listen(asker) or denied, said


def test_a_start_waits_for_no_prediction_that_yields_to_other_work(
    asker: Asker, lister: Callable[[str], LauncherReply]
) -> None:
    container, spec = asker.container, asker.spec(port=8099)
    niceness = []
    lister('echo "error: $(nice)"')
    for for_start in (False, True):
        report = predicted(asker.ask(PredictRequest(spec, FLAGS, for_start=for_start)))
        niceness.append(int(report.lines[0].removeprefix("error: ")))
    assert niceness[0] == niceness[1] + 10
    container.write(LISTER, "#!/bin/sh\nexec sleep 1000\n", 0o755)
    with asker.connected() as early:
        early.sendall(request_line(PredictRequest(spec, FLAGS)))
        container.wait_until(
            lambda: container.show(memory_prediction.UNIT, "MainPID")["MainPID"] != "0", "a unit"
        )
        container.write(LISTER, "#!/bin/sh\necho error: for the start\n", 0o755)
        report = predicted(asker.ask(PredictRequest(spec, FLAGS, for_start=True)))
        assert report.lines == ("error: for the start",)
        ended = parse_reply(early.makefile("rb").readline())
    assert ended.error == "Busy"


def test_a_prediction_of_a_file_that_no_server_may_open(asker: Asker) -> None:
    for path in ("/etc/shadow", "/models/../etc/passwd.gguf", "/models/missing.gguf"):
        spec = asker.spec(model_path=path, port=8099)
        try:
            reply = asker.ask(PredictRequest(spec, FLAGS))
        except InvalidInput:
            continue
        assert reply.error == asker.start(spec, None).error
        assert not reply.ok
    wrong = asker.spec(port=8099, extra_args=("--hf-repo", "x"))
    assert asker.say(request_line(PredictRequest(wrong, FLAGS))).startswith(b'{"ok":false')


def test_a_prediction_of_a_damaged_model(asker: Asker) -> None:
    asker.container.write("/models/Damaged.gguf", b"GGUF" + bytes(100))
    spec = asker.spec(model_path="/models/Damaged.gguf", port=8099)
    report = predicted(asker.ask(PredictRequest(spec, FLAGS)))
    assert report.estimate is None
    assert report.problem == "cannot predict the memory: gguf_init_from_reader: bad GGUF version: 0"


def test_an_engine_is_tried_in_the_sandbox_before_it_counts(asker: Asker) -> None:
    container = asker.container
    build = "/opt/build"
    theirs = container.run(["sh", "-c", "command -v llama-server"]).stdout.strip()
    for name, script in (("good", f'exec {theirs} "$@"'), ("odd", "ls /models >&2; exit 3")):
        container.write(f"{build}/{name}/llama-server", f"#!/bin/sh\n{script}\n", 0o755)
    container.write("/models/secret", "x")
    refused = container.run(["magictl", "engine", "add", "odd", f"{build}/odd"], check=False)
    assert (refused.returncode, "secret" in refused.stderr) == (1, False), refused.stderr
    assert "`--version` ended with 3" in refused.stderr
    added = container.run(["magictl", "engine", "add", "good", f"{build}/good"])
    assert added.stdout.startswith("engine good added: llama-server ")
    there = container.run(["ls", "-A", "/var/lib/magi-engines"]).stdout.split()
    assert set(there) == {".lock", "good"}, "of the refused one nothing is left"
    mine = container.run(["magictl", "engine", "use", "good"], user="magi", check=False)
    assert "only root may write there" in mine.stderr
    spec = asker.spec()
    with asker.running(spec) as unit:
        container.run(["magictl", "engine", "use", "good"])
        started = container.show(unit, "MainPID", "ActiveState")
        assert started["ActiveState"] == "active"
        with asker.running(asker.spec()) as other:
            shown = container.show(other, "ExecStart")["ExecStart"]
            assert "/var/lib/magi-engines/good/llama-server" in shown
        container.run(["magictl", "engine", "use", "system"])
        assert container.show(unit, "MainPID", "ActiveState") == started
    with asker.running(asker.spec(engine="good")) as unit:
        shown = container.show(unit, "ExecStart")["ExecStart"]
        assert "/var/lib/magi-engines/good/llama-server" in shown
    assert "Available devices:" in output_in(asker.ask(DevicesRequest("good")).details)
    container.write(LISTER, "#!/bin/sh\nexec sleep 1000\n", 0o755)
    container.write("/etc/magi/magid.yaml", SETTINGS + f"llama_server_path: {LISTER}\n")
    with asker.connected() as hung:
        hung.sendall(request_line(DevicesRequest()))
        container.wait_until(
            lambda: container.show(device_list.UNIT, "MainPID")["MainPID"] != "0", "a unit"
        )
        listed = asker.ask(DevicesRequest("good"))
        assert container.show(device_list.UNIT, "MainPID")["MainPID"] != "0", "it still hangs"
        container.systemctl("stop", device_list.UNIT)
        assert parse_reply(hung.makefile("rb").readline()).ok
    container.write("/etc/magi/magid.yaml", SETTINGS)
    assert "Available devices:" in output_in(listed.details)
    left = container.show(device_list.unit_of("good"), "LoadState")
    assert left["LoadState"] == "not-found", "nothing is left of it"
    for request in (asker.spec(engine="gone"), DevicesRequest("gone")):
        reply = asker.ask(request) if isinstance(request, DevicesRequest) else asker.start(request)
        assert reply.error == "LlamaServerMissing"
        assert "cannot use the engine 'gone'" in reply.message
    container.run(["magictl", "engine", "rm", "good", "--yes"])
    container.run(["rm", "/models/secret"])


def test_files_of_a_model_are_removed_in_a_unit_that_sees_the_library_alone(asker: Asker) -> None:
    container = asker.container
    library = "/var/lib/magi/models"
    container.run(["install", "-d", "-o", "magi", "-g", "magi-models", "-m", "2775", library])
    container.run(["install", "-d", "-o", "nobody", "-m", "700", f"{library}/theirs"])
    theirs, plain = f"{library}/theirs/a b.gguf", f"{library}/plain.gguf"
    for path in (theirs, plain, "/models/Other.gguf"):
        container.write(path, b"GGUF" * 5000)
    container.write(f"{library}/notes.txt", "x")

    def ask(*paths: str) -> LauncherReply:
        files = []
        for path in paths:
            shown = container.run(["stat", "-c", "%d:%i", path]).stdout.split(":")
            files.append(FileIdentity(path, int(shown[0]), int(shown[1])))
        return asker.ask(RemoveRequest(tuple(files)))

    reply = ask(theirs, f"{library}/notes.txt")
    assert reply.ok, reply.message
    one, other = removed_in(output_in(reply.details))
    assert (one.problem, one.freed >= 20_000) == ("", True)
    assert other.problem == "it has not the name of a model file"
    assert not container.exists(f"{library}/theirs")
    for path in ("/models/Other.gguf", "/etc/passwd", f"{library}-x/a.gguf"):
        refused = asker.ask(RemoveRequest((FileIdentity(path, 1, 1),)))
        assert (refused.error, "it is not below" in refused.message) == ("NotAllowed", True)
    assert container.exists("/models/Other.gguf")
    container.run(["rm", plain])
    container.run(["ln", "-s", "/models", f"{library}/away"])
    reply = asker.ask(RemoveRequest((FileIdentity(f"{library}/away/Other.gguf", 1, 1),)))
    assert removed_in(output_in(reply.details))[0].problem
    assert container.exists("/models/Other.gguf")
    shown = container.show(file_removal.UNIT, "LoadState")
    assert shown["LoadState"] == "not-found", "nothing is left of it"
    container.run(["rm", "-r", f"{library}/away", f"{library}/notes.txt", "/models/Other.gguf"])


# -- who may ask, and for what ---------------------------------------------------------------


def test_others_may_not_ask(asker: Asker) -> None:
    container = asker.container
    assert container.show("magi-launcher.socket", "SocketMode")["SocketMode"] == "0660"
    assert container.run(["python3", "-I", "-c", ""], user="nobody").returncode == 0
    done = container.run(
        [
            "python3",
            "-I",
            "-c",
            "import socket as s; s.socket(1).connect('/run/magi/launcher.sock')",
        ],
        user="nobody",
        check=False,
    )
    assert "PermissionError" in done.stderr
    container.run(["usermod", "-a", "-G", "magi", "nobody"])
    try:
        assert b"NotAllowed" in asker.say(b'{"verb":"ping"}\n', "nobody")
    finally:
        container.run(["gpasswd", "--delete", "nobody", "magi"])


def test_a_refusal_is_explained(asker: Asker) -> None:
    container = asker.container
    assert asker.start(asker.spec(port=1024)).error == "NotAllowed"
    (*_, entry) = container.journal(None, f"MESSAGE_ID={REFUSED_ID}")
    assert "cannot use port 1024" in entry["MESSAGE"]
    done = container.run(["journalctl", "-x", "--no-pager", f"MESSAGE_ID={REFUSED_ID}"])
    assert "A request to start a model was refused" in done.stdout


def is_request(data: bytes) -> bool:
    try:
        parse_request(data)
    except InvalidInput:
        return False
    return True


def test_noise_changes_nothing(asker: Asker) -> None:
    """Random bytes and mangled requests: an answer or a closed connection, and no unit."""
    good = request_line(StartRequest(asker.spec(), None, FLAGS))
    before = asker.container.systemctl("list-units", "--all", "--plain", "llama-server@*")
    for _ in range(100):
        at = secrets.randbelow(len(good) - 1)
        mangled = good[:at] + secrets.token_bytes(1 + secrets.randbelow(4)) + good[at + 2 :]
        for data in (
            secrets.token_bytes(200),
            mangled[:-1] + b"}\n",
            good[:at],
            b"[" * 5000 + b"\n",
        ):
            if is_request(data):  # by chance: another digit in a number, say
                continue
            answer = asker.send_raw(data)
            assert not answer or not json.loads(answer)["ok"], data
    assert asker.ask(Ping()).ok
    after = asker.container.systemctl("list-units", "--all", "--plain", "llama-server@*")
    assert after == before


@pytest.mark.parametrize("victim", ["/srv/victim", "/srv/victim/file"])
def test_root_makes_folders_behind_no_link(asker: Asker, victim: str) -> None:
    """The user magi puts a link in the place of a folder that root gives it at boot."""
    container = asker.container
    container.write("/srv/victim/file", "root's")
    look = ["stat", "--format=%U:%G %a", victim]
    before = container.run(look).stdout
    script = f"rm -rf /var/lib/magi/models && ln -s {victim} /var/lib/magi/models"
    container.run(["install", "-d", "-o", "magi", "-g", "magi", "/var/lib/magi"])
    container.run(["sh", "-c", script], user="magi")
    try:
        container.run(["systemd-tmpfiles", "--create", "--prefix=/var/lib/magi"], check=False)
        # Of another owner it is given to magi with its own files, where magid starts.
        container.run(["chown", "nobody", "/var/lib/magi"])
        container.run(["/usr/lib/magi/magi-owners"])
        assert container.run(["stat", "-c", "%U", "/var/lib/magi"]).stdout == "magi\n"
        assert container.run(look).stdout == before
        assert container.run(["find", victim, "-user", "magi"]).stdout == ""
    finally:
        container.run(["rm", "/var/lib/magi/models"])
        container.run(["systemd-tmpfiles", "--create", "--prefix=/var/lib/magi"])
