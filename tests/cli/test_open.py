"""open: the address of the page."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.magictl import Done, magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = parts.daemon(tmp_path_factory.mktemp("open"))
    running.listen_locally()
    with running, running.client:
        yield running


def locally(magid: Running, line: str) -> Done:
    return magictl(*line.split(), url=f"unix:{magid.folder}/magid.sock")


def signed_in(magid: Running, address: str) -> dict[str, object]:
    """What a browser is that follows this address."""
    link = address.partition("#link=")[2]
    found = httpx.post(f"{magid.url}/api/session", json={"link": link}, trust_env=False)
    assert found.status_code == 200, found.text
    shown: dict[str, object] = found.json()
    return shown


def test_the_address_and_the_link(magid: Running) -> None:
    """In one test, because a token that was made once shuts the port."""
    done = locally(magid, "open")
    assert (done.stdout, done.stderr) == (f"{magid.url}/\n", "")
    assert magictl("open", url=magid.url).stdout == f"{magid.url}/\n"

    token = magid.make_token("viewer", "read")
    done = locally(magid, "open")
    assert done.stdout.startswith(f"{magid.url}/#link=")
    assert "once, within two minutes" in done.stderr
    shown = signed_in(magid, done.stdout.strip())
    assert (shown["access"], shown["name"]) == ("admin", "uid 0")

    done = locally(magid, "open --as viewer --at https://gpu1.example.org/magi --json")
    answer = json.loads(done.stdout)
    assert answer["url"].startswith("https://gpu1.example.org/magi/#link=")
    assert signed_in(magid, answer["url"])["name"] == "viewer"

    assert locally(magid, "open --as gone").returncode == 4
    assert locally(magid, "open --at gpu1").returncode == 2
    done = magictl("open", url=magid.url, MAGI_TOKEN=token)
    assert done.stdout == f"{magid.url}/\n"
    assert "asks for a token" in done.stderr
    assert magictl("open", "--as", "viewer", url=magid.url, MAGI_TOKEN=token).returncode == 1
