"""TLS: certificates that cannot be used, and a daemon whose certificate changes under way."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from magid.api.tls import Certificate
from magid.errors import InvalidConfig
from tests.support import fleets, ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import ROOT, Running

pytestmark = pytest.mark.slow


def make_pair(folder: Path, *more: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", pair[0], "-keyout", pair[1],
         *(more or ["-noenc"])],
        check=True, capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip
    return pair


# -- what cannot be used -----------------------------------------------------------------------


def test_what_is_no_pair_is_refused_with_the_remedy(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path / "one")
    other = make_pair(tmp_path / "other")[1]
    secret = make_pair(tmp_path / "secret", "-passout", "pass:word")[1]
    assert Certificate(cert, key).context.minimum_version is ssl.TLSVersion.TLSv1_2
    empty = tmp_path / "empty"
    empty.touch()
    for pair, why in (
        ((cert, other), "key values mismatch; check that the two are PEM and a pair"),
        ((cert, empty), "check that the two are PEM and a pair"),
        ((empty, key), "check that the two are PEM and a pair"),
        ((cert, secret), "the key needs a password; remove it: openssl pkey -in"),
        ((cert, tmp_path / "none"), "none: No such file or directory; let the user that runs"),
    ):
        with pytest.raises(InvalidConfig) as caught:
            Certificate(*pair)
        assert caught.value.message.startswith(f"cannot use the certificate {pair[0]} with the key")
        assert why in caught.value.message


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_a_daemon_with_a_bad_pair_ends_with_the_reason(
    parts: Parts, tmp_path: Path, arguments: list[str]
) -> None:
    cert, key = make_pair(tmp_path)
    running = parts.daemon(tmp_path / "daemon", f"tls_cert: {cert}\ntls_key: {key}\n")
    key.write_text("no key")
    done = subprocess.run(
        [sys.executable, "-m", "magid", *arguments],
        cwd=ROOT, env=running.environment, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert f"cannot use the certificate {cert} with the key {key}" in done.stderr


# -- a daemon ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With TLS, a model, and a unix socket, which has none; its client trusts its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = make_pair(folder)
    running = parts.daemon(folder / "daemon", f"tls_cert: {cert}\ntls_key: {key}\n")
    running.listen_locally()
    (running.profiles / "test.yaml").write_text(fleets.PROFILE)
    fleets.write_small(running.models)
    running.use_tls(cert)
    with running, running.client:
        running.wait_ready()
        yield running
        assert "Traceback" not in running.log.read_text()


def trusting(magid: Running) -> ssl.SSLContext:
    assert isinstance(magid.trusted, ssl.SSLContext)
    return magid.trusted


def certificate_seen(magid: Running, name: str | None = None) -> bytes:
    """By a client that names this host; None: none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        rest.connect(magid.port) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def test_an_sdk_over_tls_with_a_token(magid: Running) -> None:
    token = magid.make_token("sdk", "infer")
    try:
        with (
            openai.DefaultHttpxClient(verify=magid.trusted, trust_env=False) as client,
            openai.OpenAI(base_url=f"{magid.url}/v1", api_key=token, http_client=client) as ai,
        ):
            stream = ai.chat.completions.create(
                model="fast", messages=[{"role": "user", "content": "Hello"}], max_tokens=4,
                stream=True,
            )  # fmt: skip
            text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
            assert text == "I am a tiny"
    finally:
        (magid.state / "tokens.json").unlink()
        reload(magid)
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{magid.url}/livez", timeout=DEADLINE_S, trust_env=False)


def reload(magid: Running) -> None:
    """SIGHUP; returns when magid has read everything anew."""
    assert magid.process
    transport = httpx.HTTPTransport(uds=f"{magid.folder}/magid.sock")
    with (
        httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE_S) as local,
        local.stream("GET", "/api/events") as answer,
    ):
        lines = answer.iter_lines()
        assert "event: snapshot" in lines
        name = f"New{len(list(magid.models.iterdir()))}-4B-Q2_K.gguf"
        ggufs.write_sparse_model(magid.models / name, parameters_billions=4.0, quantization="Q2_K")
        magid.process.send_signal(signal.SIGHUP)
        assert "event: registry" in lines  # of the scan, which comes last


def test_a_refusal_before_the_body_has_come(magid: Running) -> None:
    """Over TLS a connection has no half that could be closed."""
    with (
        rest.connect(magid.port) as plain,
        trusting(magid).wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = rest.until_closed(secured)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]


def test_neither_old_versions_nor_plain_http(magid: Running) -> None:
    old = ssl.create_default_context(cafile=str(magid.folder.parent / "cert.pem"))
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with rest.connect(magid.port) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname="localhost")
    with rest.connect(magid.port) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in rest.until_closed(plain)
    with socket.socket(socket.AF_UNIX) as local:
        local.settimeout(DEADLINE_S)
        local.connect(f"{magid.folder}/magid.sock")
        local.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert rest.until_closed(local).startswith(b"HTTP/1.1 200 ")


def test_magictl_over_tls(magid: Running) -> None:
    """With the file of the certificate, and a hint at it without."""
    command = [str(Path(sys.executable).with_name("magictl")), "--url", magid.url]
    cacert = str(magid.folder.parent / "cert.pem")
    for words, status, said in (
        (["version"], 0, ""),
        (["status"], 1, "--cacert FILE with the certificate that you trust"),
        (
            ["--cacert", "/nowhere", "status"],
            2,
            "cannot use the certificate /nowhere\nNo such file",
        ),
        (["--cacert", cacert, "ls"], 0, ""),
    ):
        done = subprocess.run(
            [*command, *words],
            env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip
        assert (done.returncode, said in done.stderr) == (status, True), done


def test_a_new_certificate_counts_from_the_reload_on(magid: Running) -> None:
    """With a name and without one; connections that exist go on; a bad pair changes nothing."""
    folder = magid.folder.parent
    first = (folder / "cert.pem").read_bytes()
    assert certificate_seen(magid) == ssl.PEM_cert_to_DER_cert(first.decode())
    before = magid.client.get("/livez").headers["x-request-id"]
    for path in make_pair(folder / "new"):
        path.rename(folder / path.name)
    second = ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())
    assert certificate_seen(magid) != second
    reload(magid)
    for name in (None, "localhost"):
        assert certificate_seen(magid, name) == second
    assert magid.client.get("/livez").headers["x-request-id"] != before  # on its old connection
    (folder / "cert.pem").write_bytes(first)  # no longer the one of this key
    reload(magid)
    assert certificate_seen(magid) == second
    assert "key values mismatch" in magid.log.read_text()


def test_magictl_without_tls_is_told_what_is_wrong(magid: Running) -> None:
    said = magictl("status", url=f"http://127.0.0.1:{magid.port}").stderr.splitlines()
    assert said == [
        f"magictl: cannot reach magid at http://127.0.0.1:{magid.port}",
        "this port speaks TLS; use https://",
        f"try: --url https://127.0.0.1:{magid.port}",
    ]
