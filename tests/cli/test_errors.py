"""What goes wrong: wrong words, no daemon, and something else that answers."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.magictl import HEAD, HOSTILE, Type, magictl, strange
from tests.support.rest import ALPHA, DEEPSEEK
from tests.support.running import Running

pytestmark = pytest.mark.slow

USAGE = "cannot read the command line"
NEAR = (
    "magictl: cannot find model '{0}'\nnone of the 5 models matches it\n"
    f"did you mean '{ALPHA}'?\ntry: magictl ls\n"
)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("show nothing", 4, "magictl: cannot find model 'nothing'"),
        ("start nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs -f nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs nothing -n 0", 1, "magictl: cannot read lines='0'"),
        ("profile show nothing", 4, "magictl: cannot find profile 'nothing'"),
        ("profile activate ../../etc/passwd", 4, "magictl: cannot find profile"),
        ("show ../../livez?x=#y%00", 4, "magictl: cannot find model '../../livez?x=#y%00'"),
        (f"start {ALPHA} --timeout=-1", 2, f"magictl start: {USAGE}\nargument -t/--timeout: '-1' "),
        (
            f"restart {ALPHA} -t 2h",
            2,
            f"magictl restart: {USAGE}\nargument -t/--timeout: '2h' sh",
        ),
        (
            "create x",
            2,
            f"magictl: {USAGE}\nunknown command 'create'\ntry: put the GGUF file into a ",
        ),
        ("inspect x", 2, f"magictl: {USAGE}\nunknown command 'inspect'\ntry: magictl show MODEL\n"),
        ("help dance", 2, f"magictl: {USAGE}\nunknown command 'dance'"),
        ("config gatway", 2, "magictl: cannot show 'gatway'\nknown are model_paths, "),
        (
            "start",
            2,
            "magictl: cannot start without a model\nnone is named\ntry: magictl start MOD",
        ),
        (
            "stop --all",
            2,
            "magictl: cannot stop all servers\nstandard input is not a terminal\ntry: the same",
        ),
        (f"stop --all --yes {ALPHA}", 2, "magictl: cannot stop some and all\ngive models or --all"),
        ("profile show", 2, f"magictl profile show: {USAGE}\nthe following arguments are requi"),
        ("", 2, f"magictl: {USAGE}\nthe following arguments are required: VERB\ntry: magictl --"),
        ("dance", 2, f"magictl: {USAGE}\nunknown command 'dance'\ntry: "),
        ("stat", 2, f"magictl: {USAGE}\nunknown command 'stat'; did you mean 'status'?\ntry: "),
        (f"tier {ALPHA} hug", 2, f"magictl tier: {USAGE}\nunknown tier 'hug'; choose from fa"),
        (f"tier {ALPHA} fsat", 2, f"magictl tier: {USAGE}\nunknown tier 'fsat'; did you mean "),
        ("profile shoe x", 2, f"magictl profile: {USAGE}\nunknown command 'shoe'; did you mean"),
        ("show alpah", 4, NEAR.format("alpah")),
        ("show alpha_instrukt_0p0b_q40_fast", 4, NEAR.format("alpha_instrukt_0p0b_q40_fast")),
        (
            "profile show tset",
            4,
            "magictl: cannot find profile 'tset'\nno profile has this",
        ),
        (f"set {ALPHA} ctxsizes=1", 2, "magictl: cannot set 'ctxsizes'\nknown are nGpuLayers, dev"),
        (
            f"set {ALPHA} ctxSize",
            2,
            "magictl: cannot set ctxSize\nit has no value; give ctxSize=",
        ),
        (
            f"set {ALPHA} ctxSize=big",
            2,
            "magictl: cannot set ctxSize=big\nit must be a whole number",
        ),
        (
            f"set {ALPHA} extraArgs=--rpc",
            1,
            "magictl: cannot use '--rpc' (extraArgs[0])\n--rpc makes ",
        ),
        ("wait nothing", 4, "magictl: cannot find model 'nothing'"),
        (f"wait {DEEPSEEK} --timeout 2", 124, f"magictl: cannot wait longer for {DEEPSEEK}\nit "),
        ("run nothing Hello", 4, "magictl: cannot find model 'nothing'\nnone of the 5 models"),
        ("--request-timeout nan ls", 2, f"magictl: {USAGE}\nargument --request-timeout: 'nan' sh"),
        ("top --every 0", 2, f"magictl top: {USAGE}\nargument --every: '0' should be a time "),
        (
            f"run {ALPHA}",
            2,
            f"magictl: cannot ask {ALPHA}\nstandard input is empty\ntry: magictl run",
        ),
    ],
)
def test_errors(type_in: Type, line: str, status: int, said: str) -> None:
    done = type_in(line, status)
    assert done.stdout == ""
    assert done.stderr.startswith(said)


@pytest.mark.parametrize(
    "line",
    ["logs nothing --since x", "logs --since yesterday", "logs -n 0",
     f"set {ALPHA} ctxSize=-7", "profile activate ../x", f"start {DEEPSEEK}", "logs -f nothing"],
)  # fmt: skip
def test_what_magid_refuses_is_told_in_three_lines(magid: Running, line: str) -> None:
    done = magictl(*line.split(), url=magid.url)
    what, why, advice = done.stderr.splitlines()
    assert what.startswith("magictl: cannot ")
    assert why
    assert advice.startswith("try: ")


def test_the_unix_socket(magid: Running) -> None:
    path = magid.folder / "magid.sock"
    assert magictl("status", url=f"unix:{path}").returncode == 0
    assert magictl("--url", f"unix:{path}", "ps", url="http://127.0.0.1:1").returncode == 0


@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}", "unix:{folder}/none", "unix:{stale}"])
def test_no_daemon(free_port: Callable[[], int], tmp_path: Path, where: str) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    url = where.format(port=free_port(), folder=tmp_path, stale=stale)
    for words in (["status"], ["logs", "-f", "x"]):
        done = magictl(*words, url=url)
        assert (done.returncode, done.stdout) == (1, "")
        what, why, advice = done.stderr.splitlines()
        assert what == f"magictl: cannot reach magid at {url}"
        assert why in ("Connection refused", "No such file or directory")
        assert advice == "try: systemctl status magid, or give --url"


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "localhost:8000", "https://host/x", "http://host:99999", "http://",
     "http://host/prefix", "ftp://host", "http://[::1"],
)  # fmt: skip
def test_a_url_that_cannot_be_used(url: str) -> None:
    done = magictl("status", url=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"magictl: cannot use '{url}'\ngive https://HOST:PORT, http://HOST:PORT or unix:/PATH\n"
        "try: --url http://127.0.0.1:8000\n"
    )


LINE = json.dumps({"message": f"log {HOSTILE} line\tend"})
SPOKEN = json.dumps({"choices": [{"delta": {"content": f"log {HOSTILE} line"}}]})
SEVERAL = json.dumps({"lines": [
    {"timestamp": "T", "level": "error", "message": "one\r\ntwo\n\n\x1b[2J"},
]}).encode()  # fmt: skip
LINES = b'{"lines": [%s]}' % LINE.encode()


@pytest.mark.parametrize(
    ("answer", "line", "status", "stdout", "stderr"),
    [
        (b"SSH-2.0-x\r\n", "status", 1, "", "cannot reach magid"),
        (b"", "status", 1, "", "cannot reach magid"),
        (HEAD % 9 + b"<html>...", "status", 1, "", "cannot understand what answers"),
        (HEAD % 90 + b"{", "status", 1, "", "cannot understand what answers"),
        (b"HTTP/1.1 500 x\r\n\r\n[]", "status", 1, "", "what answers sent status 500"),
        (HEAD % len(LINES) + LINES, "logs x", 0, "log ?[2J??31m line      end\n", ""),
        (HEAD % len(SEVERAL) + SEVERAL, "logs", 0, "T error: one?\n  two\n  \n  ?[2J\n", ""),
        (
            b"HTTP/1.1 200 OK\r\n\r\nevent: log\nid: 1\ndata: " + LINE.encode() + b"\n\n",
            "--request-timeout 2 logs x -f", 124, "log ?[2J??31m line      end\n", "no answer in",
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\ndata: " + SPOKEN.encode() + b"\n\ndata: [DONE]\n\n",
            "run x Hello", 0, "log ?[2J??31m line\n", "",
        ),
        (
            b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": {"message": "cannot go on: lost"}}\n\n',
            "run x Hello", 1, "", "magictl: cannot go on\nlost\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nev",
            "logs x -f", 1, "", "ended the stream",
        ),
        (
            b"HTTP/1.1 404 x\r\n\r\n" + json.dumps({"message": f"a{HOSTILE}\nb"}).encode(),
            "show x", 4, "", "magictl: a?[2J??31m\nb\n",
        ),
    ],
)  # fmt: skip
def test_strange_answers(answer: bytes, line: str, status: int, stdout: str, stderr: str) -> None:
    with strange(answer) as url:
        done = magictl(*line.split(), url=url)
    assert done.returncode == status, done
    wanted = stdout.splitlines()  # who follows asks again and again
    assert done.stdout.splitlines()[: len(wanted) or 1] == wanted
    assert stderr in done.stderr
    assert "Traceback" not in done.stderr
