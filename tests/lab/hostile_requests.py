"""Requests to the launcher that ask for what magid may not have."""

import json
import random
from typing import Any

from tests.lab.serving import FILES

FOREIGN = 8095  # a port of magid's, whose unit another program has made
PATHS = (
    *("/etc/shadow", "/proc/self/mem", "/dev/zero", "/models", "/models/../etc/shadow.gguf"),
    *("/models/link.gguf", "/models/away/x.gguf", "/models/fifo.gguf", "/models/folder.gguf"),
    *(f"/models/{name}" for name in FILES * 4),
)
ARGUMENTS = (
    *("--host", "0.0.0.0", "--port", "22", "--api-key", "x", "--tools", "all", "--path", "/"),
    *(
        "--slot-save-path",
        "/etc",
        "--rpc",
        "10.0.0.1:1",
        "--log-file",
        "/etc/x",
        "-m",
        "/etc/shadow",
    ),
    *("--model=/etc/shadow", "--lora", "--media-path=/", "$HOME", "%i", ";id", "--temp", "0.1"),
)
PORTS = (22, 1024, 8000, 8079, *range(8083, 8090), FOREIGN, FOREIGN, 65_535, 65_536, -1, "ssh")


def hostile(dice: random.Random, good: dict[str, Any]) -> bytes:
    """One request: of the right form most often, and asking for what it may not have."""
    verb = dice.choice(
        ("start", "start", "start", "stop", "forget", "ping", "exec", "StartRequest")
    )
    port = dice.choice(PORTS)
    if verb in ("stop", "forget"):
        return json.dumps({"verb": verb, "port": port}).encode() + b"\n"
    spec = {**good["spec"], "port": port, "model_path": dice.choice(PATHS)}
    if dice.random() < 0.5:
        spec["extra_args"] = dice.choices(ARGUMENTS, k=dice.randint(1, 4))
    if dice.random() < 0.2:
        name = dice.choice([*spec, "ExecStart", "user"])
        spec[name] = dice.choice((None, -1, 2**70, "../../ssh", "a\nb", [], {}, True, "root"))
    line = bytearray(json.dumps({**good, "verb": verb, "spec": spec}).encode())
    if dice.random() < 0.1:
        line[dice.randrange(len(line))] = dice.randrange(128)
    return bytes(line).replace(b"\n", b" ") + b"\n"
