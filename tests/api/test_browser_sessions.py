"""Sessions in a real browser: other pages can do nothing with them, and nothing of them stays."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from tests.support import attacks, browser, bundles, fleets
from tests.support.attacks import BLIND, EVIL, LOADED, PAGE, READ, Rebinding
from tests.support.browser import Site
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

# In the place of the page: signs in with the link, changes and reads something, and goes on with
# what it has found in the address. With `out` it signs out before.
SCRIPT = """
const given = new URLSearchParams(location.hash.slice(1));
const headers = { "Content-Type": "application/json", "X-Magi-Page": "1" };
const found = {};
async function ask(name, method, path, options) {
  try {
    found[name] = (await fetch(path, { method, headers, ...options })).status;
  } catch {
    found[name] = "failed";
  }
}
const link = JSON.stringify({ link: given.get("link") });
await ask("signedIn", "POST", "api/session", { body: link });
await ask("changed", "PUT", `api/models/${given.get("model")}/tier`, { body: '{"tier":"fast"}' });
await ask("read", "GET", "api/tokens");
await ask("asked", "GET", "v1/models");
found.cookie = document.cookie;
if (given.has("out")) {
  await ask("out", "DELETE", "api/session");
  await ask("after", "GET", "api/tokens", { cache: "force-cache" });
  await ask("cached", "GET", "api/tokens", { cache: "only-if-cached", mode: "same-origin" });
}
location.replace(`${given.get("next")}&${new URLSearchParams(found)}`);
"""
# Posts what the address has to its own site.
REPORT = b"""<script>
const found = Object.fromEntries(new URLSearchParams(location.search));
fetch("/", { method: "POST", body: JSON.stringify(found) });
</script>"""
WORKED = {"signedIn": "200", "changed": "200", "read": "200", "asked": "200", "cookie": ""}


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sessions")
    bundles.write(folder / "page", SCRIPT)
    with fleets.fleet(parts, folder, fleets.write_small, ports=2, locally=True) as magid:
        (magid.profiles / "other.yaml").write_text("name: Other\nenabled_models: []\n")
        magid.use_token(magid.make_token("boss", "admin"))
        yield magid


def signed_in(magid: Running, *more: str) -> str:
    """The address of magid's page, with a link that signs in; `next` is to follow."""
    with magid.local() as client:
        made = client.post("/api/session/links", json={}).json()
    return f"{magid.url}/{made['path']}&model={SMALL}{''.join(more)}"


def run(magid: Running, folder: Path, *more: str) -> dict[str, str]:
    """What the script has found."""
    site = Site(REPORT)
    try:
        following = urlencode({"next": f"http://127.0.0.1:{site.port}/?"})
        with browser.browser(f"{signed_in(magid, *more)}&{following}", folder, {}):
            found: dict[str, str] = site.found.get(timeout=DEADLINE_S)
            return found
    finally:
        site.close()


def test_the_page_can_do_it_and_reads_no_cookie(magid: Running, tmp_path: Path) -> None:
    """So that in the tests below it is magid that refuses, or keeps nothing."""
    assert run(magid, tmp_path) == WORKED


def test_nothing_stays_after_a_sign_out(magid: Running, tmp_path: Path) -> None:
    """Neither the session, nor an answer in the browser's cache."""
    after = {"out": "200", "after": "401", "cached": "failed"}
    assert run(magid, tmp_path, "&out=1") == {**WORKED, **after}


@pytest.mark.parametrize("name", ["127.0.0.1", EVIL])
def test_a_page_of_another_port_or_site_cannot_use_the_session(
    magid: Running, tmp_path: Path, name: str
) -> None:
    """From another port of the same host the browser sends the cookie: SameSite is no help."""
    magid.ask("PUT", f"/api/models/{SMALL}/tier", {"tier": None})
    site = Site(PAGE)
    try:
        before = attacks.state(magid)
        found = attacks.attack(
            site, f"http://{name}:{site.port}", magid.url, tmp_path, first=signed_in(magid)
        )
    finally:
        site.close()
    attacks.check(found, {"failed": READ | LOADED, "opaque": BLIND})
    # The page itself was signed in, and has changed the tier; nothing else has.
    assert attacks.state(magid) == ("fast", *before[1:])


def test_a_rebound_name_has_no_session(magid: Running, tmp_path: Path) -> None:
    magid.ask("PUT", f"/api/models/{SMALL}/tier", {"tier": None})
    site = Site(PAGE)
    rebinding = Rebinding(magid.port, site.port)
    try:
        before = attacks.state(magid)
        origin = f"http://rebound.{EVIL}:{magid.port}"
        found = attacks.attack(site, origin, origin, tmp_path, first=signed_in(magid))
    finally:
        rebinding.close()
        site.close()
    attacks.check(found, {"421": READ | BLIND, "failed": LOADED})
    assert attacks.state(magid) == ("fast", *before[1:])


def test_a_cookie_that_another_port_has_set_is_no_session(magid: Running, tmp_path: Path) -> None:
    """Session fixation: the browser does send what a page of another port has set before."""
    chosen = f"magi-session-{magid.port}={'A' * 43}"
    following = f"{signed_in(magid)}&{urlencode({'next': 'REPORT'})}"
    sets = (
        b"<script>if (location.search) {"
        + REPORT.removeprefix(b"<script>").removesuffix(b"</script>")
        + b"} else { document.cookie = '%s'; location.replace('%s'); }</script>"
        % (f"{chosen}; path=/".encode(), following.encode())
    )
    site = Site(sets)
    sets = sets.replace(b"REPORT", f"http%3A%2F%2F127.0.0.1%3A{site.port}%2F%3F".encode())
    site.page = sets
    try:
        with browser.browser(f"http://127.0.0.1:{site.port}/", tmp_path, {}):
            found = site.found.get(timeout=DEADLINE_S)
    finally:
        site.close()
    assert found == WORKED  # the sign-in has replaced the cookie
    headers = {"Cookie": chosen, "X-Magi-Page": "1"}
    answer = httpx.get(f"{magid.url}/api/tokens", headers=headers, trust_env=False)
    assert answer.status_code == 401
