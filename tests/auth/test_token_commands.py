"""`magictl token` against a running daemon, and while magid does not run."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.auth import token_store
from magid.cli import client as credentials
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


def magictl(*words: str, url: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **({"MAGI_URL": url} if url else {}), **more}
    return subprocess.run(
        [str(Path(sys.executable).with_name("magictl")), *words],
        env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def test_magictl_makes_shows_and_revokes_tokens(bare: Running, tmp_path: Path) -> None:
    socket = f"unix:{bare.folder}/magid.sock"
    made = magictl(
        "token", "create", "--name", "shell", "--scope", "read", "--scope", "infer",
        "--models", "fast", "qwen*", "--expires", "90d", url=socket,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert re.fullmatch(r"magi_[0-9a-f]{8}_[0-9A-Za-z]{43}", secret)
    unknown, once = made.stderr.splitlines()
    assert (unknown, once) == (
        "warning: 'qwen*' matches no model", "this is shown only once: keep it secret",
    )  # fmt: skip
    listed = magictl("token", "ls", url=socket).stdout
    row = next(line.split() for line in listed.splitlines() if line.startswith("shell "))
    assert row[1:3] == ["read,infer", "fast,qwen*"]
    assert row[5] == "-"
    assert secret[14:] not in listed
    file = tmp_path / "token"
    file.write_text(f"{secret}\n")
    for shown in ({"MAGI_TOKEN": secret}, {"MAGI_TOKEN_FILE": str(file)}):
        assert magictl("status", url=bare.url, **shown).returncode == 0
    for words in (["--token", secret], ["--token-file", str(file)]):
        assert magictl(*words, "status", url=bare.url).returncode == 0
    refused = magictl("rescan", url=bare.url, MAGI_TOKEN=secret)
    assert refused.returncode == 1
    assert "its scope is read, infer, but this needs admin" in refused.stderr
    assert magictl("token", "revoke", "shell", url=socket).stdout == "Token 'shell' revoked\n"
    gone = magictl("status", url=bare.url, MAGI_TOKEN=secret)
    assert gone.returncode == 1
    assert "is unknown, revoked or expired" in gone.stderr
    assert magictl("token", "revoke", "shell", url=socket).returncode == 4


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["token", "create", "--name", "x"], "arguments are required: --scope"),
        (["token", "create", "--scope", "read"], "arguments are required: --name"),
        (["token", "create", "--name", "x", "--scope", "read", "--expires", "soon"], "90d"),
        (["--token-file", "/nowhere", "status"], "cannot read the token in /nowhere\nNo such file"),
        (["--token-file", "/dev/null", "status"], "there is no token in it"),
    ],
)
def test_magictl_says_what_is_missing(words: list[str], why: str) -> None:
    done = magictl(*words, url="unix:/nowhere")
    assert done.returncode == 2
    assert why in done.stderr


@pytest.fixture
def crossable() -> Iterator[Path]:
    """A folder that other users get to: above tmp_path each session of pytest shuts them out."""
    with tempfile.TemporaryDirectory(prefix="magid-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_the_first_token_is_made_while_magid_does_not_run(parts: Parts, crossable: Path) -> None:
    """By root, for the user whom the state directory belongs to."""
    running = parts.daemon(crossable)
    path = running.state / token_store.NAME
    os.chown(running.state, 65534, 65534)
    words = ("token", "create", "--offline", "--name", "first", "--scope", "admin")
    environment = {"MAGI_CONFIG": str(running.configuration), "MAGI_STATE_DIR": str(running.state)}
    made = magictl(*words, **environment)
    assert made.returncode == 0, made.stderr
    assert path.stat().st_uid == 65534
    assert path.stat().st_mode & 0o777 == 0o600
    again = magictl(*words, **environment)
    assert again.returncode == 1
    assert "it exists already" in again.stderr
    second = magictl(*words[:4], "second", "--scope", "read", **environment)
    assert second.returncode == 0, second.stderr
    revoked = magictl("token", "revoke", "--offline", "nobody", "second", **environment)
    assert (revoked.returncode, revoked.stdout) == (4, "Token 'second' revoked\n")
    assert "cannot find token 'nobody'\nit does not exist\ntry: magictl token ls" in revoked.stderr
    offline = json.loads(magictl("token", "ls", "--offline", "--json", **environment).stdout)
    with running, running.client:
        assert running.client.get("/api/models/status").status_code == 401
        running.use_token(made.stdout.strip())
        listed = running.get("/api/tokens")
        assert offline.keys() == listed.keys()
        (before,), (now,) = offline["tokens"], listed["tokens"]
        assert before == now | {"lastUsedAt": None}
        assert running.get("/api/tokens")["tokens"][0]["name"] == "first"
        busy = magictl(*words, **environment)
        assert busy.returncode == 1
        assert busy.stderr.endswith("magid is running\ntry: omit --offline\n")


@pytest.mark.parametrize(
    ("url", "token", "host"),
    [
        ("http://192.0.2.1:8000", "t", "192.0.2.1"),
        ("HTTP://[2001:db8::1]:8000", "t", "2001:db8::1"),
        ("http://127.example:8000", "t", "127.example"),
        ("http://192.0.2.1:8000", None, ""),
        ("https://192.0.2.1:8000", "t", ""),
        ("http://127.0.0.1:8000", "t", ""),
        ("http://localhost", "t", ""),
        ("http://[::1]:8000", "t", ""),
        ("unix:/run/magi/magid.sock", "t", ""),
    ],
)
def test_a_token_in_clear_to_another_machine_is_warned_of(
    capsys: pytest.CaptureFixture[str], url: str, token: str | None, host: str
) -> None:
    credentials.warn(url, token)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        f"magictl: the token is sent to {host} unencrypted\n" if host else ""
    )
    assert bool(said.err) is bool(host)


def test_magictl_warns_once() -> None:
    words = ("--request-timeout", "0.5", "start", "a", "b")
    done = magictl(*words, url="http://192.0.2.1:8000", MAGI_TOKEN="t")
    assert done.stderr.count("unencrypted") == 1
    assert done.returncode in (1, 124)
