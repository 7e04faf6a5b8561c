"""Prints, as JSON, what this user or this unit can access. For the doctor.

    probe_sandbox.py reach FOLDER...    folders below these that cannot be listed, and why
    probe_sandbox.py read FILE...       files that cannot be read, and why
    probe_sandbox.py write FOLDER       whether a file can be created, synced and removed there
    probe_sandbox.py box PROGRAM FILE...    in a model's sandbox: which files and GPU nodes can be
                                        opened, whether packets to other machines are blocked, and
                                        the output of llama-server, run by exec_model.py as in a
                                        model's unit

Changes nothing but its own temporary file. Runs as `python3 -I -S` with the standard library only.
"""

import glob
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_FOLDERS = 5000
_MAX_OUTPUT = 256 * 1024
_RUN_S = 10  # a driver takes seconds to wake a GPU
NODES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/dri/renderD*", "/dev/kfd")
_OPTIONS = ("--version", "--help", "--list-devices")
_NOT_EXECUTED = "error: cannot execute "  # the beginning of exec_model.py's message
_ELSEWHERE = ("192.0.2.1", 9)  # TEST-NET-1 of RFC 5737: no machine has this address


def main(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["reach", *folders] if folders:
            answer: object = {folder: _reach(folder) for folder in folders}
        case ["read", *files] if files:
            answer = {
                file: (_why_not_opened(file, os.O_RDONLY), _closed_way(file) or file)
                for file in files
            }
        case ["write", folder]:
            answer = _write(folder)
        case ["box", program, *files]:
            answer = _box(program, files)
        case _:
            return 2
    sys.stdout.write(json.dumps(answer))
    return 0


# -- as another user -------------------------------------------------------------------------


def _reach(top: str) -> list[tuple[str, str]]:
    """Returns what cannot be read, and why: the first parent, or else folders below `top`."""
    for folder in _ways(top):
        if why := _why_not_entered(folder):
            return [(folder, why)]
    refused: list[tuple[str, str]] = []
    pending, seen = [top], 0
    while pending and seen < MAX_FOLDERS:
        folder = pending.pop()
        seen += 1
        try:
            with os.scandir(folder) as entries:
                pending += [e.path for e in entries if _is_folder(e)]
        except OSError as error:
            refused.append((folder, os.strerror(error.errno or 0)))
    return refused


def _ways(path: str) -> Iterator[str]:
    """Yields the parents of a path, from the top."""
    parts = path.strip("/").split("/")
    yield from ("/" + "/".join(parts[:n]) for n in range(1, len(parts)))


def _why_not_entered(folder: str) -> str:
    try:
        os.stat(f"{folder}/.")  # noqa: PTH116 - pathlib takes the dot away
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return entry.name[0] != "." and entry.is_dir(follow_symlinks=False)


def _write(folder: str) -> str:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


# -- in the sandbox --------------------------------------------------------------------------


def _box(program: str, files: Sequence[str]) -> dict[str, object]:
    nodes = sorted(path for pattern in NODES for path in glob.glob(pattern))  # noqa: PTH207
    return {
        "files": {path: _why_not_read(path) for path in files},
        "ways": {path: folder for path in files if (folder := _closed_way(path))},
        "nodes": {path: _why_not_opened(path) for path in nodes},
        "egress": _can_send(),
        "runs": _runs(program) if program else {},
    }


def _why_not_read(path: str) -> str:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return os.strerror(error.errno or 0)
    try:
        return "" if stat.S_ISREG(os.fstat(file).st_mode) else "it is not a regular file"
    finally:
        os.close(file)


def _closed_way(path: str) -> str:
    """Returns the first parent that cannot be entered; "" if all can."""
    return next((folder for folder in _ways(path) if _why_not_entered(folder)), "")


def _why_not_opened(path: str, how: int = os.O_RDWR) -> str:
    """For GPU nodes, EPERM is the sandbox's device list, EACCES the mode, ENXIO no driver."""
    try:
        os.close(os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _can_send() -> bool:
    """Whether a packet can be sent: IPAddressDeny= answers EPERM, a missing route also fails."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"", _ELSEWHERE)
        except OSError:
            return False
    return True


def _runs(program: str) -> dict[str, dict[str, object]]:
    """Runs the program with each option, in parallel: each run waits for GPU drivers."""
    started = {option: _started(program, option) for option in _OPTIONS}
    return {option: _ended(process) for option, process in started.items()}


def _started(program: str, option: str) -> "subprocess.Popen[bytes] | str":
    try:
        return subprocess.Popen(
            [*_exec_model(), program, option],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        return os.strerror(error.errno or 0)


def _exec_model() -> list[str]:
    """Returns the command that runs a program as in a model's unit, with this file to check."""
    own = Path(__file__).resolve()
    status = own.stat()
    checked = f"{status.st_dev}:{status.st_ino}:{own}"
    return [sys.executable, "-I", "-S", str(own.with_name("exec_model.py")), checked, "--"]


def _ended(process: "subprocess.Popen[bytes] | str") -> dict[str, object]:
    if isinstance(process, str):
        return {"status": None, "output": process}
    try:
        output, _ = process.communicate(timeout=_RUN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"status": None, "output": f"it did not end within {_RUN_S} s"}
    text = output[:_MAX_OUTPUT].decode(errors="replace")
    if process.returncode == 1 and text.startswith(_NOT_EXECUTED):
        return {"status": None, "output": text.rstrip("\n").rpartition(": ")[2]}
    return {"status": process.returncode, "output": text}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
