"""Waits until a daemon is ready, then prints commands to try on it: PID BIND STATE_DIR.

Ends at once when the daemon does, and after five minutes in any case. Standard library alone.
"""

import json
import os
import shutil
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

WAIT_SECONDS = 300
LOOK_SECONDS = 0.25
LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def base_url(bind: str) -> str | None:
    """The URL of the first TCP address in MAGI_BIND, None if there is none.

    A wildcard is reached on loopback.
    """
    for address in (part.strip() for part in bind.split(",")):
        host, _, port = address.rpartition(":")
        if port.isdecimal():
            return f"http://{LOOPBACK.get(host, host)}:{port}"
    return None


def commands(base: str, port: int | None, keys: Path, *, has_curl: bool = True) -> str:
    """What to type; `port` is a server's to chat with, if there is one."""
    lines = [
        f"curl {base}/readyz",
        f"curl {base}/api/models/registry",
        f"curl {base}/api/models/servers",
    ]
    if port is not None:
        question = '{"messages": [{"role": "user", "content": "Hello"}]}'
        lines.append(
            f'curl -H "Authorization: Bearer $(cat {keys}/{port}.key)" \\\n'
            f"    -d '{question}' http://127.0.0.1:{port}/v1/chat/completions"
        )
    lines.append(f"curl -X POST {base}/api/models/profiles/fast-only/activate")
    text = "\n".join(f"  {line}" for line in lines)
    return text if has_curl else f"{text}\ncurl is not installed: as root, run 'apt install curl'."


def answer(url: str) -> Any:
    """The parsed answer, or None: not there yet, or not 200. Never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return json.load(reply)
    except (OSError, ValueError):  # URLError and HTTPError are OSErrors
        return None


def chat_port(base: str) -> int | None:
    """The port of the first server that is ready and is a chat model's."""
    for server in (answer(f"{base}/api/models/servers") or {}).get("servers", []):
        model = answer(f"{base}/api/models/{server['modelId']}") or {}
        if server["isReady"] and model.get("kind") == "chat":
            return int(server["port"])
    return None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main(pid: int, bind: str, state: Path) -> None:
    base = base_url(bind)
    end = time.monotonic() + WAIT_SECONDS
    while base is not None and is_alive(pid) and time.monotonic() < end:
        if answer(f"{base}/readyz") is not None:
            keys, has_curl = Path(os.path.relpath(state / "keys")), bool(shutil.which("curl"))
            text = commands(base, chat_port(base), keys, has_curl=has_curl)
            print(f"\nmagid is ready; try:\n{text}\nCtrl-C ends it and its servers.\n", flush=True)
            return
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
