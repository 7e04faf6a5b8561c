"""A browser that signs in to a daemon, as far as its cookies and headers go."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.running import Running

PAGE = {"X-Magi-Page": "1", "Sec-Fetch-Site": "same-origin"}


class Browser:
    """Keeps cookies, and sends with each change what the page sends."""

    def __init__(self, magid: Running) -> None:
        origin = {"Origin": magid.url, **PAGE}
        self.client = httpx.Client(
            base_url=magid.url, headers=origin, timeout=DEADLINE_S, trust_env=False
        )

    def sign_in(self, **given: str) -> httpx.Response:
        return self.client.post("/api/session", json=given)

    def shown(self) -> dict[str, object]:
        answer = self.client.get("/api/session")
        assert answer.status_code == 200
        found: dict[str, object] = answer.json()
        return found

    def close(self) -> None:
        self.client.close()


def make_link(magid: Running, **body: str) -> dict[str, object]:
    with magid.local() as client:
        answer = client.post("/api/session/links", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


def statuses(browser: Browser) -> dict[str, int]:
    """What the session may do on both sides of the port."""
    client = browser.client
    chat = {"model": SMALL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return {
        "read": client.get("/api/models/status").status_code,
        "change": client.post("/api/models/apply?dryRun=true", json={}).status_code,
        "list": client.get("/v1/models").status_code,
        "ask": client.post("/v1/chat/completions", json=chat).status_code,
        "stop": client.post("/models/unload", json={"model": "none"}).status_code,
        "tokens": client.get("/api/tokens").status_code,
    }


SHUT = dict.fromkeys(("read", "change", "list", "ask", "stop", "tokens"), 401)


@contextmanager
def until_it_ends(browser: Browser, path: str) -> Iterator[None]:
    """A stream that has begun before the block; waits for its end behind it."""
    ended = threading.Event()
    begun = threading.Event()

    def watch() -> None:
        with browser.client.stream("GET", path) as answer:
            for _ in answer.iter_raw():
                begun.set()
        ended.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert begun.wait(DEADLINE_S)
    yield
    assert ended.wait(DEADLINE_S)
    thread.join()
