"""exec_model.py in the unit: the files are the checked ones, and the program can call nobody."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from magid.standalone.call_filters import can_bind_only, filter_for
from tests.support.deadlines import DEADLINE_S
from tests.support.impostor_server import NOBODY

GATE = Path(__file__).parents[2] / "magid" / "standalone" / "exec_model.py"


def gate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(GATE), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def checked(path: Path) -> str:
    status = path.lstat()
    return f"{status.st_dev}:{status.st_ino}:{path}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a model: 1.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_the_program_takes_its_place(model: Path) -> None:
    done = gate(checked(model), "--", "/bin/echo", "--", "a b", "$HOME")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-- a b $HOME\n", "")


def test_all_files_are_looked_at(model: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.gguf"
    done = gate(checked(model), f"1:1:{absent}", "--", "/bin/echo")
    assert (done.returncode, done.stdout) == (66, "")
    assert done.stderr == f"error: cannot use the model file {absent}: No such file or directory\n"


@pytest.mark.parametrize("how", ["another file", "a link", "a folder", "a pipe"])
def test_what_was_put_in_its_place(model: Path, how: str) -> None:
    seen = checked(model)
    kept = model.rename(model.with_suffix(".kept"))  # so that its inode is not given again
    match how:
        case "another file":
            model.write_bytes(kept.read_bytes())
        case "a link":
            model.symlink_to(kept)
        case "a folder":
            model.mkdir()
        case _:
            os.mkfifo(model)
    done = gate(seen, "--", "/bin/echo", "started")
    assert (done.returncode, done.stdout) == (66, "")
    assert f"cannot use the model file {model}" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--",),
        ("--", "/bin/echo"),
        ("/bin/echo",),
        ("1:2:/x",),
        ("/x", "--", "/bin/echo"),
        ("1:2:x", "--", "/bin/echo"),
    ],
    ids=repr,
)
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    done = gate(*arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: cannot start: ")


def test_no_program(model: Path) -> None:
    done = gate(checked(model), "--", "/nonexistent")
    assert (done.returncode, "cannot execute /nonexistent" in done.stderr) == (1, True)


# -- the filter of system calls ----------------------------------------------------------------

# What a hostile program tries; "done" where it works.
ATTEMPTS = """\
import ctypes, errno, json, os, socket, sys
inet, unix = socket.AF_INET, socket.AF_UNIX
stream, datagram, packets = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
fast_open = 0x20000000
port, path, abstract = int(sys.argv[1]), sys.argv[2], "\\0" + sys.argv[3]
address = ("127.0.0.1", port)

def listen():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.getsockname()

def ring():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 1, ctypes.create_string_buffer(120)) < 0:
        raise OSError(ctypes.get_errno(), "")

def pair():
    one, two = socket.socketpair()
    one.sendmsg([b"x"])
    assert two.recv(2) == b"x"

attempts = {
    "listen": listen,
    "pair": pair,
    "tcp": lambda: socket.socket(inet, stream).connect(address),
    "unix": lambda: socket.socket(unix, stream).connect(path),
    "abstract": lambda: socket.socket(unix, stream).connect(abstract),
    "udp": lambda: socket.socket(inet, datagram).sendto(b"x", address),
    "unix datagram": lambda: socket.socket(unix, datagram),
    "datagram pair": lambda: socket.socketpair(unix, datagram),
    "multipath tcp": lambda: socket.socket(inet, stream, 262),
    "sctp": lambda: socket.socket(inet, stream, 132),
    "raw": lambda: socket.socket(inet, socket.SOCK_RAW, 1),
    "sendto": lambda: socket.socket(inet, stream).sendto(b"x", fast_open, address),
    "sendmsg": lambda: socket.socket(inet, stream).sendmsg([b"x"], [], fast_open, address),
    "ring": ring,
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
child = os.fork()
if not child:
    try:
        attempts["tcp"]()
    except OSError:
        os._exit(7)
    os._exit(0)
found["tcp by a child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""


def test_a_program_reaches_nobody(model: Path, tmp_path: Path) -> None:
    """It may listen. What works without the filter shows that the attempts are good ones."""
    name = f"magi-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as file,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        file.bind(str(tmp_path / "s"))
        abstract.bind(f"\0{name}")
        for sock in (file, abstract):
            sock.listen()
        where = [str(tcp.getsockname()[1]), str(tmp_path / "s"), name]
        program = [sys.executable, "-I", "-c", ATTEMPTS, *where]
        free = subprocess.run(program, capture_output=True, check=True, timeout=DEADLINE_S)
        shut = gate(checked(model), "--", *program)
    could, found = json.loads(free.stdout), json.loads(shut.stdout)
    assert {"listen", "pair", "tcp", "unix", "abstract", "udp"} <= {
        name for name, outcome in could.items() if outcome == "done"
    }
    assert could["tcp by a child"] == 0
    assert found == {
        "listen": "done", "pair": "done",
        "tcp": "ENOENT", "unix": "ENOENT", "abstract": "ENOENT", "tcp by a child": 7,
        "udp": "EACCES", "unix datagram": "EACCES", "datagram pair": "EACCES",
        "multipath tcp": "EACCES", "sctp": "EACCES", "raw": "EACCES",
        "sendto": "EPERM", "sendmsg": "EPERM", "ring": "ENOSYS",
    }  # fmt: skip


@pytest.mark.skipif(not can_bind_only(), reason="this kernel has no Landlock that knows ports")
@pytest.mark.parametrize("serves", [True, False])
def test_a_program_that_reaches_one_port(
    model: Path, tmp_path: Path, free_port: Callable[[], int], *, serves: bool
) -> None:
    """Over IPv4 only. A name of 13 bytes makes an abstract address as long as one of IPv4."""
    name = f"m{os.getpid():012}"
    own = [f"bind:{free_port()}"] if serves else []
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX) as file,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        file.bind(str(tmp_path / "s"))
        abstract.bind(f"\0{name}")
        for sock in (file, abstract):
            sock.listen()
        port, third = tcp.getsockname()[1], other.getsockname()[1]
        found = []
        for tried in (port, third):
            where = [str(tried), str(tmp_path / "s"), name]
            program = [sys.executable, "-I", "-c", ATTEMPTS, *where]
            done = gate(*own, f"connect:{port}", checked(model), "--", *program)
            found.append(json.loads(done.stdout))
    assert (found[0]["tcp"], found[0]["tcp by a child"]) == ("done", 0)
    assert (found[1]["tcp"], found[1]["tcp by a child"]) == ("EACCES", 7)
    for one in found:
        assert (one["unix"], one["udp"]) == ("EACCES" if serves else "ENOENT", "EACCES")
        assert (one["sendto"], one["sendmsg"], one["ring"]) == ("EPERM", "EPERM", "ENOSYS")
        assert one["pair"] == "done"
        if serves:
            assert one["abstract"] == "EACCES"


REFUSED = """\
import sys; sys.path.append(sys.argv[1]); import call_filters as c
rules = c.filter_for(__import__("platform").machine())
for work in (lambda: c.install(rules * 500), lambda: c._check(c._prctl(99999))):
    try:
        work()
    except OSError as error:
        print(error.strerror)
"""


def test_a_filter_that_the_kernel_refuses_is_an_error() -> None:
    """By more instructions than it takes; and no option of prctl(2)."""
    program = [sys.executable, "-I", "-S", "-c", REFUSED, str(GATE.parent)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.stdout, done.stderr) == ("Invalid argument\n" * 2, "")


BINDS = """\
import errno, json, socket, sys
found = {}
for port in map(int, sys.argv[1:]):
    for host in ("127.0.0.1", "::1"):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            try:
                sock.bind((host, port))
                sock.listen()
                found[f"{host} {port}"] = "done"
            except OSError as error:
                found[f"{host} {port}"] = errno.errorcode[error.errno]
print(json.dumps(found))
"""


@pytest.mark.skipif(not can_bind_only(), reason="this kernel has no Landlock that knows ports")
def test_a_program_has_its_own_port_only(model: Path, free_port: Callable[[], int]) -> None:
    own, other = free_port(), free_port()
    ports = [str(port) for port in (own, other, 0)]
    done = gate(f"bind:{own}", checked(model), "--", sys.executable, "-I", "-c", BINDS, *ports)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert {name: found[name] for name in found if name.endswith(f" {own}")} == {
        f"127.0.0.1 {own}": "done",
        f"::1 {own}": "done",
    }
    assert {found[name] for name in found if not name.endswith(f" {own}")} == {"EACCES"}
    done = gate("bind:none", checked(model), "--", sys.executable, "-I", "-c", BINDS, *ports)
    assert set(json.loads(done.stdout).values()) == {"EACCES"}


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", ""])
def test_what_is_no_port(model: Path, port: str) -> None:
    done = gate(f"bind:{port}", checked(model), "--", "/bin/echo")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"error: cannot start: {port!r} is no port\n"


def verdict(machine: str, call: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would make of a call: the error's number, 0 if it is allowed."""
    rules = filter_for(machine)
    arch = rules[1][3] if architecture is None else architecture
    data = {0: call, 4: arch} | {16 + 8 * n: value for n, value in enumerate(arguments)}
    at, value = 0, 0
    while True:
        code, true, false, operand = rules[at]
        match code:
            case 0x20:
                value = data.get(operand, 0)
            case 0x54:
                value &= operand
            case 0x06:
                return 0 if operand == 0x7FFF0000 else operand & 0xFFFF
            case 0x15:
                at += true if value == operand else false
            case 0x35:
                at += true if value >= operand else false
            case 0x45:
                at += true if value & operand else false
            case _:
                raise AssertionError(hex(code))
        at += 1


NUMBERS = {  # asm/unistd.h of both
    "x86_64": {"read": 0, "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "bind": 49},
    "aarch64": {"read": 63, "socket": 198, "connect": 203, "accept": 202, "sendto": 206,
                "bind": 200},
}  # fmt: skip


@pytest.mark.parametrize("machine", NUMBERS)
def test_the_filter_of_each_machine(machine: str) -> None:
    number = NUMBERS[machine]
    for name in ("read", "accept", "bind"):
        assert verdict(machine, number[name]) == 0, name
    assert verdict(machine, number["connect"]) == errno.ENOENT
    stream, cloexec = socket.SOCK_STREAM, socket.SOCK_CLOEXEC
    assert verdict(machine, number["socket"], socket.AF_INET, stream | cloexec, 0) == 0
    assert verdict(machine, number["socket"], socket.AF_INET6, stream, 6) == 0
    assert verdict(machine, number["socket"], socket.AF_INET, 2, 17) == errno.EACCES
    assert verdict(machine, number["socket"], socket.AF_INET, stream, 132) == errno.EACCES
    assert verdict(machine, number["sendto"], 3, 0, 0, socket.MSG_NOSIGNAL) == 0
    assert verdict(machine, number["sendto"], 3, 0, 0, 0x2000_0000) == errno.EPERM
    assert verdict(machine, 425) == errno.ENOSYS
    # Another numbering of the same machine.
    assert verdict(machine, 0x4000_0000 | number["connect"]) == errno.ENOSYS
    assert verdict(machine, number["read"], architecture=0x40000003) == errno.EPERM


# -- the key -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n", " \n\n", "short", None])
def test_no_program_without_its_key(model: Path, tmp_path: Path, content: str | None) -> None:
    """An empty file would open llama-server to everybody."""
    key = tmp_path / "key"
    if content is not None:
        key.write_text(content)
    done = gate(checked(model), "--", "/bin/echo", "--api-key-file", str(key))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cannot start without a key: {key}")


def test_a_program_with_its_key(model: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 43)
    done = gate(checked(model), "--", "/bin/echo", "--api-key-file", str(key))
    assert (done.returncode, done.stderr) == (0, "")
    assert gate(checked(model), "--", "/bin/echo", "--api-key-file").returncode == 1


# -- who watches ---------------------------------------------------------------------------------

# Prints which other processes' memory it could write to.
MEMORIES = """\
#!/usr/bin/python3 -IS
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        try:
            os.close(os.open(f"/proc/{name}/mem", os.O_RDWR))
            print(name)
        except OSError:
            pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run it as a user of its own")
def test_the_server_cannot_use_who_watches_it() -> None:
    """That process has the server's user and none of the filters: it may connect.

    Where the kernel has Landlock, that keeps them apart too; so this is without `bind:`.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for script in ("exec_model.py", "before_exec.py", "call_filters.py", "wait_ready.py"):
            shutil.copy(GATE.with_name(script), folder)
        program, key, model = folder / "program", folder / "key", folder / "m.gguf"
        program.write_text(MEMORIES)
        program.chmod(0o755)
        key.write_text("k" * 40)
        model.write_bytes(b"GGUF")
        words = ["ready:20:0.1", checked(model), "--", str(program), "--host", "127.0.0.1"]
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-S", str(folder / "exec_model.py"), *words,
             "--port", "1", "--api-key-file", str(key)],
            user=NOBODY, group=NOBODY, extra_groups=[], env={"NOTIFY_SOCKET": "/nonexistent"},
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
