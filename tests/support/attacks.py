"""What pages of other sites try, in a real browser, and how each try has to end."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

from tests.support import browser
from tests.support.browser import Site
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.running import Running

PAGE = Path(__file__).with_name("attacks.html").read_bytes()
EVIL, OWN = "evil.example", "ui.example"
PLACE = "/attack"  # of the page; a rebound name leads there until the page has loaded
REBOUND = "127.0.0.2"  # where EVIL was before
PLACES = {EVIL: "127.0.0.1", OWN: "127.0.0.1", f"rebound.{EVIL}": REBOUND}


class Rebinding:
    """The daemon's port at another address: the page comes from the site, all else from the daemon.

    So it looks to a browser whose resolver is given another address once the page has loaded.
    """

    def __init__(self, daemon: int, site: int) -> None:
        self._ports = {True: site, False: daemon}
        self._listener = socket.create_server((REBOUND, daemon))
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        pumps = []
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                pumps.append(threading.Thread(target=self._relay, args=(client,)))
                pumps[-1].start()
        for pump in pumps:
            pump.join()

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(DEADLINE_S)
            first = client.recv(65536)
            port = self._ports[first.startswith(b"GET " + PLACE.encode())]
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as server:
                server.sendall(first)
                back = threading.Thread(target=pump, args=(server, client))
                back.start()
                pump(client, server)
                back.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def attack(site: Site, page: str, target: str, folder: Path, *, first: str = "") -> dict[str, str]:
    """How each try of the page at `page` has ended.

    `first` is a page that the browser opens before, and that goes on to the address in `next` of
    its fragment; then the tries send cookies where the browser lets them.
    """
    report = f"http://127.0.0.1:{site.port}/"
    url = f"{page}{PLACE}?target={target}&model={SMALL}&report={report}"
    if first:
        url = f"{first}&{urlencode({'next': f'{url}&credentials=include'})}"
    with browser.browser(url, folder, PLACES):
        found: dict[str, str] = site.found.get(timeout=DEADLINE_S)
        return found


def state(magid: Running) -> tuple[object, ...]:
    """All that a page could have changed or used."""
    shown = magid.get(f"/api/models/{SMALL}")
    return (
        shown["tierOverride"], magid.servers()[SMALL]["pid"], magid.get("/api/models/profiles"),
        magid.get("/api/models/status")["activeProfile"], magid.get("/api/requests")["requests"],
    )  # fmt: skip


# What a page can send without being asked whether it may, and cannot see the answer to.
BLIND = {"read blindly", "stop blindly", "stop all blindly", "activate blindly", "generate blindly"}
FRAMES = {"stop by a form", "generate by a form", "frame"}  # show a refusal, which no page can read
READ = {"read", "read with a header", "read the models", "generate", "decide", "delete"}
LOADED = {"image", "script", "events", "socket"}


def check(found: dict[str, str], expected: dict[str, set[str]]) -> None:
    """Every attack ended as its kind should."""
    ends = {name: end for end, names in expected.items() for name in names}
    assert found == {**ends, **dict.fromkeys(FRAMES, "load"), "beacon": "sent"}
