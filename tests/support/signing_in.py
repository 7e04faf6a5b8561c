"""A browser that signs in to a daemon, as far as its cookies and headers go."""

import httpx

from tests.support.deadlines import DEADLINE_S
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
